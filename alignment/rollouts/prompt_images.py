"""`PromptImages`: what a generator sees of the images of prompts, for the prompts at hand only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.first_frames import ImageFiles, conditions_of_files, known_frames, read_images
from generator.inputs.conditions import KNOWN_LATENTS, Conditions, concatenate
from generator.video_files.control_files import ControlFiles


class PromptImages:
    """Conditions of the images of prompts, encoded when they are needed and kept on the CPU until `prepare`.

    Those of an 81-frame video of 480×832 take 10 MB with Wan I2V, so thousands would not fit.

    Args:
        generator: encodes them.
        files: first and last image of each prompt, or its control video and mask.
        size: frames, height and width of the videos.
    """

    def __init__(
        self, generator: VideoGenerator, files: Sequence[ImageFiles], size: tuple[int, int, int]
    ) -> None:
        self.generator, self.size = generator, size
        self.files = [_as_text(each) for each in files]
        self._kept: dict[ImageFiles, Conditions] = {}

    def prepare(self, prompts: Tensor) -> None:
        """Encodes the images of the prompts `[batch]`, each once, and forgets all others."""
        wanted = {self.files[prompt] for prompt in prompts.tolist()}
        self._kept = {files: kept for files, kept in self._kept.items() if files in wanted}
        self.conditions_of(prompts)

    def conditions_of(self, prompts: Tensor) -> Conditions:
        """Conditions of the images of the prompts `[batch]`, one row each, on the generator's device."""
        files = [self.files[prompt] for prompt in prompts.tolist()]
        for each in dict.fromkeys(files):
            if each not in self._kept:
                seen = conditions_of_files(self.generator, [each], self.size)
                self._kept[each] = {name: value.cpu() for name, value in seen.items()}
        rows = concatenate([self._kept[each] for each in files])
        return {name: value.to(self.generator.device) for name, value in rows.items()}

    def pixels(self, prompts: Tensor) -> Tensor | None:
        """First images `[batch, 3, height, width]` in [-1, 1] of the prompts `[batch]`, on the CPU; None where they
        have control videos instead."""
        if any(isinstance(each, ControlFiles) for each in self.files):
            return None
        files = [self.files[prompt][0] for prompt in prompts.tolist()]
        distinct = list(dict.fromkeys(files))
        read = read_images(distinct, *self.size[1:])
        return read[[distinct.index(file) for file in files]]

    def whole(self, latents: Tensor, prompts: Tensor) -> Tensor:
        """Latents `[batch, C, F, H, W]` behind the frames that their prompts' images make known, if there are any."""
        if not known_frames(self.generator, self.files):
            return latents
        return torch.cat([self.conditions_of(prompts)[KNOWN_LATENTS].to(latents), latents], dim=2)


def _as_text(files: ImageFiles) -> ImageFiles:
    first, last = str(files[0]), None if files[1] is None else str(files[1])
    return ControlFiles(first, last) if isinstance(files, ControlFiles) else (first, last)
