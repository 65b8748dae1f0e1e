"""What every family must fulfil, on tiny pipelines of the real classes saved to disk and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from generator import flow
from generator.base import VideoGenerator
from generator.inputs.conditions import concatenate, repeat, select
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import generate_latents, sample_latents
from generator.testing.stock import PROMPTS, noise_for, ours, stock_call
from generator.testing.text_pipelines import TINY_PIPELINES


@pytest.mark.parametrize("family", TINY_PIPELINES, indirect=True)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_sampler_without_noise_equals_the_call_of_the_stock_pipeline(
    family: str, folder: Path, generator: VideoGenerator, guidance_scale: float
) -> None:
    pipeline = type(generator).pipeline_class.from_pretrained(folder)  # type: ignore[attr-defined]
    pipeline.set_progress_bar_config(disable=True)

    expected = stock_call(family, pipeline, generator, guidance_scale)

    latents = ours(generator, guidance_scale)
    assert latents.std() > 0.1
    torch.testing.assert_close(latents, expected.float(), atol=2e-4, rtol=2e-4)


class Oracle(torch.nn.Module):
    """Predicts exactly, in the transformer's own layout and parametrisation."""

    def __init__(self, family: str, generator: VideoGenerator, x0: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.family, self.generator, self.x0, self.noise = family, generator, x0, noise

    def forward(self, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        if self.family.startswith("cogvideox"):
            scheduler = self.generator.pipeline.scheduler
            return (scheduler.get_velocity(self.x0, self.noise, timestep).transpose(1, 2),)
        if self.family == "animatediff":
            return (self.noise,)
        velocity = self.noise - self.x0
        if self.family.startswith("ltx"):
            return (velocity.permute(0, 2, 3, 4, 1).flatten(1, 3),)
        return (velocity,)


@pytest.mark.parametrize("steps", [1, 8])
def test_an_exact_prediction_carries_noise_to_the_clean_latents(
    family: str, generator: VideoGenerator, steps: int
) -> None:
    noise = noise_for(generator)
    x0 = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5))
    oracle = Oracle(family, generator, x0, noise)
    conditions = generator.encode_prompts(PROMPTS)

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        return generator.velocity(latents, sigma, conditions, oracle)

    sigmas = generator.sigma_schedule(steps, noise.shape[1:])

    assert (sigmas[0] == 1) if generator.sigma_max == 1 else (sigmas[0] <= generator.sigma_max)
    assert sigmas[-1] == 0
    start = flow.interpolate(x0, noise, sigmas[0])  # the noise itself at 1
    torch.testing.assert_close(sample_latents(velocity, start, sigmas), x0, atol=2e-5, rtol=0)
    middle = flow.interpolate(x0, noise, sigmas[min(1, steps - 1)])
    torch.testing.assert_close(
        velocity(middle, sigmas[min(1, steps - 1)].expand(2)), noise - x0, atol=2e-5, rtol=0
    )


def test_a_batch_equals_its_members_one_by_one(generator: VideoGenerator) -> None:
    together = generate_latents(generator, PROMPTS, num_inference_steps=2, guidance_scale=3.0, batch_size=2)
    alone = [
        generate_latents(generator, [prompt], num_inference_steps=2, guidance_scale=3.0, seed=index)
        for index, prompt in enumerate(PROMPTS)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=1e-5)


def test_prompts_encoded_apart_and_joined_equal_prompts_encoded_together(generator: VideoGenerator) -> None:
    latents, sigma = noise_for(generator), torch.tensor([0.9, 0.5])
    joined = concatenate([generator.encode_prompts([prompt]) for prompt in PROMPTS])
    together = generator.velocity(latents, sigma, generator.encode_prompts(PROMPTS))
    torch.testing.assert_close(generator.velocity(latents, sigma, joined), together, atol=2e-5, rtol=1e-5)


def test_the_prompt_changes_the_velocity(generator: VideoGenerator) -> None:
    latents, sigma = noise_for(generator), torch.tensor([0.9, 0.5])
    first = generator.velocity(latents, sigma, repeat(generator.encode_prompts(["a red circle"]), 2))
    other = generator.velocity(latents, sigma, repeat(generator.encode_prompts(["the blue square"]), 2))
    assert (first - other).abs().max() > 1e-5


def test_groups_from_repeated_conditions_equal_prompts_written_out(generator: VideoGenerator) -> None:
    """Trap 2: `num_videos_per_prompt` mixes up, drops or crashes on groups in three of the pipelines."""
    latents, sigma = noise_for(generator, 4), torch.full((4,), 0.8)
    groups = repeat(generator.encode_prompts(PROMPTS), 2)
    written = generator.encode_prompts([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]])
    torch.testing.assert_close(
        generator.velocity(latents, sigma, groups),
        generator.velocity(latents, sigma, written),
        atol=2e-5,
        rtol=1e-5,
    )
    assert len(next(iter(select(groups, [0, 3]).values()))) == 2


