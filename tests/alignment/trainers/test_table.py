"""The lines around a training: its figures when it ends."""

import math

from alignment.trainers.table import closing_figures


def test_a_training_ends_with_its_steps_its_time_and_its_first_and_last_figures() -> None:
    history = [
        {"step": 5, "loss": 0.9, "reward": 1.0},
        {"step": 10, "loss": math.nan, "reward": 1.5},
        {"step": 12, "loss": 0.45},
        {"step": 12, "eval_loss": 0.5},
        {"step": 12, "train_runtime": 83.2},
    ]
    said = "Trained 12 steps in 1 min 23 s: loss 0.9 → 0.45, reward 1 → 1.5, eval_loss 0.5."
    assert closing_figures(history) == said
    assert closing_figures([{"step": 3, "train_runtime": 9.6}]) == "Trained 3 steps in 10 s."
    assert closing_figures([{"step": 3, "train_runtime": 7300}]) == "Trained 3 steps in 2 h 1 min."
