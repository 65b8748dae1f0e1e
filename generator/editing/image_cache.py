"""Conditions of the images that training videos begin with: encoded once, and kept on disk by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from generator.base import VideoGenerator
from generator.data.latent_cache import Clip, Size, default_cache_dir, read_cached, write_cached
from generator.first_frames import ImageFiles, first_frame_conditions, read_images
from generator.inputs.conditions import Conditions, concatenate
from generator.provenance import autoencoder_hash, file_hash, fingerprint

IMAGE_CACHE_VERSION = 1
"""Version of the conditions on disk: greater by one whenever the same image gives others."""

ImageSource = ImageFiles | Clip
"""Files of a first and a last image, or the clip whose own first, and last, frame they are."""


def size_of_latents(generator: VideoGenerator, shape: Sequence[int]) -> Size:
    """Frames, height and width of the video that latents `(channels, frames, height, width)` stand for."""
    side, time = generator.size_multiples()
    _, of_one, rows, _ = generator.latent_shape(1, side, side)
    of_more = generator.latent_shape(time + 1, side, side)[1]
    space = side // rows
    return (shape[1] - of_one) * time // (of_more - of_one) + 1, shape[2] * space, shape[3] * space


class ImageCache:
    """Conditions of the images that videos begin with, read from the disk when they are wanted.

    Those of an 81-frame video of 480×832 take 10 MB with Wan I2V, so a data set's do not fit into memory.

    Args:
        generator: encodes images.
        folder: where conditions are kept, by the contents of files, the size, and the weights that made them;
            `default_cache_dir() / "images"` where None.
    """

    def __init__(self, generator: VideoGenerator, folder: Path | None = None) -> None:
        self.generator = generator
        self.folder = folder or default_cache_dir() / "images"
        self._files: dict[tuple[ImageSource, Size], Path | None] = {}
        self._hashes: dict[str, str] = {}
        self._encoder: str | None = None

    def prepare(self, wanted: Iterable[tuple[ImageSource, Size]], progress: bool = True) -> None:
        """Encodes what is not on disk yet."""
        missing = []
        for each in dict.fromkeys(wanted):
            file = self._file(*each)
            if file is not None and not os.path.isfile(file):  # what is damaged is made again when it is read
                missing.append(each)
        for source, size in tqdm(missing, desc="Encoding images", unit="image", disable=not progress):
            self.row(source, size)

    def row(self, source: ImageSource, size: Size) -> Conditions:
        """Conditions of one video, `[1, …]` on the CPU.

        Args:
            source: its images.
            size: frames, height and width of the video.
        """
        file = self._file(source, size)
        if file is not None and (kept := read_cached(file)) is not None:
            return kept
        first, last = self._pixels(source, size)
        seen = first_frame_conditions(self.generator, first, size[0], last)
        row = {name: value.cpu().clone().contiguous() for name, value in seen.items()}
        if file is not None:
            write_cached(file, row)
        return row

    def rows(self, sources: Sequence[ImageSource], size: Size) -> Conditions:
        """Conditions of several videos of one size, one row each, on the CPU."""
        return concatenate([self.row(source, size) for source in sources])

    def _pixels(self, source: ImageSource, size: Size) -> tuple[Tensor, Tensor | None]:
        """First and last image `[1, 3, height, width]`."""
        from generator.video import read_clip

        if not isinstance(source, Clip):
            first, last = source
            return read_images([first], *size[1:]), None if last is None else read_images([last], *size[1:])
        video = read_clip(source.path, *size, target_fps=self.generator.defaults.fps, start=source.start)
        return video[None, :, 0], video[None, :, -1] if self._wants_last_image else None

    @property
    def _wants_last_image(self) -> bool:
        return self.generator.image is not None and self.generator.image.last_image == "always"

    def _file(self, source: ImageSource, size: Size) -> Path | None:
        """The file that keeps conditions; None where the autoencoder is not known by its weights."""
        key = source, size
        if key not in self._files:
            self._files[key] = self._new_file(source, size)
        return self._files[key]

    def _new_file(self, source: ImageSource, size: Size) -> Path | None:
        encoder = self._encoder_hash()
        if not encoder:
            return None
        if isinstance(source, Clip):
            shown = f"clip {self._hash(source.path)} {source.start} {self.generator.defaults.fps}"
            shown += f" {self._wants_last_image}"
        else:
            shown = " ".join("-" if each is None else self._hash(each) for each in source)
        content = f"{shown} {encoder} {size} {IMAGE_CACHE_VERSION}"
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"

    def _hash(self, file: str | Path) -> str:
        if str(file) not in self._hashes:
            self._hashes[str(file)] = file_hash(file)
        return self._hashes[str(file)]

    def _encoder_hash(self) -> str:
        """Name of what makes conditions of images: family and weights; empty where these are not known."""
        if self._encoder is None:
            generator = self.generator
            autoencoder = autoencoder_hash(generator)
            encoder = getattr(generator.pipeline, "image_encoder", None)
            seen = fingerprint(encoder) if isinstance(encoder, torch.nn.Module) else "-"
            known = generator.image is None
            self._encoder = (
                ""
                if autoencoder is None
                else f"{type(generator).__name__} {known} {autoencoder} {seen} {generator.dtype}"
            )
        return self._encoder
