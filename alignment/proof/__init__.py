"""Proof that vidalign works on given weights: checks against the model's own pipeline, for `vidalign prove`."""
