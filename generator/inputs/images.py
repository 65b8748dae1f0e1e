"""`ImageConditions`: the capability of families whose every video begins with an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from generator.inputs.conditions import Conditions

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Sizes without the batch, and dtypes, of conditions."""

LastImage = Literal["never", "optional", "always"]
"""Cases in which a model is given the last frame too."""


@dataclass(frozen=True)
class ImageConditions:
    """Conditions that show the transformer the first frame, to be joined with the conditions of the prompt.

    Attributes:
        encode: the family's computation; takes the arguments of a call, by position.
        shapes: sizes of the conditions for latents `(channels, frames, height, width)`, for forecasts of memory.
        last_image: whether a last frame is taken too.
    """

    encode: Callable[[Tensor, int, Tensor | None], Conditions]
    shapes: Callable[[Sequence[int]], Shapes]
    last_image: LastImage = "never"

    def __call__(self, images: Tensor, num_frames: int, last_images: Tensor | None = None) -> Conditions:
        """Conditions of images, one row an image.

        Args:
            images: `[batch, 3, height, width]` in [-1, 1].
            num_frames: of the videos that begin with them.
            last_images: with which they end, like `images`.
        """
        return self.encode(images, num_frames, None if last_images is None else last_images.to(images))
