"""Subject of a proof: a model, two prompts, their noise, and what our sampler makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from generator import flow
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, repeat, select
from generator.sampling import Velocity, guided_velocity, sample_latents, seeded_noise, video_size
from generator.stock_pipelines import StockVideos

PROMPTS = ["a red circle moves left", "the dark blue square on the right moves left and right"]
SMALL_AREA = 240 * 416
SMALL_FRAMES = 17


@dataclass(frozen=True)
class Size:
    """Size of the videos of a proof; None stands for the small default."""

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 4


class Subject:
    """A model with everything that its checks share.

    Attributes:
        generator: the model.
        size: frames, height and width of the videos.
        steps: number of inference steps.
        noise: `[2, C, F, H, W]`, on the model's device.
        sigmas: noise levels `[steps + 1]`.
        conditions: of the two prompts, with what the model sees of the first frame.
        negative: of the empty prompt, two rows; None without guidance.
    """

    def __init__(self, generator: VideoGenerator, asked: Size) -> None:
        self.generator = generator
        self.size = small_size(generator, asked)
        self.steps = asked.num_inference_steps
        shape = generator.latent_shape(*self.size)
        self.noise = seeded_noise(range(len(PROMPTS)), shape).to(generator.device)
        self.sigmas = generator.sigma_schedule(self.steps, shape)
        self.guidance_scale = generator.defaults.guidance_scale
        self.picture = None if generator.image is None else _picture(*self.size[1:])
        self.conditions: Conditions = {}
        self.negative: Conditions | None = None
        self._encode()

    @torch.no_grad()
    def _encode(self) -> None:
        generator, count = self.generator, len(PROMPTS)
        seen: Conditions = {}
        if generator.image is not None:
            pixels = torch.from_numpy(np.array(self.picture)).permute(2, 0, 1)[None] / 127.5 - 1
            images = pixels.repeat(count, 1, 1, 1).to(generator.device)
            seen = generator.image(images, self.size[0])
        self.conditions = {**generator.encode_prompts(PROMPTS), **seen}
        if self.guidance_scale != 1:
            self.negative = {**repeat(generator.encode_prompts([""]), count), **seen}

    def velocity(self, rows: Sequence[int] = (0, 1), transformer: nn.Module | None = None) -> Velocity:
        """The guided velocity of the videos `rows`."""
        negative = None if self.negative is None else select(self.negative, rows)
        conditions = select(self.conditions, rows)
        return guided_velocity(self.generator, conditions, negative, self.guidance_scale, transformer)

    def sample(self, rows: Sequence[int] = (0, 1)) -> Tensor:
        """Latents `[len(rows), C, F, H, W]` that our sampler without noise makes, on the CPU."""
        start = flow.initial_state(self.noise[list(rows)], self.sigmas[0])
        return sample_latents(self.velocity(rows), start, self.sigmas).cpu()

    def stock_videos(self) -> StockVideos:
        """The same videos as a request to the model's own pipeline."""
        defaults = self.generator.defaults
        return StockVideos(
            PROMPTS,
            self.noise,
            *self.size,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            shift=defaults.shift,
            fps=defaults.fps,
            image=self.picture,
        )


def small_size(generator: VideoGenerator, asked: Size) -> tuple[int, int, int]:
    """The size asked for; where nothing is said, the model's own with at most 17 frames of the area of 240x416.

    Raises:
        InputError: the model cannot make this size.
    """
    defaults, (side, time) = generator.defaults, generator.size_multiples()
    # Learned positions are of one size.
    first: Any = getattr(generator.pipeline, "transformer", generator.transformer)  # of two experts
    config: Any = getattr(first, "config", {})
    if config.get("use_learned_positional_embeddings"):
        return video_size(generator, asked.num_frames, asked.height, asked.width)
    frames = min(defaults.num_frames, SMALL_FRAMES // time * time + 1 if time <= SMALL_FRAMES else time + 1)
    scale = min(1.0, (SMALL_AREA / (defaults.height * defaults.width)) ** 0.5)
    height, width = (
        max(1, int(scale * length / side)) * side for length in (defaults.height, defaults.width)
    )
    return video_size(generator, asked.num_frames or frames, asked.height or height, asked.width or width)


def _picture(height: int, width: int) -> Image.Image:
    """A first frame: smooth colours and a square, the same each time."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    colours = np.stack([rows + 0 * columns, columns + 0 * rows, 1 - rows * columns], axis=2)
    pixels = (255 * colours).round().astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 30, 30)
    return Image.fromarray(pixels)


def relative_distance(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ over all elements, in float64; infinite where a value is not finite."""
    found, expected = found.double().cpu(), expected.double().cpu()
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
