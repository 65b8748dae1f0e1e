"""Trainers and their configurations: `x_config.py` and `x_trainer.py` for each method."""
