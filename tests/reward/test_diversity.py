"""Diversity against a direct computation, and what it must notice."""

import itertools

import numpy as np
import pytest
import torch

from reward.diversity import distances, diversities, look


def videos(count: int, seed: int, spread: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [spread * (torch.rand(3, 5, 8, 8, generator=generator) * 2 - 1) for _ in range(count)]


def small(video: torch.Tensor) -> np.ndarray:
    frames = video[:, [0, 2, 4]].permute(1, 0, 2, 3)
    return (frames.reshape(3, 3, 4, 2, 4, 2).mean((3, 5)).numpy() + 1) / 2


def test_distances_are_the_root_mean_square_differences_of_small_pictures():
    made = videos(4, 0)
    found = distances([look(video) for video in made])
    for a, b in itertools.combinations(range(4), 2):
        expected = np.sqrt(((small(made[a]) - small(made[b])) ** 2).mean())
        assert found[a, b] == found[b, a] == pytest.approx(expected, abs=3e-3)  # 8 bits a value
    assert (np.diag(found) == 0).all()


def test_a_model_whose_seeds_agree_has_less_diversity_within_prompts():
    prompts = [f"p{i}" for i in range(8) for _ in range(3)]
    free = [look(video) for video in videos(24, 1)]
    alike = [row for row in free[::3] for _ in range(3)]
    found = diversities({"free": free, "alike": alike}, prompts, ["free"])
    assert found.within_prompts
    assert found.means["alike"].mean == pytest.approx(0.0, abs=1e-6)
    own = [distances(free[3 * i : 3 * i + 3])[np.triu_indices(3, 1)].mean() for i in range(8)]
    assert found.means["free"].mean == pytest.approx(np.mean(own))
    assert found.differences["free"]["alike"].high < 0


def test_one_video_a_prompt_is_compared_with_those_of_other_prompts():
    prompts = [f"p{i}" for i in range(12)]
    free, dull = ([look(video) for video in videos(12, 2, spread)] for spread in (1.0, 0.5))
    found = diversities({"free": free, "dull": dull}, prompts, ["free"])
    assert not found.within_prompts
    expected = distances(free)[np.triu_indices(12, 1)].mean()
    assert found.means["free"].mean == pytest.approx(expected)
    assert found.differences["free"]["dull"].mean == pytest.approx(
        distances(dull)[np.triu_indices(12, 1)].mean() - expected
    )
    assert found.differences["free"]["dull"].high < 0


def test_the_interval_between_prompts_holds_the_truth_about_as_often_as_it_says():
    # Points on a line, drawn anew: the mean distance of two uniform points is 1/3 of their range.
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, size=20_000)
    truth = np.abs(levels[::2] - levels[1::2]).mean() / 255
    hits = 0
    for trial in range(100):
        shades = rng.integers(0, 256, size=30)
        made = [look(torch.full((3, 3, 4, 4), shade / 127.5 - 1)) for shade in shades]
        interval = diversities({"m": made}, [f"p{i}" for i in range(30)], seed=trial).means["m"]
        hits += interval.low <= truth <= interval.high
    assert hits >= 88
