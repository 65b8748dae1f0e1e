"""The reward of a rewritten prompt: its video by the original prompt, with the group's noise, less what it drops."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignment.rewriting.video_reward import VideoReward, claim_recall, recall_for, word_recall
from alignment.rollouts.reward_mixture import RewardMixture
from generator.generation import GenerationSettings
from generator.seeds import Stream, example_seeds
from generator.testing import tiny_generator
from reward.models.base import FunctionReward

SIZE: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}
END = 7


class Asked:
    """A reward that notes what it judges."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, videos: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.prompts += prompts
        return videos.mean((1, 2, 3, 4))


def _rewards(
    texts: Sequence[str],
    original: Sequence[str],
    indices: Sequence[int],
    step: int = 3,
    cut: Sequence[int] = (),
    **options: Any,
) -> tuple[list[float], Asked, dict[str, float]]:
    asked, logged = Asked(), {}
    options = {"kept": lambda one, other: 1.0, **options}
    reward = VideoReward(
        tiny_generator(),
        RewardMixture([FunctionReward(asked, "mean")]),
        GenerationSettings(**SIZE, batch_size=3),
        {END},
        seed=5,
        **options,
    )
    found = reward(
        prompts=[None] * len(texts),
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1, 2] if row in cut else [1, END] for row in range(len(texts))],
        original=original,
        prompt_index=indices,
        trainer_state=SimpleNamespace(global_step=step),
        log_metric=lambda name, value: logged.update({name: value}),
        further_column=[0] * len(texts),
    )
    return found, asked, logged


def _video_mean(text: str, index: int, step: int = 3, videos: int = 1) -> float:
    """What the reward should be, from the generator's own call."""
    rows = torch.tensor([[step, index, number] for number in range(videos)])
    seeds = example_seeds(5, Stream.NOISE, rows=rows)
    made = tiny_generator().generate([text] * videos, **SIZE, seed=seeds)
    return float(made.mean())


def test_rewards_are_those_of_videos_of_the_rewritten_prompt_with_the_noise_of_its_group() -> None:
    texts = ["a big red ring", "a red ring", "two stars", "a big red ring"]
    original, indices = ["a ring", "a ring", "stars", "stars"], [4, 4, 9, 9]
    found, asked, _ = _rewards(texts, original, indices)
    expected = [_video_mean(text, index) for text, index in zip(texts, indices, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert asked.prompts == original
    assert found[0] != pytest.approx(found[3], abs=1e-4)
    later, *_ = _rewards(texts, original, indices, step=4)
    assert later[0] == pytest.approx(_video_mean(texts[0], 4, step=4), abs=1e-4)
    assert later[0] != pytest.approx(found[0], abs=1e-4)


def test_equal_texts_of_a_prompt_share_their_videos_and_several_are_averaged() -> None:
    found, asked, logged = _rewards(["a ring"] * 3, ["a hoop"] * 3, [2, 2, 2], num_videos=2)
    assert len(asked.prompts) == 2
    assert found == pytest.approx([_video_mean("a ring", 2, videos=2)] * 3, abs=1e-4)
    assert logged["rewriting/distinct"] == pytest.approx(1 / 3)


def test_what_is_dropped_costs_its_share_of_the_penalty() -> None:
    original = "a red circle moves left"  # four claims
    texts = ["a red circle moves to the left", "a red ring moves left", "a dog"]
    found, _, logged = _rewards(texts, [original] * 3, [0] * 3, kept=claim_recall, penalty=2.0)
    free, *_ = _rewards(texts, [original] * 3, [0] * 3)
    assert [a - b for a, b in zip(free, found, strict=True)] == pytest.approx([0, 0.5, 2.0], abs=1e-5)
    assert logged["rewriting/kept"] == pytest.approx((1 + 0.75 + 0) / 3)


def test_empty_and_cut_texts_are_judged_as_the_prompt_with_nothing_kept() -> None:
    found, asked, logged = _rewards(["", "a red ring and", "a ring"], ["a ring"] * 3, [1] * 3, cut=[1])
    plain = _video_mean("a ring", 1)
    assert found == pytest.approx([plain - 1, plain - 1, plain], abs=1e-4)
    assert asked.prompts == ["a ring"]
    assert logged["rewriting/usable"] == pytest.approx(1 / 3)


def test_words_are_recalled_as_rouge_counts_them() -> None:
    assert (
        word_recall("a dog and a cat", "The cat sees a dog.") == 3 / 5
    )  # a, dog, cat of a, dog, and, a, cat
    assert word_recall("Two dogs", "two DOGS run") == 1
    assert word_recall("", "anything") == 0


def test_claims_are_compared_where_the_world_understands_all_prompts() -> None:
    assert recall_for(["a disc", "two stars"]) is claim_recall
    assert recall_for(["a disc", "a dog"]) is word_recall
