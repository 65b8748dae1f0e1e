"""The stack of Video LDM for long videos: key frames, interpolation I, interpolation II, decoding.

arXiv 2304.08818, sections 3.2 and 3.3; one interpolation model serves both steps and is told the frame rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.adapters.adapters import adapter_record, image_model_fingerprint
from generator.base import VideoGenerator
from generator.loading import load_generator
from generator.one_or_several import as_list
from generator.output import InputError
from generator.provenance import fingerprint
from generator.seeds import example_seeds
from generator.video_ldm.config import StackArguments
from generator.video_ldm.data import GAP, MOST_CONTEXT
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.frame_sampling import FrameSampling, sample_frames

WINDOW = 9
"""Frames that a model makes at once."""
GAPS = (WINDOW - 1) // GAP
"""Gaps between key frames in a window of interpolation."""
FACTOR = GAP * GAP
"""Frames of the video for each key frame after the first."""


@dataclass(frozen=True)
class Stack:
    """Models of one latent space.

    Attributes:
        key_frames: makes the first key frames, and decodes.
        interpolation: makes three frames in each gap, at any frame rate.
        prediction: makes key frames after the first window.
    """

    key_frames: VideoLDMGenerator
    interpolation: VideoLDMGenerator
    prediction: VideoLDMGenerator


def load_stack(
    key_frames: VideoGenerator,
    arguments: StackArguments,
    adapter: str | Path | None = None,
    **options: Any,
) -> Stack:
    """Loads the models of a stack beside the one of key frames.

    Args:
        key_frames: the loaded model.
        arguments: folders of the others.
        adapter: of the model of key frames; one of the image model is loaded into all of them.
        options: of `load_generator`.

    Raises:
        InputError: a model is none of Video LDM, of another task or of another latent space.
    """
    if not isinstance(key_frames, VideoLDMGenerator):
        raise InputError(
            f"{key_frames.name} makes no key frames of Video LDM, which --interpolation_model needs: name a model that "
            "`vidalign pretrain --temporal_from` wrote."
        )
    shared = adapter if adapter is not None and _is_of_image_model(key_frames, adapter) else None

    def loaded(name: str, task: str) -> VideoLDMGenerator:
        model = load_generator(name, adapter=shared, **options)
        found = getattr(model.pipeline.transformer.config, "task", None)
        if not isinstance(model, VideoLDMGenerator) or found != task:
            raise InputError(
                f"--{task}_model is {name}, but must be a folder that `vidalign pretrain --temporal_task {task}` wrote."
            )
        if _encoder(model) != _encoder(key_frames):
            raise InputError(
                f"{name} and {key_frames.name} have different encoders, but must share one: train both with "
                "--temporal_from one image model."
            )
        return model

    interpolation = loaded(str(arguments.interpolation_model), "interpolation")
    prediction = arguments.prediction_model
    return Stack(key_frames, interpolation, loaded(prediction, "prediction") if prediction else key_frames)


def _encoder(generator: VideoLDMGenerator) -> tuple[Any, ...]:
    """Hash of the encoder's weights, and the statistics by which latents are normalised."""
    vae = generator.pipeline.vae
    return fingerprint(vae.encoder), vae.config.latents_mean, vae.config.latents_std


def _is_of_image_model(generator: VideoLDMGenerator, adapter: str | Path) -> bool:
    made_for = adapter_record(adapter).get("model_fingerprint")
    return made_for == image_model_fingerprint(generator.transformer)


def check_length(num_frames: int) -> None:
    """Raises `InputError` where a stack cannot make so many frames."""
    if num_frames < FACTOR + 1 or (num_frames - 1) % FACTOR:
        nearest = max(round((num_frames - 1) / FACTOR), 1) * FACTOR + 1
        raise InputError(
            f"{num_frames} frames were asked for, but two interpolations make {FACTOR}k+1 frames: the nearest is "
            f"--num_frames {nearest}."
        )


def _seeds(seeds: Sequence[int], stage: int, windows: int) -> list[int]:
    """Seeds of the windows of each video in a stage, those of one video in a row."""
    return [example_seeds(seed, stage, window)[0] for seed in seeds for window in range(windows)]


def make_key_frames(
    stack: Stack, prompts: Sequence[str], count: int, height: int, width: int, sampling: FrameSampling
) -> Tensor:
    """Latents `[batch, channels, count, rows, columns]` of key frames.

    The first nine come from the model of key frames; further ones from the prediction model, which sees the last
    `MOST_CONTEXT` before them.

    Args:
        stack: the models.
        prompts: one a video.
        count: of key frames.
        height, width: of the video in pixels.
        sampling: settings; `fps` is that of the key frames.
    """
    prompts = as_list(prompts)
    first = min(count, WINDOW)
    shape = stack.key_frames.latent_shape(first, height, width)
    empty, none = torch.zeros(len(prompts), *shape), torch.zeros(first, dtype=torch.bool)
    frames = sample_frames(stack.key_frames, prompts, empty, none, sampling)
    step = 0
    while frames.shape[2] < count:
        step += 1
        new = min(count - frames.shape[2], WINDOW - MOST_CONTEXT)
        context = frames[:, :, -MOST_CONTEXT:]
        latents = torch.cat([context, torch.zeros_like(frames[:, :, :new])], dim=2)
        known = torch.arange(latents.shape[2]) < MOST_CONTEXT
        more = replace(sampling, seeds=_seeds(sampling.seeds, step, 1))
        window = sample_frames(stack.prediction, prompts, latents, known, more)
        frames = torch.cat([frames, window[:, :, MOST_CONTEXT:]], dim=2)
    return frames


