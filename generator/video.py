"""Reading and writing video files, fitting clips to a size, grids and contact sheets.

A video is a float32 tensor `[3, frames, height, width]` in [-1, 1]; on disk it is H.264 in an mp4 file. Files are
read and written with PyAV, which brings its own FFmpeg libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from generator.one_or_several import as_list
from generator.output import InputError, atomic_path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".gif", ".webm", ".mov", ".mkv", ".m4v"})

FULL_COLOUR_SIDE = 256
"""Videos whose shorter side is at most this are written with full colour resolution (see `write_video`)."""

# ITU-R BT.709, limited range, 8 bits: rows give Y', Cb, Cr of R'G'B' in [0, 1].
_BT709 = torch.tensor(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.5],
        [0.5, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ]
)
_RANGE = torch.tensor([219.0, 224.0, 224.0])
_OFFSET = torch.tensor([16.0, 128.0, 128.0])
_BT709_TAG, _LIMITED_RANGE_TAG = 1, 1  # AVCOL_SPC_BT709 (also primaries and transfer), AVCOL_RANGE_MPEG

# Chroma interpolated instead of repeated, arithmetic rounded instead of truncated.
_EXACT = int(
    Interpolation.BILINEAR
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
)


def read_video(path: str | Path) -> tuple[Tensor, float]:
    """All frames of a video file, or the one frame of an image.

    The rotation that a camera noted in the file is applied, and transparency is laid over white. The whole video
    is held in memory; `read_clip` reads a small clip of a long or large one.

    Args:
        path: mp4, avi, gif, webm or anything else that FFmpeg reads; png and jpg give one frame.

    Returns:
        The video `[3, frames, height, width]` in [-1, 1] and its frames per second (1.0 for an image).

    Raises:
        InputError: the file is missing, empty, not a video, or broken.
    """
    with _opened(path) as (container, stream):
        fps = _frame_rate(path, stream)
        frames = list(_decoded(path, container, stream))
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        frames = [_fit_pixels(frame, *frames[0].shape[:2]) for frame in frames]
    pixels = torch.from_numpy(np.stack(frames))
    return pixels.permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0).contiguous(), fps


def read_clip(
    path: str | Path,
    num_frames: int,
    height: int,
    width: int,
    target_fps: float | None = None,
    start: float = 0.0,
) -> Tensor:
    """`resample(*read_video(path), …)` without ever holding more than the frames of the clip in memory.

    Args:
        path, num_frames, height, width, target_fps, start: as in `read_video` and `resample`.

    Returns:
        The clip `[3, num_frames, height, width]` in [-1, 1].
    """
    with _opened(path) as (container, stream):
        fps = _frame_rate(path, stream)
        count = _count_frames(path, stream) if target_fps is None else None
        wanted = frame_indices(count, fps, num_frames, target_fps, start)
        kept: dict[int, np.ndarray] = {}
        last, index = None, -1
        for index, last in enumerate(_decoded(path, container, stream)):
            if index in wanted:
                kept[index] = _fit_pixels(last, height, width)
            if index >= wanted[-1]:
                break
    if last is not None and index not in kept:
        kept[index] = _fit_pixels(last, height, width)
    clip = torch.from_numpy(np.stack([kept[min(position, index)] for position in wanted]))
    return clip.permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def read_resized(path: str | Path, size: Callable[[int, int], tuple[int, int]]) -> tuple[Tensor, float]:
    """A whole video reduced while it is decoded, so that long and large ones fit into memory.

    Args:
        path: as in `read_video`.
        size: height and width of the result, from those of the video.

    Returns:
        `[3, frames, height, width]` in uint8, and its frames per second.
    """
    with _opened(path) as (container, stream):
        fps = _frame_rate(path, stream)
        frames = [_fit_pixels(frame, *size(*frame.shape[:2])) for frame in _decoded(path, container, stream)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous(), fps


class VideoShape(NamedTuple):
    """Size and rate of a video file: frames, upright height and width in pixels, frames per second."""

    num_frames: int
    height: int
    width: int
    fps: float


def video_shape(path: str | Path) -> VideoShape:
    """Size and rate of a video file, from its header and its first frame; the others are not held in memory.

    Raises:
        InputError: as `read_video`.
    """
    with _opened(path) as (container, stream):
        fps = _frame_rate(path, stream)
        frame = next(_decoded(path, container, stream))
        return VideoShape(_count_frames(path, stream), *frame.shape[:2], fps)


def check_video(path: str | Path) -> None:
    """Raises the `InputError` of `read_video` where not even the first frame of a file can be read."""
    with _opened(path) as (container, stream):
        next(_decoded(path, container, stream))


def write_video(
    path: str | Path, video: Tensor, fps: float, crf: int = 8, full_colour: bool | None = None
) -> None:
    """Writes H.264 in mp4, in one step: the file is complete or it is not there.

    Colours are BT.709, limited range, and tagged so. By default a video whose shorter side is at most
    `FULL_COLOUR_SIDE` pixels, or that has an odd side, keeps a colour for each pixel (4:4:4), because halving the
    colour resolution of a 32x32 clip costs 15 dB; others take 4:2:0, which every player and hardware decoder
    reads. Chromium and FFmpeg play both. Any size works; nothing is padded or scaled.

    Args:
        path: file to write, with the suffix .mp4.
        video: `[3, frames, height, width]` in [-1, 1]; values outside are clamped.
        fps: frames per second.
        crf: x264's constant rate factor; 0 is the best, each 6 halve the size.
        full_colour: True for 4:4:4, False for 4:2:0 (even sizes only), None for the rule above.

    Raises:
        ValueError: the tensor has another shape or non-finite values, or 4:2:0 is asked for an odd size.
    """
    if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"A video is [3, frames, height, width] and not empty, got {list(video.shape)}.")
    if not fps > 0 or not torch.isfinite(video).all():
        raise ValueError(f"A video needs finite pixels and fps above 0, got fps={fps}.")
    height, width = video.shape[2:]
    odd = height % 2 or width % 2
    if full_colour is None:
        full_colour = bool(odd) or min(height, width) <= FULL_COLOUR_SIDE
    if odd and not full_colour:
        raise ValueError(f"4:2:0 needs even sides, got {width}x{height}: pass full_colour=True.")
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if full_colour else "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709_TAG
        context.color_range = _LIMITED_RANGE_TAG
        if height * width <= FULL_COLOUR_SIDE**2:
            context.thread_count = 1
        for index in range(video.shape[1]):
            frame = _encodable_frame(video[:, index])
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt, interpolation="AREA")))
        container.mux(stream.encode())


def frame_indices(
    count: int | None, fps: float, num_frames: int, target_fps: float | None, start: float = 0.0
) -> list[int]:
    """Which frames of a video make a clip of `num_frames` at `target_fps`.

    Args:
        count: frames in the video; None where unknown, and then indices may lie past its end.
        fps: frames per second of the video.
        num_frames: frames of the clip.
        target_fps: frames per second of the clip: frame i shows the moment `start + i / target_fps`, and after
            the end of the video its last frame. None spreads the frames evenly over the whole video.
        start: seconds to skip at the beginning; ignored where `target_fps` is None.

    Returns:
        `num_frames` non-decreasing indices.
    """
    if target_fps is None:
        if count is None:
            raise ValueError("Spreading frames over a video needs its number of frames.")
        return [math.floor(index * (count - 1) / max(num_frames - 1, 1) + 0.5) for index in range(num_frames)]
    indices = [math.floor((start + index / target_fps) * fps + 0.5) for index in range(num_frames)]
    return indices if count is None else [min(index, count - 1) for index in indices]


def resample(
    video: Tensor,
    fps: float,
    num_frames: int,
    height: int,
    width: int,
    target_fps: float | None = None,
    start: float = 0.0,
) -> Tensor:
    """Fits a video to a number of frames, a size and a frame rate.

    The largest centred region of the target's aspect ratio is cut out and resized with an antialiased bilinear
    filter; frames are the nearest in time (see `frame_indices`).

    Args:
        video: `[3, frames, height, width]` in [-1, 1].
        fps: its frames per second.
        num_frames, height, width: size of the result.
        target_fps: frames per second of the result; None spreads the frames over the whole video.
        start: seconds to skip at the beginning.

    Returns:
        `[3, num_frames, height, width]` in [-1, 1].
    """
    indices = frame_indices(video.shape[1], fps, num_frames, target_fps, start)
    unique = sorted(set(indices))
    fitted = _fit(video[:, unique].transpose(0, 1), height, width).transpose(0, 1)
    return fitted[:, [unique.index(index) for index in indices]].contiguous()


def video_grid(videos: Sequence[Tensor] | Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Videos of one size side by side in one video, row by row, on white.

    Args:
        videos: each `[3, frames, height, width]` in [-1, 1]; shorter ones hold their last frame.
        columns: videos in a row; about the square root of their number by default.
        padding: white pixels between videos and around them.

    Returns:
        `[3, frames, rows * (height + padding) + padding, columns * (width + padding) + padding]`.
    """
    if not len(videos):
        raise ValueError("A grid needs at least one video.")
    columns = columns or math.ceil(math.sqrt(len(videos)))
    rows = math.ceil(len(videos) / columns)
    frames = max(video.shape[1] for video in videos)
    height, width = videos[0].shape[2:]
    grid = torch.ones(3, frames, rows * (height + padding) + padding, columns * (width + padding) + padding)
    for index, video in enumerate(videos):
        top = padding + index // columns * (height + padding)
        left = padding + index % columns * (width + padding)
        held = video[:, [min(frame, video.shape[1] - 1) for frame in range(frames)]]
        grid[:, :, top : top + height, left : left + width] = held.float().cpu()
    return grid


