"""The lines around a training: its figures when it ends."""

import math
import re

from alignment.trainers.table import closing_figures, training_compute
from generator.hardware.compute import video_work
from generator.testing import tiny_generator


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


def test_the_compute_of_a_training_is_three_forward_passes_of_its_examples() -> None:
    generator = tiny_generator()
    small, large = generator.latent_shape(1, 16, 16), generator.latent_shape(5, 16, 16)
    text = training_compute(generator, [(1, *small), (2, *large)], examples=10)
    found = re.search(r"about ([\d.]+) (\w?)FLOP", text)
    assert found
    operations = float(found[1]) * 1000 ** " KMGT".index(found[2])
    a_pair = video_work(generator, small) + 2 * video_work(generator, large)
    expected = 3 * 2 * 5 * a_pair * len(generator.blocks())
    assert math.isclose(operations, expected, rel_tol=0.01)