def interpolate_latents(
    generator: VideoLDMGenerator, prompts: Sequence[str], latents: Tensor, sampling: FrameSampling
) -> Tensor:
    """Latents `[batch, channels, 4 (frames - 1) + 1, rows, columns]` with three new frames in each gap.

    Every fourth frame of the result is one of `latents`, bit for bit.

    Args:
        generator: the interpolation model.
        prompts: one a video.
        latents: `[batch, channels, frames, rows, columns]`, at least two frames.
        sampling: settings; `fps` is that of the result.
    """
    prompts = as_list(prompts)
    gaps = latents.shape[2] - 1
    shape = (*latents.shape[:2], GAP * gaps + 1, *latents.shape[3:])
    whole = latents.new_zeros(shape)
    whole[:, :, ::GAP] = latents
    seeds = _seeds(sampling.seeds, GAP * gaps, -(-gaps // GAPS))
    windows = -(-gaps // GAPS)
    for size, chosen in ((GAPS, range(gaps // GAPS)), (gaps % GAPS, range(gaps // GAPS, windows))):
        if not chosen:
            continue
        starts = [window * GAPS * GAP for window in chosen]
        frames = size * GAP + 1
        parts = torch.stack([whole[:, :, start : start + frames] for start in starts], dim=1).flatten(0, 1)
        asked = replace(
            sampling,
            seeds=[seeds[video * windows + window] for video in range(len(prompts)) for window in chosen],
        )
        texts = [prompt for prompt in prompts for _ in starts]
        known = torch.arange(frames) % GAP == 0
        made = sample_frames(generator, texts, parts, known, asked).to(whole)
        made = made.unflatten(0, (len(prompts), len(starts)))
        for index, start in enumerate(starts):
            whole[:, :, start : start + frames] = made[:, index]
    return whole


def generate_stack(
    stack: Stack,
    prompts: Sequence[str],
    num_frames: int,
    height: int,
    width: int,
    sampling: FrameSampling,
) -> Tensor:
    """Videos `[batch, 3, num_frames, height, width]` in [-1, 1] on the CPU, at `16 * sampling.fps` frames a second.

    Args:
        stack: the models.
        prompts: one a video.
        num_frames: 16 k + 1.
        height, width: pixels.
        sampling: settings; `fps` is that of the key frames.

    Raises:
        InputError: so many frames, or such sides, cannot be made.
    """
    check_length(num_frames)
    stack.key_frames.check_size(num_frames, height, width)
    count = (num_frames - 1) // FACTOR + 1
    latents = make_key_frames(stack, prompts, count, height, width, sampling)
    for step in (1, 2):
        rate = replace(sampling, fps=sampling.fps * GAP**step)
        latents = interpolate_latents(stack.interpolation, prompts, latents, rate)
    return torch.cat([stack.key_frames.decode(one).cpu() for one in latents.split(1)])


def stacked(
    model: VideoGenerator,
    arguments: StackArguments,
    num_frames: int | None,
    adapter: str | None,
    options: dict[str, Any],
) -> tuple[Callable[..., Tensor], float]:
    """A function like `VideoGenerator.generate` that makes long videos, and the frames a second of its videos.

    Args:
        model: of key frames.
        arguments: of the stack.
        num_frames: of the videos.
        adapter: of the model.
        options: of `load_generator`.

    Raises:
        InputError: so many frames cannot be made, or a model is not what it must be.
    """
    if num_frames is None:
        raise InputError("--interpolation_model was given without a length: pass --num_frames 129.")
    check_length(num_frames)
    stack = load_stack(model, arguments, adapter, **options)

    def generate(prompts: Sequence[str], seed: Sequence[int], **more: Any) -> Tensor:
        if more.get("negative_prompt") or more.get("images"):
            raise InputError(
                "A prompt has a negative prompt or an image, but long videos of Video LDM take neither: remove it."
            )
        sampling = FrameSampling(
            seed,
            arguments.key_frame_fps,
            more["num_inference_steps"],
            more["guidance_scale"],
            arguments.context_guidance,
        )
        size = (more["height"] or model.defaults.height, more["width"] or model.defaults.width)
        return generate_stack(stack, prompts, num_frames, *size, sampling)

    return generate, FACTOR * arguments.key_frame_fps
