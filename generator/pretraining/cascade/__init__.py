"""Training of the stages of a cascade: `vidalign pretrain --stage`."""
