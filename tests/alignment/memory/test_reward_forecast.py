"""Memory of rewards by name while they judge, against what an H200 measured and against sums by hand."""

from __future__ import annotations

import pytest

from alignment.memory.reward_forecast import judging_memory
from reward.models.named.registry import ENTRIES, parse

SIZE = (81, 480, 832, 16.0)
FRAME = 4 * 3 * 480 * 832
"""Bytes of a frame in float32."""


@pytest.mark.parametrize(
    ("name", "at_a_time", "frames", "measured"),
    [
        # Peaks of `benchmarks.reward.named_throughput` (docs/rewards.md), less the weights.
        ("pickscore", 32, 8, 4.8 - 3.94),
        ("hpsv3", 4, 5, 16.3 - 15.5),
        ("hpsv3", 16, 5, 17.8 - 15.5),
    ],
)
def test_scoring_needs_what_was_measured(name: str, at_a_time: int, frames: int, measured: float) -> None:
    """There, the chosen frames of eight videos were copied, and passed the model so many at a time."""
    request = parse(f"{name}:frames={at_a_time}:batch_size={at_a_time}")
    more = (8 * frames - at_a_time) * FRAME
    assert (judging_memory(request, *SIZE).scoring + more) / 1e9 == pytest.approx(measured, rel=0.15)


def test_gradients_need_the_activations_of_four_frames_at_most() -> None:
    """Of a frozen CLIP-H layer autograd keeps the inputs of both norms, queries, keys, values, output and its log-sums,
    and the input of the activation, four times as wide: about 10 times 257 tokens of 1280 numbers."""
    one, four, eight = (judging_memory(parse(f"pickscore:frames={count}"), *SIZE) for count in (1, 4, 8))
    assert one.gradients == pytest.approx(32 * 10 * 257 * 1280 * 4, rel=0.15)
    assert four.gradients == pytest.approx(4 * one.gradients, rel=0.05)
    assert eight.gradients - four.gradients < 0.05 * four.gradients
    half = judging_memory(parse("pickscore:frames=4:dtype=bfloat16"), *SIZE)
    assert half.gradients == pytest.approx(four.gradients / 2, rel=0.05)
    assert eight.scoring < 0.2 * eight.gradients


def test_every_name_with_weights_and_no_other_is_forecast() -> None:
    for entry in ENTRIES:
        if entry.name == "hpsv3":  # above
            continue
        place = ":http://localhost:1/v1" if entry.served else ""
        option = ":target=0.2" if entry.name == "motion" else ""
        found = judging_memory(parse(f"{entry.name}{option}{place}"), *SIZE)
        assert (found.scoring > 0) == (bool(entry.weights) and not entry.served), entry.name
        assert (found.gradients > found.scoring) == (entry.gradients and bool(entry.weights)), entry.name
