"""`SamplingPlan`: what is the same for all videos that a training samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from alignment.data.latent_dataset import PromptTable
from alignment.rollouts.prompt_images import PromptImages
from generator.base import VideoGenerator
from generator.first_frames import ImageFiles, check_takes_images, known_frames
from generator.guidance import guidance_scales, guidance_text
from generator.inputs.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.sampling import Velocity, encode_unique_prompts, guided_velocity, one_text_each, video_size

if TYPE_CHECKING:
    from alignment.rollouts.reward_mixture import RewardMixture

logger = logging.getLogger(__name__)


class SamplingSettings(Protocol):
    """Fields of a configuration that a plan is made from; None is the generator's own value."""

    num_frames: int | None
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float | None
    guidance_scale_2: float | None
    negative_prompt: str


@dataclass(frozen=True)
class SamplingPlan:
    """Prompts with their conditions, and how videos of them are sampled.

    A prompt is named by its index in `prompts`.

    Attributes:
        generator: the generator.
        prompts: all prompts, as videos are judged by them.
        conditions: table of encoded texts.
        rows: `[len(prompts)]`, the row of each prompt in `conditions`.
        negative_conditions, negative_rows: those of the negative prompts; None without guidance.
        latent_shape: `(C, F, H, W)`.
        sigmas: noise levels `[steps + 1]`.
        guidance_scale: scale of classifier-free guidance; 1 is none.
        batch_size: videos sampled together.
        look_up: `(table, rows) -> conditions`, on the device that samples.
        guidance_scale_2: scale for the second of two transformers; `guidance_scale` where None.
        images: with which the videos begin; None where they begin with none.
        judged_rows: `[len(prompts)]`, the row of each prompt in `conditions` where `rows` are those of rewritten
            prompts; None where they are the same.
        solver: of the ODE, one of `generator.solvers.ONE_CALL_SOLVERS`.
    """

    generator: VideoGenerator
    prompts: list[str]
    conditions: Conditions
    rows: Tensor
    negative_conditions: Conditions | None
    negative_rows: Tensor | None
    latent_shape: tuple[int, ...]
    sigmas: Tensor
    guidance_scale: float
    batch_size: int
    look_up: Callable[[Conditions, Tensor], Conditions] = select
    guidance_scale_2: float | None = None
    images: PromptImages | None = None
    judged_rows: Tensor | None = None
    solver: str = "euler"

    @classmethod
    def for_training(
        cls,
        generator: VideoGenerator,
        settings: SamplingSettings,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        batch_size: int,
        look_up: Callable[[Conditions, Tensor], Conditions],
        images: Sequence[ImageFiles] | None = None,
        rewritten_prompts: Sequence[str] | None = None,
        solver: str = "euler",
    ) -> SamplingPlan:
        """Plan of a trainer; its prompts are encoded through the cache of embeddings.

        Args:
            negative_prompts: one a prompt; `settings.negative_prompt` where not given.
            images: files of the first image of each prompt's videos and of the last, or None in its place.
            rewritten_prompts: one a prompt, which the generator is given in its place.
            solver: see `SamplingPlan`.
        """
        prompts = as_list(prompts)
        size = settings.num_frames, settings.height, settings.width
        check_takes_images(generator, images, len(prompts), video_size(generator, *size)[1:])
        latent_shape, sigmas = _schedule(generator, size, settings.num_inference_steps)
        scale, scale_2 = guidance_scales(generator, settings.guidance_scale, settings.guidance_scale_2)
        guided = (scale, scale_2) != (1, 1)
        if not guided and (settings.negative_prompt or any(negative_prompts or [])):
            logger.warning("Negative prompts have no effect without guidance: set guidance_scale above 1.")
        negatives = one_text_each(negative_prompts or settings.negative_prompt, len(prompts))
        table = PromptTable.encode(generator, [*prompts, *negatives, *(rewritten_prompts or ())])
        own_rows, negative_rows, *rewritten_rows = table.rows.split(len(prompts))
        rows = rewritten_rows[0] if rewritten_rows else own_rows
        return cls(
            generator,
            prompts,
            table.conditions,
            rows,
            table.conditions if guided else None,
            negative_rows if guided else None,
            latent_shape,
            sigmas,
            scale,
            batch_size,
            look_up,
            scale_2,
            PromptImages(generator, images, video_size(generator, *size)) if images else None,
            own_rows if rewritten_rows else None,
            solver,
        )

    @classmethod
    def for_prompts(
        cls,
        generator: VideoGenerator,
        prompts: Sequence[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] = "",
        batch_size: int = 8,
        guidance_scale_2: float | None = None,
        rewritten_prompts: Sequence[str] | None = None,
    ) -> SamplingPlan:
        """Plan of prompts that are sampled once; the arguments are those of `VideoGenerator.generate`, and
        `rewritten_prompts`, one a prompt, which the generator is given in its place."""
        prompts = as_list(prompts)
        shape, sigmas = _schedule(generator, (num_frames, height, width), num_inference_steps)
        scale, scale_2 = guidance_scales(generator, guidance_scale, guidance_scale_2)
        conditions, all_rows = encode_unique_prompts(generator, [*prompts, *(rewritten_prompts or ())])
        own_rows, *rewritten_rows = all_rows.split(len(prompts))
        negatives, negative_rows = None, None
        if (scale, scale_2) != (1, 1):
            texts = one_text_each(negative_prompt, len(prompts))
            negatives, negative_rows = encode_unique_prompts(generator, texts)
        return cls(
            generator, prompts, conditions, rewritten_rows[0] if rewritten_rows else own_rows, negatives,
            negative_rows, shape, sigmas, scale, batch_size, guidance_scale_2=scale_2,
            judged_rows=own_rows if rewritten_rows else None,
        )  # fmt: skip

    @property
    def scales(self) -> tuple[float, float]:
        """Scales of guidance of each of two transformers; the same twice where there is one."""
        first, second = self.guidance_scale, self.guidance_scale_2
        return first, first if second is None else second

    def guidance_settings(self) -> dict[str, float]:
        """Scales of guidance by the names of `GenerationDefaults`, the second where there are two transformers."""
        one = self.generator.boundary is None
        return dict(zip(["guidance_scale"] if one else ["guidance_scale", "guidance_scale_2"], self.scales))

    @property
    def guidance(self) -> str:
        """Scales of guidance, for tables."""
        return guidance_text(self.guidance_scale, self.guidance_scale_2)

    def texts(self, prompts: Tensor) -> list[str]:
        """Prompts of the indices `prompts` `[batch]`."""
        return [self.prompts[prompt] for prompt in prompts.tolist()]

    def prepare(self, prompts: Tensor) -> None:
        """Encodes the images of the prompts `[batch]`, before several threads use the autoencoder."""
        if self.images is not None:
            self.images.prepare(prompts)

    def text_conditions_of(self, prompts: Tensor) -> Conditions:
        """Conditions of the texts of the prompts `[batch]`, one row each, for those who judge videos."""
        rows = self.rows if self.judged_rows is None else self.judged_rows
        return self.look_up(self.conditions, rows[prompts])

    def conditions_of(self, prompts: Tensor) -> Conditions:
        """Conditions of the prompts `[batch]`, texts (rewritten ones where there are any) and images, one row each."""
        return {**self.look_up(self.conditions, self.rows[prompts]), **self._seen(prompts)}

    def pictures(self, prompts: Tensor, rewards: RewardMixture) -> Tensor | None:
        """Images `[batch, 3, height, width]` of the prompts `[batch]` for rewards that look at them; None for others,
        and where prompts have none."""
        wanted = self.images is not None and rewards.takes_images
        return self.images.pixels(prompts) if wanted and self.images is not None else None

    def _seen(self, prompts: Tensor) -> Conditions:
        return {} if self.images is None else self.images.conditions_of(prompts)

    def unknown(self, latents: Tensor) -> Tensor:
        """Latents `[..., C, F, H, W]` without the frames that images make known: what is sampled and learnt."""
        known = 0 if self.images is None else known_frames(self.generator, self.images.files)
        return latents[..., known:, :, :]

    def whole(self, latents: Tensor, prompts: Tensor) -> Tensor:
        """The inverse of `unknown`, for latents `[batch, C, F, H, W]` of the prompts `[batch]`."""
        return latents if self.images is None else self.images.whole(latents, prompts)

    def velocity(
        self,
        prompts: Tensor,
        model: torch.nn.Module | None = None,
        unconditional: Tensor | None = None,
        noted: Callable[[Tensor], None] | None = None,
    ) -> Velocity:
        """Guided velocity of latents of the prompts `[batch]`, of those that are not known where images are given.

        Args:
            model: predicts in place of the generator's transformer.
            unconditional, noted: unconditional velocities that are known, and whoever is given those that are not; see
                `guided_velocity`.
        """
        return guided_velocity(
            self.generator,
            self.conditions_of(prompts),
            self._negatives_of(prompts),
            self.guidance_scale,
            model,
            self.guidance_scale_2,
            unconditional,
            noted,
        )

    def unconditional_velocity(self, prompts: Tensor, model: torch.nn.Module) -> Velocity:
        """The velocity of the same latents under the negative prompts; there must be guidance."""
        negative = self._negatives_of(prompts)
        assert negative is not None
        return guided_velocity(self.generator, negative, transformer=model)

    def _negatives_of(self, prompts: Tensor) -> Conditions | None:
        if self.negative_conditions is None or self.negative_rows is None:
            return None
        negative = self.look_up(self.negative_conditions, self.negative_rows[prompts])
        return {**negative, **self._seen(prompts)}


def _schedule(
    generator: VideoGenerator,
    size: tuple[int | None, int | None, int | None],
    num_inference_steps: int | None,
) -> tuple[tuple[int, ...], Tensor]:
    """Latent shape and noise levels, with the generator's own values for None."""
    defaults = generator.defaults
    shape = generator.latent_shape(*video_size(generator, *size))
    sigmas = generator.sigma_schedule(num_inference_steps or defaults.num_inference_steps, shape)
    return shape, sigmas
