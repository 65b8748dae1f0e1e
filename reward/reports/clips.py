"""Looping clips inside a page: WebM in a data address, small enough that a report of many stays small."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from generator.video import read_resized

PAGE_BYTES = 2_100_000
"""Bytes of all clips of a page; in base64 they take a third more."""
LARGEST_SIDE = 192
MOST_BYTES = 150_000
"""Of one clip, however few there are."""
_TRIALS = ((30, 1.0), (40, 1.0), (48, 1.0), (50, 0.75), (55, 0.5), (60, 0.33))
"""Rate factor of VP9, and the part of the size; each makes a smaller file than the one before."""
_CODEC = "libvpx-vp9"


def bytes_a_clip(count: int) -> int:
    """Bytes that each of `count` clips of a page may take."""
    return min(MOST_BYTES, PAGE_BYTES // max(count, 1))


def read_shown(path: str | Path) -> tuple[Tensor, float]:
    """A video file as a page shows it, `[3, frames, height, width]` in [-1, 1], and its frames per second.

    Frames larger than `LARGEST_SIDE` are reduced while they are decoded, so that long and large files fit into memory.
    """

    def shown(height: int, width: int) -> tuple[int, int]:
        part = min(1.0, LARGEST_SIDE / max(height, width))
        return max(2, round(height * part)), max(2, round(width * part))

    pixels, fps = read_resized(path, shown)
    return pixels.float() / 127.5 - 1, fps


def video_element(video: Tensor, fps: float, description: str = "", most_bytes: int = MOST_BYTES) -> str:
    """A looping clip as a `<video>` with the browser's own controls: pause, single frames, full screen.

    Args:
        video: `[3, frames, height, width]` in [-1, 1].
        fps: frames per second.
        description: text for screen readers.
        most_bytes: quality and then size are lowered until the clip takes no more, as far as they go.
    """
    frames = _pixels(video)
    poster = _address("image/webp", _still(frames[len(frames) // 2]))
    if _CODEC not in av.codecs_available:
        moving = _address("image/webp", _animation(frames, fps))
        return str(Markup('<img src="{}" alt="{}">').format(moving, description))
    content = b""
    for content in _encodings(frames, fps):
        if len(content) <= most_bytes:
            break
    return str(
        Markup(
            '<video src="{}" poster="{}" width="{}" height="{}" aria-label="{}" autoplay loop muted playsinline '
            "controls disablepictureinpicture></video>"
        ).format(_address("video/webm", content), poster, frames.shape[2], frames.shape[1], description)
    )


def still_element(frame: Tensor, description: str = "") -> str:
    """A frame `[3, height, width]` in [-1, 1] as an `<img>`."""
    address = _address("image/webp", _still(_pixels(frame[:, None])[0]))
    return str(Markup('<img src="{}" alt="{}">').format(address, description))


def _pixels(video: Tensor) -> NDArray[np.uint8]:
    """Frames `[frames, height, width, 3]`: smaller clips magnified without smoothing by a whole factor, larger ones
    reduced, to even sides."""
    frames = video.detach().float().cpu().transpose(0, 1)
    side = max(frames.shape[2:])
    if side > LARGEST_SIDE:
        frames = interpolate(frames, scale_factor=LARGEST_SIDE / side, mode="area")
    elif side * 2 <= LARGEST_SIDE:
        frames = interpolate(frames, scale_factor=LARGEST_SIDE // side, mode="nearest")
    height, width = (max(2, length // 2 * 2) for length in frames.shape[2:])
    if (height, width) != tuple(frames.shape[2:]):
        frames = interpolate(frames, size=(height, width), mode="area")
    pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _encodings(frames: NDArray[np.uint8], fps: float) -> Iterator[bytes]:
    """WebM files of the clip, each smaller than the one before."""
    for rate_factor, part in _TRIALS:
        height, width = (max(2, round(length * part) // 2 * 2) for length in frames.shape[1:3])
        shown = frames
        if part < 1:
            sized = [Image.fromarray(frame).resize((width, height)) for frame in frames]
            shown = np.stack([np.asarray(image) for image in sized])
        yield _webm(shown, fps, rate_factor)


def _webm(frames: NDArray[np.uint8], fps: float, rate_factor: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream: Any = container.add_stream(_CODEC, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.options = {
            "crf": str(rate_factor),
            "b:v": "0",
            "deadline": "realtime",
            "cpu-used": "8",
            "threads": "1",
        }
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _still(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="WEBP", quality=60, method=3)
    return file.getvalue()


def _animation(frames: NDArray[np.uint8], fps: float) -> bytes:
    images = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    images[0].save(
        file,
        format="WEBP",
        save_all=True,
        append_images=images[1:],
        duration=max(1, round(1000 / fps)),
        loop=0,
        quality=80,
        method=3,
    )
    return file.getvalue()


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
