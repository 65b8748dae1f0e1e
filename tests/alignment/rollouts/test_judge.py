"""Judging while sampling, and decoding no more than a reward looks at."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignment.lora import trained_adapter
from alignment.rollouts.judge import Judging, decode_for_reward
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.loading import load_generator
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline
from reward.models.base import FunctionReward

PROMPTS = ["a red circle moves left", "two blue stars"]


def trained(tmp_path: Path, asynchronous: bool, seen: list[str], **settings: object) -> PPOTrainer:
    """A PPO run of two rollouts of 8 videos, sampled by 2 and judged by 3."""
    generator = tiny_generator()

    def brightness(videos: Tensor, prompts: list[str]) -> Tensor:
        seen.append(threading.current_thread().name)
        sizes.append(tuple(videos.shape))
        return videos.mean(dim=(1, 2, 3, 4))

    sizes: list[tuple[int, ...]] = []
    config = PPOConfig(
        output_dir=str(tmp_path / str(asynchronous)), report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no", num_rollouts=2, num_prompts=2, num_generations=4, num_mini_batches=1,
        num_inference_steps=4, sde_window_size=1, num_frames=9, height=16, width=16, rollout_batch_size=2,
        reward_batch_size=3, monitor_videos=0, probe_prompts=0, learning_rate=1e-2,
        asynchronous_rewards=asynchronous, **settings,
    )  # fmt: skip
    trainer = PPOTrainer(generator, config, PROMPTS, FunctionReward(brightness, "brightness"))
    trainer.train()
    vars(trainer)["sizes"] = sizes
    return trainer


def test_asynchronous_rewards_change_nothing_but_where_they_are_computed(tmp_path: Path) -> None:
    threads: tuple[list[str], list[str]] = ([], [])
    runs = [trained(tmp_path, bool(index), threads[index]) for index in range(2)]
    first, second = (trained_adapter(run.generator).pairs for run in runs)
    assert any(up.abs().max() > 0 for _, up in first.values())
    for name in first:
        assert torch.equal(first[name][1], second[name][1])
    assert set(threads[0]) == {"MainThread"}
    # Of each rollout's batches of 3, 3 and 2 the full ones are judged beside the sampling.
    assert sum(name.startswith("rewards") for name in threads[1]) == 4
    assert len(threads[0]) == len(threads[1]) == 6


def test_a_batch_is_judged_before_the_last_one_is_sampled() -> None:
    judged = threading.Event()

    def judge(latents: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        judged.set()
        return latents.mean(dim=1)[None], {"score": latents[:, 0]}

    latents = torch.arange(10.0).reshape(5, 2)
    with Judging(judge, 2, torch.device("cpu"), asynchronous=True) as judging:
        judging.add(latents[:2])
        assert judged.wait(10)
        judging.add(latents[2:])
        rewards, scores = judging.finish(latents)
    assert torch.equal(rewards[0], latents.mean(dim=1))
    assert torch.equal(scores["score"], latents[:, 0])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_context_group_judges_each_batch_once(asynchronous: bool) -> None:
    class Group:
        """One of two processes; what the other has judged is known once it is through."""

        size = 2

        def __init__(self, place: int, others: list[Any]) -> None:
            self.place, self.others = place, others

        def gather(self, own: Any) -> list[Any]:
            self.others.append(own)
            return self.others

    def judge(latents: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((rows.start, len(latents)))
        return latents.mean(dim=1)[None], {"score": latents[:, 0]}

    latents = torch.arange(14.0).reshape(7, 2)
    others: list[Any] = []
    for place, batches in ((1, [(2, 2), (6, 1)]), (0, [(0, 2), (4, 2)])):
        seen: list[tuple[int, int]] = []
        group: Any = Group(place, others)
        with Judging(judge, 2, torch.device("cpu"), asynchronous, group) as judging:
            judging.add(latents[:5])
            judging.add(latents[5:])
            rewards, scores = judging.finish(latents)
        assert seen == batches
    assert torch.equal(rewards[0], latents.mean(dim=1))
    assert torch.equal(scores["score"], latents[:, 0])


def test_an_error_in_the_thread_is_raised_where_the_rewards_are_needed() -> None:
    def judge(latents: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        raise InputError("the reward is damaged")

    with Judging(judge, 1, torch.device("cpu"), asynchronous=True) as judging:
        judging.add(torch.zeros(1, 2))
        with pytest.raises(InputError, match="damaged"):
            judging.finish(torch.zeros(1, 2))


@pytest.mark.parametrize("family", ["nano", "wan", "wan2.2-ti2v"])
def test_the_first_frames_of_a_causal_autoencoder_are_those_of_the_whole_video(
    family: str, tmp_path: Path
) -> None:
    generator = (
        tiny_generator()
        if family == "nano"
        else load_generator(save_tiny_pipeline(family, tmp_path), device="cpu")
    )
    side, time = generator.size_multiples()
    latents = torch.randn(2, *generator.latent_shape(2 * time + 1, 2 * side, 2 * side))
    whole = generator.decode(latents)
    for count in (1, 3, time + 1, 2 * time + 1):
        part = decode_for_reward(generator, latents, count)
        torch.testing.assert_close(part, whole[:, :, :count], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["ltx", "cogvideox", "cogvideox1.5", "hunyuan_video", "hunyuan_video1.5"])
def test_other_autoencoders_decode_as_many_frames_as_asked_for(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path), device="cpu")
    side, time = generator.size_multiples()
    latents = torch.randn(1, *generator.latent_shape(2 * time + 1, 2 * side, 2 * side))
    assert decode_for_reward(generator, latents, 2).shape == (1, 3, 2, 2 * side, 2 * side)


def test_a_reward_is_shown_small_videos_of_the_frames_it_looks_at(tmp_path: Path) -> None:
    trainer = trained(tmp_path, False, [], reward_num_frames=5, reward_scale=0.5)
    assert {size[1:] for size in vars(trainer)["sizes"]} == {(3, 5, 8, 8)}


@pytest.mark.parametrize("wrong", [{"reward_num_frames": 0}, {"reward_scale": 0.0}, {"reward_scale": 2.0}])
def test_impossible_settings_are_named(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        PPOConfig(output_dir=str(tmp_path), use_cpu=True, **wrong)  # type: ignore[arg-type]
