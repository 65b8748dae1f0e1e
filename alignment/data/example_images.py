"""Images that training examples begin with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from generator.base import VideoGenerator
from generator.data.latent_cache import Clip
from generator.editing.image_cache import ImageCache, ImageSource, size_of_latents
from generator.first_frames import ImageFiles, check_takes_images
from generator.inputs.conditions import Conditions
from generator.output import InputError

logger = logging.getLogger(__name__)


class TrainingClip(NamedTuple):
    """A clip that is trained on.

    Attributes:
        clip: where it is from.
        latents: `[C, F, H, W]`.
    """

    clip: Clip
    latents: Tensor


class ExampleImages:
    """Conditions of the images of examples, read from the disk for the examples at hand.

    Args:
        generator: encodes them.
        sources: of each example, one a side.
    """

    def __init__(self, generator: VideoGenerator, sources: Sequence[Sequence[ImageSource]]) -> None:
        self.generator = generator
        self.sources = sources
        self.cache = ImageCache(generator)

    def prepare(self, latents: Sequence[Sequence[Tensor]], progress: bool = True) -> None:
        """Encodes the images of all examples, whose sides have these latents, once."""
        wanted = [
            (source, size_of_latents(self.generator, side.shape))
            for sources, sides in zip(self.sources, latents, strict=True)
            for source, side in zip(sources, sides, strict=True)
        ]
        self.cache.prepare(wanted, progress)

    def of(self, index: int, shape: Sequence[int]) -> Conditions:
        """Conditions of an example whose latents have `shape` `(C, F, H, W)`, one row a side, on the CPU."""
        return self.cache.rows(self.sources[index], size_of_latents(self.generator, shape))


def check_all_or_none(source: str, files: Sequence[ImageFiles | None], what: str, pack: bool) -> None:
    """Raises `InputError` where images are named for some of the examples only, or together with packing.

    Args:
        source: file or folder that names them, for messages.
        what: the examples, for messages.
        pack: whether examples are packed.
    """
    named = sum(each is not None for each in files)
    if named and named < len(files):
        raise InputError(
            f"Of the {len(files)} {what} in {source}, {named} name an image: give one to all or to none."
        )
    if named and pack:
        raise InputError(f"{source} names images, which packed rows do not show: set pack to false.")


def training_images(
    generator: VideoGenerator,
    source: str,
    files: Sequence[ImageFiles | None],
    clips: Sequence[Sequence[TrainingClip]],
) -> list[list[ImageSource]] | None:
    """Images of each group of clips, one a clip; None where the model is shown none.

    Args:
        source: file or folder that names images, for messages.
        files: images that are named for each group. Models that need an image are shown the own first frame of each
            clip where there are none, and models that make videos from text alone never see any.
        clips: of each group.

    Raises:
        InputError: the model takes no such images, or a clip does not begin with its image.
    """
    named = [each for each in files if each is not None]
    if named and generator.image is None and generator.frames is None:
        logger.warning(
            f"{generator.name} makes videos from text alone, so it is not shown the images that {source} names."
        )
        return None
    if not named:
        if generator.image is None:
            return None
        return [[each.clip for each in group] for group in clips]
    check_takes_images(generator, files, len(files))
    for group in clips:
        for each in group:
            if each.clip.start > 0:
                raise InputError(
                    f"{source} names images, which videos begin with, but a clip of {each.clip.path} begins at "
                    f"{each.clip.start:g} seconds: use --clips first."
                )
            if generator.image is None and each.latents.shape[1] < 2:
                raise InputError(
                    f"{each.clip.path} is a still, and {source} names its image, so nothing of it would be learnt: "
                    "leave out the image or the still."
                )
    return [[given] * len(group) for given, group in zip(named, clips, strict=True)]
