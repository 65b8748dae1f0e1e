"""Photos and other images as frames: turned upright, over white, in the colours of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from generator.output import InputError
from generator.video_files.colour import over_white

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
DEFAULT_DURATION = 0.1
"""Seconds of a frame of an animation that states none, as browsers take it."""

BROKEN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Errors that Pillow raises on broken files."""


def image_frames(path: str | Path) -> Iterator[tuple[float, float, np.ndarray]]:
    """Time and duration in seconds and the pixels `[height, width, 3]` (uint8) of each frame of an image.

    The orientation that a camera noted is applied, mirrored ones too. Only animations (webp, png) have several frames.

    Raises:
        InputError: it is not an image, or broken.
    """
    try:
        with Image.open(path) as image:
            time = 0.0
            animated = image.format in ("WEBP", "PNG") and getattr(image, "n_frames", 1) > 1
            for frame in ImageSequence.Iterator(image):
                pixels = _rgb(ImageOps.exif_transpose(frame))
                # Known only after the pixels have been read.
                seconds = (frame.info.get("duration") or 0) / 1000 or DEFAULT_DURATION
                yield time, seconds, pixels
                time += seconds
                if not animated:
                    return
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image that can be read: convert it to png or remove it."
        ) from error
    except BROKEN_IMAGE as error:
        raise InputError(f"{path} is broken ({error}): save it again or remove it.") from error


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # grey of 16 bits, which Pillow would clip to 8
        grey = np.asarray(image.convert("I"), np.int64)
        return np.repeat(np.clip((grey + 128) // 257, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))
