"""Key frames, interpolation and guidance: what is given stays, lengths, seeds, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from generator.output import InputError
from generator.testing import tiny_generator
from generator.video_ldm.config import StackArguments
from generator.video_ldm.data import context_levels, sample_context
from generator.video_ldm.frame_sampling import FrameSampling, guide_by_both, sample_frames
from generator.video_ldm.stack import (
    Stack,
    check_length,
    generate_stack,
    interpolate_latents,
    load_stack,
    make_key_frames,
)
from tests.generator.video_ldm.models import image_adapter, tiny_video_generator

PROMPTS = ["a red circle", "a blue square moves left"]
STEPS: dict[str, Any] = {"num_inference_steps": 2}


def sampling(**changes: Any) -> FrameSampling:
    return FrameSampling(**{"seeds": [3, 4], "fps": 2.0, **STEPS, **changes})


def key_latents(frames: int) -> torch.Tensor:
    return torch.randn(2, 4, frames, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_interpolation_makes_three_frames_in_each_gap_and_keeps_the_key_frames(frames: int) -> None:
    model, latents = tiny_video_generator("interpolation"), key_latents(frames)
    found = interpolate_latents(model, PROMPTS, latents, sampling(fps=8.0))
    assert found.shape == (2, 4, 4 * (frames - 1) + 1, 4, 4)
    assert torch.equal(found[:, :, ::4], latents)
    new = torch.arange(found.shape[2]) % 4 != 0
    assert (found[:, :, new].abs().amax((1, 3, 4)) > 0.1).all()


def test_a_window_of_interpolation_is_sampled_as_its_key_frames_and_frame_rate_say() -> None:
    model, latents = tiny_video_generator("interpolation"), key_latents(3)
    seen: list[tuple[torch.Tensor, float]] = []
    spy = model.transformer.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append((kwargs["timestep"], kwargs["seconds_per_frame"])), with_kwargs=True
    )
    interpolate_latents(model, PROMPTS, latents, sampling(fps=32.0))
    spy.remove()
    assert len(seen) == 2
    for timestep, seconds in seen:
        assert seconds == 1 / 32
        assert torch.equal(timestep == 0, (torch.arange(9) % 4 == 0).expand(2, -1))


def test_videos_do_not_depend_on_the_batch() -> None:
    model = tiny_video_generator("interpolation")
    stack = Stack(tiny_video_generator(), model, tiny_video_generator("prediction"))
    both = generate_stack(stack, PROMPTS, 33, 16, 16, sampling())
    second = generate_stack(stack, PROMPTS[1:], 33, 16, 16, sampling(seeds=[4], batch_size=1))
    assert both.shape == (2, 3, 33, 16, 16)
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=1e-4)


def test_key_frames_beyond_the_first_window_come_from_the_prediction_model() -> None:
    models = [tiny_video_generator(task) for task in ("generation", "interpolation", "prediction")]
    calls: list[list[torch.Tensor]] = [[], [], []]
    for model, seen in zip(models, calls, strict=True):
        model.transformer.register_forward_pre_hook(
            lambda _, __, kwargs, seen=seen: seen.append(kwargs["timestep"] == 0), with_kwargs=True
        )
    stack = Stack(*models)
    first = make_key_frames(stack, PROMPTS, 9, 16, 16, sampling())
    assert not calls[2]
    more = make_key_frames(stack, PROMPTS, 16, 16, 16, sampling())
    assert torch.equal(more[:, :, :9], first)
    assert more.shape[2] == 16
    # Two windows of two steps, the second with fewer new frames; four frames of context in each.
    assert [given.shape[1] for given in calls[2]] == [9, 9, 6, 6]
    assert all(torch.equal(given, (torch.arange(given.shape[1]) < 4).expand(2, -1)) for given in calls[2])
    assert not calls[1]


def test_guidance_on_text_and_context_is_the_sum_of_both() -> None:
    both, text, context = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(guide_by_both(both, text, context, 1.0, 1.0), both)
    torch.testing.assert_close(guide_by_both(both, text, context, 3.0, 1.0), text + 3 * (both - text))
    torch.testing.assert_close(guide_by_both(both, text, context, 1.0, 4.0), context + 4 * (both - context))


def test_guidance_on_the_context_compares_with_noise_in_its_place() -> None:
    model, latents = tiny_video_generator("prediction"), key_latents(5)
    known = torch.arange(5) < 2
    seen: list[dict[str, Any]] = []
    model.transformer.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    plain = sample_frames(model, PROMPTS, latents, known, sampling())
    assert all(len(kwargs["timestep"]) == 2 for kwargs in seen)
    seen.clear()
    guided = sample_frames(model, PROMPTS, latents, known, sampling(context_guidance=3.0))
    for kwargs in seen:
        levels, x = kwargs["timestep"], kwargs["hidden_states"]
        assert (levels[:2, known] == 0).all()
        assert (levels[2:, known] == 1000).all()
        assert torch.equal(levels[:2, ~known], levels[2:, ~known])
        assert torch.equal(x[:2, :, known], latents[:, :, known])
        assert torch.equal(x[:2, :, ~known], x[2:, :, ~known])
        assert (x[2:, :, known] - latents[:, :, known]).abs().mean() > 0.5
    assert torch.equal(guided[:, :, known], latents[:, :, known])
    assert (guided - plain)[:, :, ~known].abs().max() > 1e-3


def test_context_frames_of_training_are_those_of_the_task() -> None:
    random = torch.Generator().manual_seed(0)
    assert torch.equal(
        sample_context("interpolation", 3, 9, random), (torch.arange(9) % 4 == 0).expand(3, -1)
    )
    known = sample_context("prediction", 400, 9, random)
    numbers = known.sum(1)
    assert torch.equal(known, torch.arange(9) < numbers[:, None])
    assert numbers.bincount().tolist()[0] == 0
    assert all(70 < count < 130 for count in numbers.bincount().tolist()[1:])
    has = sample_context("generation", 400, 9, random, 0.25).any(1)
    assert 70 < int(has.sum()) < 130


def test_context_is_clean_or_hidden_as_pure_noise() -> None:
    sigma, hidden = torch.tensor([0.3, 0.6]), torch.tensor([False, True])
    known = torch.tensor([[True, False], [True, False]])
    found = context_levels(sigma, known, hidden)
    assert torch.equal(found, torch.tensor([[0.0, 0.3], [1.0, 0.6]]))


@pytest.mark.parametrize(("frames", "nearest"), [(1, 17), (128, 129), (130, 129), (60, 65)])
def test_lengths_that_no_stack_makes_are_refused_with_the_nearest(frames: int, nearest: int) -> None:
    with pytest.raises(InputError, match=f"--num_frames {nearest}"):
        check_length(frames)


def test_an_adapter_of_the_image_model_is_loaded_into_all_models(tmp_path: Path) -> None:
    for task in ("interpolation", "prediction"):
        tiny_video_generator(task).pipeline.save_pretrained(tmp_path / task)
    arguments = StackArguments(str(tmp_path / "interpolation"), str(tmp_path / "prediction"))
    adapter = image_adapter(tmp_path / "adapter", tiny_generator())
    stack = load_stack(tiny_video_generator(), arguments, adapter, device="cpu")
    plain = load_stack(tiny_video_generator(), arguments, device="cpu")
    for name in ("interpolation", "prediction"):
        with_style, without = (getattr(each, name).transformer.state_dict() for each in (stack, plain))
        changed = {key for key in without if not torch.equal(with_style[key], without[key])}
        assert changed == {"blocks.0.attn.to_q.weight", "blocks.0.attn.to_v.weight"}


def test_models_that_are_no_part_of_a_stack_are_refused(tmp_path: Path) -> None:
    arguments = StackArguments(interpolation_model=str(tmp_path / "video"))
    with pytest.raises(InputError, match="tiny makes no key frames"):
        load_stack(tiny_generator(), arguments)
    tiny_video_generator().pipeline.save_pretrained(tmp_path / "video")
    with pytest.raises(InputError, match="--temporal_task interpolation"):
        load_stack(tiny_video_generator(), arguments, device="cpu")
    with pytest.raises(InputError, match="pass --interpolation_model"):
        StackArguments(context_guidance=2.0)
    for given in (
        {"task": "long", "reward": None, "solver": "euler"},
        {"task": None, "reward": None, "solver": "dpm"},
    ):
        with pytest.raises(InputError, match="were both given"):
            arguments.check_combination(**given)  # type: ignore[arg-type]
