"""Random streams: their values are part of what a seed means, and no two of one key are equal."""

from __future__ import annotations

import numpy as np
import torch

from generator.seeds import ExampleStream, Stream, example_seeds


def test_the_values_of_the_streams_never_change() -> None:
    assert {stream.name: stream.value for stream in Stream} == {
        "PROMPTS": 1,
        "WINDOW": 2,
        "NOISE": 3,
        "ORDER": 4,
        "LEVELS": 5,
        "DEMONSTRATIONS": 6,
        "CRITIC_WEIGHTS": 7,
        "FIXED_DRAWS": 11,
        "LAST_STEP": 12,
        "CANDIDATES": 13,
        "CRITIC_ORDER": 20,
        "EVALUATION": 31,
        "CAPTION_MIX": 41,
    }
    assert {stream.name: stream.value for stream in ExampleStream} == {
        "LEVEL": 1,
        "CAPTION_DROPOUT": 2,
        "KEPT_TOKENS": 3,
    }


def test_no_two_streams_of_a_run_or_of_an_example_share_a_seed() -> None:
    for streams in (Stream, ExampleStream):
        assert len(streams.__members__) == len(list(streams)), "two names of one value"
        for place in range(20):
            seeds = [example_seeds(0, stream, place)[0] for stream in streams]
            assert len(set(seeds)) == len(seeds)


def test_a_stream_gives_the_seeds_of_its_number() -> None:
    rows = torch.tensor([[3], [9]])
    expected = [int(np.random.SeedSequence([5, 3, 2, row]).generate_state(1)[0]) for row in (3, 9)]
    assert example_seeds(5, Stream.NOISE, 2, rows=rows) == expected
    assert example_seeds(5, 3, 2, rows=rows) == expected
