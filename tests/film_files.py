"""Films as other programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.scheduling import to_ordinary_scheduling

VARIABLE_TIMES = [0, 0.5, 1, 1.5] + [2 + i / 30 for i in range(60)]


def flat(level: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 30,
    times: Sequence[float] | None = None,
    aspect: int | None = None,
    options: dict[str, str] | None = None,
    source: str = "rgb24",
) -> Path:
    """A film as other programs write it, without a line of ours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 600)
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for index, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixel), format=source)
            if times:
                frame.pts, frame.time_base = round(600 * times[index]), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if codec == "libsvtav1":
        to_ordinary_scheduling()
    return path


def noise(count: int = 60) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8))