def contact_sheet(
    videos: Sequence[Tensor] | Tensor,
    path: str | Path,
    labels: Sequence[str] | None = None,
    num_frames: int = 8,
    min_side: int = 64,
) -> None:
    """A PNG with one row a video: its label, and below it frames spread evenly from first to last.

    Args:
        videos: each `[3, frames, height, width]` in [-1, 1].
        path: file to write.
        labels: one a video, for example its prompt.
        num_frames: frames shown of each video, at most.
        min_side: frames with a shorter side are enlarged by whole factors to at least this.
    """
    labels = None if labels is None else as_list(labels)
    if not len(videos):
        raise ValueError("A contact sheet needs at least one video.")
    strips = []
    for video in videos:
        shown = min(num_frames, video.shape[1])
        frames = video[:, frame_indices(video.shape[1], 1.0, shown, None)].float().cpu()
        factor = math.ceil(min_side / min(video.shape[2:]))
        frames = frames.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        strip = video_grid([frames[:, i : i + 1] for i in range(shown)], columns=shown)
        strips.append(_pixels(strip[:, 0]))
    label_height = 14 if labels is not None else 0
    width = max(strip.shape[1] for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.shape[0] + label_height for strip in strips)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for index, pixels in enumerate(strips):
        if labels is not None:
            text = labels[index].encode("latin-1", "replace").decode("latin-1")
            draw.text((3, top + 1), text, fill="black")
        sheet.paste(Image.fromarray(pixels), (0, top + label_height))
        top += pixels.shape[0] + label_height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; `InputError` where there is none."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist, but a video file was expected there: check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file, but a video file was expected: name one file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes), but a video was expected: replace or remove the file.")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} cannot be read as a video ({error.strerror}): convert it to an mp4 file or remove it."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): check the permissions.") from error
    with container:
        # FFmpeg draws plain text as a video ("tty"); no one who passes a text file means that.
        if not container.streams.video or container.format.name == "tty":
            raise InputError(f"{path} holds no video stream ({container.format.long_name}): name a video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _decoded(path: str | Path, container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Upright frames `[height, width, 3]`, uint8 RGB; `InputError` where decoding breaks or yields nothing."""
    count = 0
    try:
        for frame in container.decode(stream):
            yield _upright_rgb(frame)
            count += 1
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} is broken after {count} frames ({error.strerror}): convert it again or remove it."
        ) from error
    if not count:
        raise InputError(f"{path} holds no frame, but a video was expected: replace or remove the file.")