def test_latents_have_the_announced_shape_and_decode_to_the_size_asked_for(generator: VideoGenerator) -> None:
    side, time = generator.size_multiples()
    size = (1 + 2 * time, 2 * side, 3 * side)
    videos = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = generator.encode(videos)
    assert latents.dtype == torch.float32
    assert latents.shape[1:] == generator.latent_shape(*size)
    decoded = generator.decode(latents)
    assert decoded.shape == videos.shape
    assert decoded.abs().max() <= 1


def test_normalising_is_undone_by_denormalising(generator: Any) -> None:
    latents = noise_for(generator)
    torch.testing.assert_close(generator.denormalise(generator.normalise(latents)), latents)


def test_an_impossible_size_is_an_error_that_names_the_nearest_one(generator: VideoGenerator) -> None:
    side, time = generator.size_multiples()
    with pytest.raises(InputError, match=rf"nearest size is {1 + time} frames of {side}x{2 * side}"):
        generator.check_size(1 + time, side + 1, 2 * side)
    if time > 1:
        with pytest.raises(InputError, match="The nearest size"):
            generator.check_size(2 + time, side, side)


def test_features_are_the_hidden_states_between_the_blocks(family: str, generator: Any) -> None:
    latents, sigma = noise_for(generator), torch.tensor([0.1, 0.4])
    conditions = generator.encode_prompts(PROMPTS)
    embedded, mask = generator.features(latents, sigma, conditions, 0)
    after, _ = generator.features(latents, sigma, conditions, 1)
    assert mask.shape == embedded.shape[:2]
    assert mask.all()
    if family != "animatediff":  # a block of its U-Net halves the frames
        assert embedded.shape == after.shape
    assert not torch.equal(embedded, after)
    latents.requires_grad_(True)
    generator.features(latents, sigma, conditions, 1)[0].sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    with pytest.raises(InputError, match="blocks"):
        generator.features(latents, sigma, conditions, 99)


def test_videos_of_a_reloaded_pipeline_are_the_same(folder: Path, generator: VideoGenerator) -> None:
    other = load_generator(folder, device="cpu")
    first, second = (
        g.generate(PROMPTS[:1], num_inference_steps=1, guidance_scale=1.0) for g in (generator, other)
    )
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_settings_in_the_model_folder_replace_the_defaults(tiny_folders: dict[str, Path]) -> None:
    generator = load_generator(tiny_folders["wan"], device="cpu")
    assert (generator.defaults.num_frames, generator.defaults.height) == (9, 16)
    assert (generator.defaults.shift, generator.defaults.guidance_scale) == (3.0, 5.0)


def test_an_unknown_setting_in_the_model_folder_is_an_error(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(tiny_folders["wan"], tmp_path / "model")
    (tmp_path / "model" / "generation_defaults.json").write_text('{"heigth": 16}')
    with pytest.raises(InputError, match=r"heigth.*height"):
        load_generator(tmp_path / "model", device="cpu")


def test_sampling_in_bfloat16_keeps_latents_in_float32(folder: Path) -> None:
    """Trap 4: the pipelines' schedulers cast latents to the dtype of the prediction."""
    generator = load_generator(folder, device="cpu", dtype=torch.bfloat16)
    assert generator.dtype == torch.bfloat16
    latents = ours(generator, 1.0)
    assert latents.dtype == torch.float32
    assert not torch.equal(latents, latents.bfloat16().float())


def test_a_schedule_has_no_wasted_last_step(generator: VideoGenerator) -> None:
    """Trap 3: FlowMatchEuler without explicit sigmas shifts its smallest sigma twice."""
    sigmas = generator.sigma_schedule(8, noise_for(generator).shape[1:])
    steps = -np.diff(sigmas.numpy())
    assert len(sigmas) == 9
    assert steps.min() > 0
    assert steps[-1] > 0.02


def test_the_schedule_leaves_no_state_in_the_schedulers(generator: VideoGenerator) -> None:
    """Trap 7: schedulers are stateful."""
    before = copy.deepcopy(vars(generator.pipeline.scheduler))
    first = generator.sigma_schedule(5)
    generator.sigma_schedule(3)
    assert torch.equal(generator.sigma_schedule(5), first)
    after = vars(generator.pipeline.scheduler)
    assert str(before) == str(after)
