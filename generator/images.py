"""`ImageConditions`: the capability of families whose every video begins with an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.conditions import Conditions

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Sizes without the batch, and dtypes, of conditions."""


@dataclass(frozen=True)
class ImageConditions:
    """Conditions that show the transformer the first frame, to be joined with the conditions of the prompt.

    Attributes:
        encode: the family's computation; takes the arguments of a call, by position.
        shapes: sizes of the conditions for latents `(channels, frames, height, width)`, for forecasts of memory.
    """

    encode: Callable[[Tensor, int], Conditions]
    shapes: Callable[[Sequence[int]], Shapes]

    def __call__(self, images: Tensor, num_frames: int) -> Conditions:
        """Conditions of images, one row an image.

        Args:
            images: `[batch, 3, height, width]` in [-1, 1].
            num_frames: of the videos that begin with them.
        """
        return self.encode(images, num_frames)
