"""`VideoGenerator`: a video model with its sampler. Trainers, samplers and evaluators speak only to this class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from generator.first_frames import ImageFiles
from generator.hardware.compilation import compile_each
from generator.sampling import generate_videos
from generator.video_model import VideoModel


class VideoGenerator(VideoModel):
    """A text-to-video generator: the operations of `VideoModel`, and videos from prompts in one call."""

    def compile_blocks(self, **options: Any) -> None:
        """Compiles each repeated block when it first runs (regional `torch.compile`); all share the code.

        Shapes are compiled as they are: a rollout and an update have one each.

        Args:
            options: for `torch.compile`, over `dynamic=False`.
        """
        compile_each(self.blocks(), **options)

    def generate(
        self,
        prompts: Sequence[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        negative_prompt: str | Sequence[str] = "",
        batch_size: int = 8,
        progress: bool = False,
        solver: str = "euler",
        stepped: Callable[[int], None] | None = None,
        guidance_scale_2: float | None = None,
        images: Sequence[ImageFiles] | None = None,
    ) -> Tensor:
        """Videos `[len(prompts), 3, frames, height, width]` in [-1, 1] on the CPU.

        The noise of a video depends only on its own seed, so a video is the same in any batch.

        Args:
            prompts: one a video; repeat a prompt for several videos of it. A string is one prompt.
            seed: one seed a prompt, or one integer s, by which video i gets the seed s + i.
            negative_prompt: prompt of the unconditional branch when `guidance_scale` is not 1, or one for each prompt.
            solver: of the ODE, one of `solvers.SOLVERS`.
            stepped: is given the number of videos in the batch after each denoising step, to show progress.
            guidance_scale_2: weight for the second of two transformers, that of low noise; `guidance_scale` where that
                alone is given.
            images: files of the first image of each video and of its last, or None in its place.

        Raises:
            InputError: the size is not one that the family can make, there is no such solver, or images are missing or
                not taken.
        """
        return generate_videos(
            self,
            prompts,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            batch_size=batch_size,
            progress=progress,
            solver=solver,
            stepped=stepped,
            guidance_scale_2=guidance_scale_2,
            images=images,
        )
