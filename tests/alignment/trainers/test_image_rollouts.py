"""Rollout trainers on models whose videos begin with an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.cli import main
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator import flow
from generator.adapters.adapters import WEIGHTS_NAME
from generator.families.wan_vace import CONTROL
from generator.first_frames import KNOWN_LATENTS, control_conditions, read_images
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import all_tiny_pipelines, save_tiny_pipeline
from generator.video import write_video
from generator.video_files.control_files import ControlFiles
from reward.models.base import FunctionReward

PROMPTS = ["a red circle", "a blue square"]
FAMILIES = (
    "wan-i2v", "wan2.2-i2v-a14b", "cogvideox-i2v", "hunyuan_video1.5-i2v", "wan2.2-ti2v", "ltx", "ltx2.3",
)  # fmt: skip
WITH_KNOWN_FRAMES = ("wan2.2-ti2v", "ltx")


def save_pictures(folder: Path, generator: Any) -> list[Path]:
    size = (generator.defaults.height, generator.defaults.width, 3)
    files = [folder / f"{seed}.png" for seed in range(2)]
    for seed, file in enumerate(files):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(file)
    return files


@pytest.fixture
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, list[tuple[Path, None]]]:
    """A generator of a family, and the images of `PROMPTS`."""
    generator = load_generator(save_tiny_pipeline(request.param, tmp_path / request.param), device="cpu")
    return generator, [(file, None) for file in save_pictures(tmp_path, generator)]


def ppo(setting: Any, bright: Any, quiet: dict[str, Any], **arguments: Any) -> PPOTrainer:
    generator, images = setting
    settings = {
        "num_rollouts": 8, "num_prompts": 2, "num_generations": 6, "num_inference_steps": 4, "num_mini_batches": 2,
        "per_device_train_batch_size": 12, "learning_rate": 2e-2, "guidance_scale": 1.0, "monitor_videos": 0,
    } | arguments  # fmt: skip
    return PPOTrainer(generator, PPOConfig(**settings, **quiet), PROMPTS, bright, images=images)


@pytest.mark.parametrize("setting", FAMILIES, indirect=True)
def test_ppo_raises_a_reward_and_the_image_stays_the_first_frame(setting, bright, quiet) -> None:
    trainer = ppo(setting, bright, quiet)
    before = trainer.make_rollout(0)
    trainer.train()
    after = trainer.make_rollout(0)  # of the same prompts, images and noise
    assert after.rewards.mean() > before.rewards.mean()
    generator, images = setting
    known = generator.encode(
        read_images([images[i][0] for i in before.prompt_indices], *sizes(generator))[:, :, None]
    )
    if generator.image is None:
        first = after.trajectories.final[:, :, :1]
        assert torch.equal(first, before.trajectories.final[:, :, :1])
        torch.testing.assert_close(first, known, atol=1e-5, rtol=1e-5)
    else:
        seen = trainer.plan.conditions_of(torch.tensor([0, 1]))
        pictures = read_images([file for file, _ in images], *sizes(generator))
        for name, expected in generator.image(pictures, generator.defaults.num_frames).items():
            torch.testing.assert_close(seen[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setting", ["wan-vace"], indirect=True)
def test_ppo_raises_a_reward_of_videos_that_a_control_video_steers(setting, bright, quiet) -> None:
    generator, images = setting
    files = [ControlFiles(file, None) for file, _ in images]
    trainer = ppo((generator, files), bright, quiet)
    before = trainer.make_rollout(0)
    trainer.train()
    after = trainer.make_rollout(0)
    assert after.rewards.mean() > before.rewards.mean()
    assert after.trajectories.final.shape[2] == generator.latent_shape(9, 16, 16)[1]  # no frame is known
    seen = trainer.plan.conditions_of(torch.tensor([0, 1]))[CONTROL]
    size = (generator.defaults.num_frames, *sizes(generator))
    expected = torch.cat([control_conditions(generator, each, size)[CONTROL] for each in files])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def sizes(generator: Any) -> tuple[int, int]:
    return generator.defaults.height, generator.defaults.width


@pytest.mark.parametrize("setting", ["wan-i2v", "ltx"], indirect=True)
def test_a_group_shares_its_image_and_only_those_at_hand_are_kept(setting, bright, quiet) -> None:
    trainer = ppo(setting, bright, quiet, num_prompts=1)
    for index in (0, 1):
        rollout = trainer.make_rollout(index)
        seen = trainer.plan.images.conditions_of(rollout.prompt_indices)
        assert all(torch.equal(value, value[:1].expand_as(value)) for value in seen.values())
        assert list(trainer.plan.images._kept) == [trainer.plan.images.files[rollout.prompt_indices[0]]]
    kept = trainer.plan.images.conditions_of(torch.tensor([0, 1]))
    assert any(not torch.equal(value[0], value[1]) for value in kept.values())


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("setting", WITH_KNOWN_FRAMES, indirect=True)
def test_known_elements_have_no_part_in_log_probabilities_divergence_and_gradients(
    setting, bright, quiet, guidance_scale
) -> None:
    generator, _ = setting
    trainer = ppo(setting, bright, quiet, guidance_scale=guidance_scale, beta=0.1)
    rollout = trainer.make_rollout(0)
    sampled = rollout.trajectories
    frames = sampled.final.shape[2]
    assert sampled.states.shape[3] == frames - 1
    # The mean over unknown elements alone, computed from whole latents with the family's own velocity of frames.
    known = trainer.plan.images.conditions_of(rollout.prompt_indices)[KNOWN_LATENTS]
    step = sampled.settings.first_step
    state, following = (torch.cat([known, sampled.states[:, each]], dim=2) for each in (0, 1))
    levels = sampled.sigmas[step].expand(len(state), frames).clone()
    levels[:, 0] = 0
    text = trainer.plan.text_conditions_of(rollout.prompt_indices)
    velocity = generator.frames(state, levels, text).detach()
    if guidance_scale != 1:
        table, rows = trainer.plan.negative_conditions, trainer.plan.negative_rows[rollout.prompt_indices]
        unconditional = generator.frames(state, levels, trainer.plan.look_up(table, rows)).detach()
        velocity = unconditional + guidance_scale * (velocity - unconditional)
    kernel = flow.SDE_KERNELS[sampled.settings.kernel]
    mean, std = kernel(
        state, velocity, sampled.sigmas[step], sampled.sigmas[step + 1], sampled.settings.noise_level,
        sampled.sigmas[1],
    )  # fmt: skip
    normal = torch.distributions.Normal(mean[:, :, 1:], std.expand_as(mean)[:, :, 1:])
    expected = normal.log_prob(following[:, :, 1:]).flatten(1).mean(1)
    # Constants of the density that cancel in ratios may be left out.
    difference = expected - sampled.log_probs[:, 0]
    torch.testing.assert_close(difference, difference.mean().expand_as(difference), atol=1e-4, rtol=1e-4)

    gradients: list[torch.Tensor] = []

    def watch(_: Any, __: Any, output: Any) -> None:
        if output[0].requires_grad:
            output[0].register_hook(gradients.append)

    handle = generator.transformer.register_forward_hook(watch)
    trainer.update_loss(trainer.model, rollout, torch.arange(4), update=1).backward()
    handle.remove()
    assert gradients
    for gradient in gradients:
        # `[batch, C, F, H, W]`, or `[batch, tokens, C]` in the order of frames.
        by_frame = gradient.transpose(1, 2) if gradient.ndim == 5 else gradient.unflatten(1, (frames, -1))
        assert by_frame[:, 0].abs().max() == 0
        assert by_frame[:, 1:].abs().max() > 0


@pytest.mark.parametrize("setting", ["wan-i2v", "ltx"], indirect=True)
def test_rewards_that_look_at_images_are_given_that_of_each_video(setting, quiet) -> None:
    generator, images = setting
    pictures = read_images([file for file, _ in images], *sizes(generator))
    calls = []

    def near(videos: torch.Tensor, prompts: list[str], images: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(images)
        return -(videos[:, :, 0] - images).abs().mean((1, 2, 3))

    def blind(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return videos.mean((1, 2, 3, 4))

    rewards = [FunctionReward(near, "near"), FunctionReward(blind, "blind")]
    trainer = ppo(setting, rewards, quiet, probe_prompts=1)
    rollout = trainer.make_rollout(0)
    torch.testing.assert_close(torch.cat(calls), pictures[rollout.prompt_indices])
    video = generator.decode(rollout.trajectories.final)
    expected = -(video[:, :, 0] - pictures[rollout.prompt_indices]).abs().mean((1, 2, 3))
    torch.testing.assert_close(rollout.scores["near/overall"].cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("setting", ["wan-i2v", "wan2.2-ti2v"], indirect=True)
def test_the_ratio_is_one_before_the_first_update(setting, bright, quiet) -> None:
    trainer = ppo(setting, bright, quiet, guidance_scale=2.0, rollout_batch_size=5)
    rollout = trainer.make_rollout(0)
    trainer.update_loss(trainer.model, rollout, torch.arange(7), update=1)
    assert (trainer.ratios[0] - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("setting", ["cogvideox-i2v", "ltx2.3"], indirect=True)
def test_reward_back_propagation_shows_images(setting, bright, quiet) -> None:
    generator, images = setting
    config = BackpropConfig(
        num_inference_steps=2, backprop_steps=1, max_steps=2, per_device_train_batch_size=2, learning_rate=2e-2,
        guidance_scale=1.0, **quiet,
    )  # fmt: skip
    trainer = BackpropTrainer(generator, config, PROMPTS, bright, images=images)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert all(np.isfinite(rewards))


@pytest.mark.parametrize(
    ("command", "family"),
    [
        ("nft", "wan-i2v"),
        ("rwr", "wan2.2-ti2v"),
        ("online_dpo", "ltx"),
        ("nft", "ltx2.3"),
        ("ppo", "cogvideox1.5-i2v"),
    ],
)
def test_commands_train_on_the_images_of_prompt_files(
    command: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brightness_of_pixels.py").write_text(
        "def score(videos, prompts): return videos.mean((1, 2, 3, 4))"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = save_tiny_pipeline(family, tmp_path / family)
    save_pictures(tmp_path, load_generator(folder, device="cpu"))
    rows = [{"prompt": prompt, "image": f"{row}.png"} for row, prompt in enumerate(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [command, "--model", folder, "--prompts", tmp_path / "prompts.jsonl", "--eval_prompts",
             tmp_path / "prompts.jsonl", "--reward", "brightness_of_pixels:score", "--output_dir", tmp_path / "out",
             "--num_rollouts", 1, "--num_prompts", 2, "--num_generations", 2, "--num_inference_steps", 3,
             "--guidance_scale", 1, "--lora_r", 2, "--learning_rate", 1e-2, "--report_to", "none", "--use_cpu", "true",
             "--eval_strategy", "steps", "--sample_prompts", tmp_path / "prompts.jsonl",
             "--sample_num_inference_steps", 2]  # fmt: skip
    if command == "ppo":
        words += ["--ptx_coef", 0.1, "--ptx_dataset", write_demonstrations_of(tmp_path, family)]
    assert main([str(word) for word in words]) in (0, None)
    assert (tmp_path / "out" / WEIGHTS_NAME).is_file()
    samples = tmp_path / "out" / "samples" / "step-000000"
    rows = [json.loads(line) for line in (samples / "metadata.jsonl").read_text().splitlines()]
    assert [(samples / row["image"]).resolve() for row in rows] == [
        tmp_path / f"{row}.png" for row in range(2)
    ]


def write_demonstrations_of(folder: Path, family: str) -> Path:
    """Two videos that begin with the pictures of `save_pictures`."""
    (folder / "shown").mkdir()
    rows = []
    for row in range(2):
        video = torch.rand(3, *all_tiny_pipelines()[family][1]) * 2 - 1
        write_video(folder / "shown" / f"{row}.mp4", video, fps=8)
        rows.append({"file_name": f"{row}.mp4", "prompt": PROMPTS[row], "image": f"../{row}.png"})
    (folder / "shown" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "shown"


@pytest.mark.parametrize("setting", ["ltx"], indirect=True)
def test_the_term_of_demonstrations_leaves_out_the_frames_that_their_images_make_known(
    setting, bright, quiet
) -> None:
    generator, images = setting
    size = generator.defaults
    clips = torch.rand(2, 3, size.num_frames, size.height, size.width) * 2 - 1
    latents = list(generator.encode(clips))
    shown = (latents, PROMPTS, [(str(file), None) for file, _ in images])
    config = PPOConfig(num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=2, ptx_coef=0.1,
                       per_device_train_batch_size=4, guidance_scale=1.0, monitor_videos=0, **quiet)  # fmt: skip
    trainer = PPOTrainer(generator, config, PROMPTS, bright, images=images, demonstrations=shown)
    changed = [latent.clone() for latent in latents]
    for latent in changed:
        latent[:, 0] += 100.0
    error = trainer.demonstration_error(trainer.model, 0, 0, 0)
    trainer.demonstrations = changed
    torch.testing.assert_close(trainer.demonstration_error(trainer.model, 0, 0, 0), error)
    trainer.demonstration_images = None
    assert trainer.demonstration_error(trainer.model, 0, 0, 0) > error


def test_images_for_some_prompts_only_are_refused_before_anything_is_loaded(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    rows = [{"prompt": "a", "image": "0.png"}, {"prompt": "b"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["ppo", "--model", "nano", "--prompts", tmp_path / "prompts.jsonl", "--reward", "world", "--output_dir",
             tmp_path / "out", "--report_to", "none", "--use_cpu", "true"]  # fmt: skip
    assert main([str(word) for word in words]) == 2
    assert "1 name an image: give one to all or to none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["wan-i2v"], indirect=True)
def test_a_model_that_needs_images_says_so_where_prompts_have_none(setting, bright, quiet) -> None:
    with pytest.raises(InputError, match="animates images, and none was given"):
        ppo((setting[0], None), bright, quiet)