def _upright_rgb(frame: Any) -> np.ndarray:
    transparent = frame.format.name in {"rgba", "bgra", "argb", "abgr", "pal8", "ya8", "yuva420p", "rgba64be"}
    # Untagged video is BT.601 by custom, as FFmpeg and its players take it.
    matrix = {1: Colorspace.ITU709, 9: Colorspace.BT2020, 7: Colorspace.SMPTE240M, 4: Colorspace.FCC}
    rgb = frame.reformat(
        format="rgba" if transparent else "rgb24",
        src_colorspace=int(matrix.get(frame.colorspace, Colorspace.ITU601)),
        dst_color_range=int(ColorRange.JPEG),
        interpolation=_EXACT,
    ).to_ndarray()
    if transparent:
        alpha = rgb[..., 3:].astype(np.float32) / 255
        rgb = np.rint(rgb[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


def _frame_rate(path: str | Path, stream: Any) -> float:
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return 1.0
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not rate:
        raise InputError(f"{path} states no frame rate: convert it to an mp4 file.")
    return float(rate)


def _count_frames(path: str | Path, stream: Any) -> int:
    if stream.frames:
        return stream.frames
    with _opened(path) as (container, other):
        return sum(1 for _ in _decoded(path, container, other))


def _fit(frames: Tensor, height: int, width: int) -> Tensor:
    """Centre crop to the aspect ratio and antialiased resize of `[frames, 3, height, width]`."""
    old_height, old_width = frames.shape[2:]
    if (old_height, old_width) == (height, width):
        return frames
    scale = min(old_height / height, old_width / width)
    crop_height, crop_width = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (old_height - crop_height) // 2, (old_width - crop_width) // 2
    cropped = frames[:, :, top : top + crop_height, left : left + crop_width]
    resized = functional.interpolate(cropped, (height, width), mode="bilinear", antialias=True)
    return resized.clamp(-1.0, 1.0)


def _fit_pixels(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """`_fit` for one uint8 frame `[height, width, 3]`."""
    video = torch.from_numpy(frame).permute(2, 0, 1)[None].float().div(127.5).sub(1.0)
    return _pixels(_fit(video, height, width)[0])


def _pixels(image: Tensor) -> np.ndarray:
    """`[3, height, width]` in [-1, 1] to uint8 `[height, width, 3]`."""
    return image.permute(1, 2, 0).add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _encodable_frame(image: Tensor) -> av.VideoFrame:
    """`[3, height, width]` in [-1, 1] to a BT.709 frame with one colour a pixel."""
    rgb = image.detach().float().cpu().clamp(-1.0, 1.0).add(1.0).mul(0.5)
    yuv = torch.einsum("ij,jhw->ihw", _BT709, rgb) * _RANGE[:, None, None] + _OFFSET[:, None, None]
    planes = yuv.round().to(torch.uint8).numpy()
    frame = av.VideoFrame(image.shape[2], image.shape[1], "yuv444p")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = _BT709_TAG, _LIMITED_RANGE_TAG
    return frame
