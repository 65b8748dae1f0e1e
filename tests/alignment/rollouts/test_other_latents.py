"""Reward models on latents judge other generators, whose latents they cannot read, by decoded videos."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from alignment.cli import main
from alignment.guided_sampling import candidate_seeds, check_alignment
from alignment.rollouts.reward_mixture import RewardMixture
from generator.output import InputError
from generator.sampling import generate_latents
from generator.testing import tiny_generator
from generator.video import read_video, write_video
from reward import load_reward
from reward.models.decoded import DecodedVideos, judge_for
from reward.models.ensemble import EnsembleRewardModel
from reward.models.latent import LatentRewardConfig, LatentRewardModel

PROMPTS = ["a red square moves left", "two blue circles"]
WARNING = "judges decoded videos"
SIZE = ["--num_frames", "9", "--height", "32", "--width", "32"]


def reward_on(seed: int = 0, name: str = "mine") -> LatentRewardModel:
    """A reward model with random output layers on the tiny generator of a seed."""
    torch.manual_seed(1)
    config = LatentRewardConfig("tiny", dropout=0.0, hidden_size=16)
    model = LatentRewardModel(config, tiny_generator(seed=seed)).eval()
    torch.nn.init.normal_(model.head.mlp[-1].weight)
    model.name = name
    return model


def test_a_judge_of_its_own_latents_stays_what_it_is() -> None:
    reward = reward_on()
    assert judge_for(reward, tiny_generator()) is reward
    assert judge_for(EnsembleRewardModel([reward, reward_on()]), tiny_generator()).scores_latents


@pytest.mark.parametrize("together", [False, True])
def test_other_latents_are_decoded_and_judged_as_videos(
    together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    generator, reward = tiny_generator(seed=1), reward_on()
    judge: Any = EnsembleRewardModel([reward, reward_on()]) if together else reward
    mixture = RewardMixture([judge])
    with caplog.at_level(logging.WARNING):
        mixture.prepare_for(generator)
        mixture.prepare_for(generator)
    assert caplog.text.count(WARNING) == 1
    assert mixture.needs_pixels
    assert not mixture.passes_gradients
    size = {"num_frames": 9, "height": 32, "width": 32}
    latents = generate_latents(generator, PROMPTS, **size, num_inference_steps=2, seed=3)
    found, named = mixture.judge(generator, latents, generator.encode_prompts(PROMPTS), PROMPTS, 2)
    with torch.no_grad():
        videos = generator.decode(latents)
        own = reward.generator  # whose latents of the videos and conditions are computed here
        expected = reward.score_latents(own.encode(videos), own.encode_prompts(PROMPTS))["overall"]
    torch.testing.assert_close(found[0], expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(named["overall"], found[0])
    assert float(expected.std()) > 1e-3


def test_the_record_says_so_and_what_the_model_knows_is_kept() -> None:
    reward = reward_on()
    reward.scale = (0.0, 2.0)
    judge = judge_for(reward, tiny_generator(seed=1))
    assert isinstance(judge, DecodedVideos)
    assert judge.record() == {**reward.record(), "judges": "decoded videos"}
    assert (judge.name, judge.dimensions, judge.scale) == ("mine", ("overall",), (0.0, 2.0))
    assert judge.video_size() == reward.video_size()
    judge.set_frame_rate(5.0)
    assert reward.frame_rate == judge.frame_rate == 5.0
    videos = torch.zeros(2, 3, 9, 32, 32)
    assert judge.uncertainty(videos, PROMPTS) == reward.uncertainty(videos, PROMPTS)


def test_videos_of_another_size_and_rate_are_fitted_as_a_file_is(tmp_path: Path) -> None:
    judge = judge_for(reward_on(), tiny_generator(seed=1))
    judge.set_frame_rate(16.0)
    random = torch.Generator().manual_seed(2)
    smooth = functional.interpolate(
        torch.randn(2, 3, 4, 4, 6, generator=random), (24, 48, 64), mode="trilinear"
    )
    size = judge.video_size()
    assert size is not None
    frames, rate = int(size["num_frames"]), size["fps"]
    assert (size["height"], rate) != (48, 16.0)
    found = judge.score(smooth.clamp(-1, 1), PROMPTS)["overall"]
    files = [tmp_path / f"{number}.mp4" for number in range(2)]
    for video, path in zip(smooth.clamp(-1, 1), files, strict=True):
        write_video(path, video, 16.0, crf=0)
    read = torch.stack([judge.read_video(path) for path in files])
    assert read.shape[2:] == (frames, size["height"], size["width"])
    expected = reward_on().score(read, PROMPTS)["overall"]
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)  # the file is rounded to bytes
    assert float(expected.std()) > 0.1


def test_guidance_by_its_gradient_is_refused_but_the_best_of_several_is_not() -> None:
    generator = tiny_generator(seed=1)
    check_alignment(generator, RewardMixture([reward_on()]), PROMPTS)
    with pytest.raises(InputError, match="reward_guidance needs rewards that judge latents"):
        check_alignment(generator, RewardMixture([reward_on()]), PROMPTS, reward_guidance=1.0)


def words(command: str, folder: Path, *more: str) -> list[str]:
    """Words of a short training of `nano-v1` on the reward model of `nano`."""
    prompts = folder / "prompts.txt"
    prompts.write_text("a red circle moves left\n")
    given = ["--model", "nano-v1", "--reward", "nano-reward", "--prompts", str(prompts), *SIZE]
    return [command, *given, "--output_dir", str(folder / "out"), "--use_cpu", "--report_to", "none", *more]


def test_the_command_trains_on_a_reward_model_of_another_generator(tmp_path: Path) -> None:
    sampling = ["--num_inference_steps", "2", "--guidance_scale", "1", "--sample_groups", "false"]
    rollouts = ["--num_rollouts", "1", "--num_prompts", "1", "--num_generations", "2", "--probe_prompts", "0"]
    assert main(words("ppo", tmp_path, *rollouts, *sampling)) == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert "decoded videos" in json.dumps(record)
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


def test_the_best_of_several_is_the_one_that_it_prefers(tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("a red circle moves left\n")

    def made(name: str, *more: str) -> torch.Tensor:
        folder = tmp_path / name
        given = ["--model", "nano-v1", "--prompts", str(text), "--output_dir", str(folder)]
        assert main(["generate", *given, *SIZE, "--num_inference_steps", "2", *more]) == 0
        (file,) = folder.glob("*.mp4")
        return read_video(file)[0]

    kept = made("best", "--seed", "3", "--reward", "nano-reward", "--best_of", "4")
    candidates = torch.stack([made(f"{seed}", "--seed", str(seed)) for seed in candidate_seeds(3, 4)])
    scores = load_reward("nano-reward", device="cpu").score(candidates, ["a red circle moves left"] * 4)
    assert torch.equal(kept, candidates[int(scores["overall"].argmax())])
    assert not torch.equal(kept, candidates[int(scores["overall"].argmin())])


def test_backprop_says_that_it_needs_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("backprop", tmp_path, "--max_steps", "1")) == 2
    assert "nano-reward does neither" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
