"""Reading and writing video files, fitting clips to a size, grids and contact sheets.

A video is a float32 tensor `[3, frames, height, width]` in [-1, 1]; on disk it is H.264 in an mp4 file. Files are
read and written with PyAV, which brings its own FFmpeg libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from generator.label_fonts import picture_font
from generator.one_or_several import as_list
from generator.output import InputError, atomic_path
from generator.video_files.decoding import (
    VIDEO_SUFFIXES,
    file_address,
    opened_video,
)
from generator.video_files.pixel_formats import FULL_COLOUR_SIDE
from generator.video_files.reformatting import SMALL_SIDE, reformatted
from generator.video_files.shape import VideoShape, clip_shape, steady_frames, video_shape
from generator.video_files.still_images import IMAGE_SUFFIXES
from generator.video_files.timing import frame_indices, nearest_frames

__all__ = [
    "FULL_COLOUR_SIDE",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "VideoShape",
    "check_video",
    "check_videos",
    "clip_shape",
    "contact_sheet",
    "frame_indices",
    "is_still",
    "read_clip",
    "read_resized",
    "read_video",
    "resample",
    "video_grid",
    "video_shape",
    "write_frames",
    "write_video",
]


_NAMED_AT_MOST = 20

# x264's AVX-512 code of its macroblock tree (`mbtree_propagate_list`) takes 8 macroblocks at a time and does not mask
# those beyond a row: in videos whose width is no multiple of 128 pixels, whatever lay in memory before decides on
# quantisers, and equal frames give different files. This option takes the C code, the same on all processors.
_X264_PARAMETERS = "cpu-independent=1"

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


def read_video(path: str | Path) -> tuple[Tensor, float]:
    """All frames of a video file, or the one frame of an image, as a viewer shows them.

    Frames follow each other at a constant rate: of a file of variable rate each moment `i / fps` shows the frame
    whose time stamp is nearest (see `generator.video_files.timing.even_rate`). The rotation that a camera noted is
    applied, pixels are made square, and transparency is laid over white. The whole video is held in memory;
    `read_clip` reads a small clip of a long or large one.

    Args:
        path: mp4, avi, gif, webm or anything else that FFmpeg reads; png and jpg give one frame.

    Returns:
        The video `[3, frames, height, width]` in [-1, 1] and its frames per second (1.0 for an image).

    Raises:
        InputError: the file is missing, empty, not a video, or broken.
    """
    pixels, fps = _read_whole(path, lambda height, width: (height, width))
    return _as_video(pixels), fps


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
        path, num_frames, height, width, target_fps, start: as in `read_video` and `resample`. Frames are chosen by
            their time stamps, those spread over the whole video too.

    Returns:
        The clip `[3, num_frames, height, width]` in [-1, 1].
    """
    if target_fps is None:
        with opened_video(path) as reader:
            seconds = max(float(frame.time) for frame in reader.frames())
        step, start = seconds / max(num_frames - 1, 1), 0.0
    else:
        step = 1 / target_fps
    moments = [start + index * step for index in range(num_frames)]
    fitted: list[np.ndarray] = []
    previous = None
    with opened_video(path) as reader:
        stamped = ((float(frame.time), frame) for frame in reader.frames(moments[0]))
        for frame in nearest_frames(stamped, moments):
            fitted.append(fitted[-1] if frame is previous else _fit_pixels(frame.pixels, height, width))
            previous = frame
    return _as_video(np.stack(fitted))


def read_resized(path: str | Path, size: Callable[[int, int], tuple[int, int]]) -> tuple[Tensor, float]:
    """A whole video reduced while it is decoded, so that long and large ones fit into memory.

    Args:
        path: as in `read_video`.
        size: height and width of the result, from those of the video.

    Returns:
        `[3, frames, height, width]` in uint8, and its frames per second, as in `read_video`.
    """
    pixels, fps = _read_whole(path, size)
    return torch.from_numpy(pixels).permute(3, 0, 1, 2).contiguous(), fps


def check_video(path: str | Path) -> None:
    """Raises the `InputError` of `read_video` where a file is cut off or not even its first frame can be read."""
    with opened_video(path) as reader:
        _ = next(reader.frames()).pixels


def check_videos(paths: Iterable[str | Path]) -> None:
    """Checks videos with `check_video`, each file once, so that a broken one is known before hours of training.

    Raises:
        InputError: some cannot be used; all of them are named, up to 20.
    """
    distinct = list(dict.fromkeys(Path(path) for path in as_list(paths)))
    problems = []
    for path in distinct:
        try:
            check_video(path)
        except InputError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:_NAMED_AT_MOST])
        more = len(problems) - _NAMED_AT_MOST
        listed += f"\n  … and {more} more" if more > 0 else ""
        raise InputError(
            f"{len(problems)} of {len(distinct)} videos cannot be used: mend them, or remove what names them:{listed}"
        )


def is_still(path: str | Path) -> bool:
    """True for a file of one frame: an image, or a film that ends after its first frame.

    Raises:
        InputError: as `read_video`.
    """
    with opened_video(path) as reader:
        return sum(1 for _ in islice(reader.frames(), 2)) == 1


def write_video(
    path: str | Path, video: Tensor, fps: float, crf: int = 8, full_colour: bool | None = None
) -> None:
    """Writes H.264 in mp4, in one step: the file is complete or it is not there.

    Colours are BT.709, limited range, and tagged so. By default a video whose shorter side is below
    `FULL_COLOUR_SIDE` pixels, or that has an odd side, keeps a colour for each pixel (4:4:4), because halving the
    colour resolution of a 32x32 clip costs 15 dB; others take 4:2:0, which every player and hardware decoder
    reads. Chromium and FFmpeg play both, Safari and most Firefoxes 4:2:0 only. Any size works; nothing is padded or
    scaled. Equal pixels give equal files, whatever the process did before (above `SMALL_SIDE`, where several threads
    encode, on machines of as many cores).

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
    write_frames(path, (video[:, index] for index in range(video.shape[1])), fps, crf, full_colour)


def write_frames(
    path: str | Path, frames: Iterable[Tensor], fps: float, crf: int = 8, full_colour: bool | None = None
) -> int:
    """`write_video` of frames that come one by one, so that long videos need no memory.

    Args:
        frames: each `[3, height, width]` in [-1, 1], all of one size; at least one.
        path, fps, crf, full_colour: as in `write_video`.

    Returns:
        Number of frames.

    Raises:
        ValueError: there is no frame, or 4:2:0 is asked for an odd size.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("A video needs at least one frame.")
    height, width = first.shape[1:]
    odd = height % 2 or width % 2
    if full_colour is None:
        full_colour = bool(odd) or min(height, width) < FULL_COLOUR_SIDE
    if odd and not full_colour:
        raise ValueError(f"4:2:0 needs even sides, got {width}x{height}: pass full_colour=True.")
    count = 0
    with (
        atomic_path(path) as temporary,
        av.open(file_address(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if full_colour else "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium", "x264-params": _X264_PARAMETERS}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709_TAG
        context.color_range = _LIMITED_RANGE_TAG
        if height * width <= SMALL_SIDE**2:
            context.thread_count = 1
        for image in chain([first], remaining):
            frame = _encodable_frame(image)
            container.mux(stream.encode(reformatted(frame, format=stream.pix_fmt, interpolation="AREA")))
            count += 1
        container.mux(stream.encode())
    return count


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
            font, text = picture_font(labels[index], 10)
            draw.text((3, top + 1), text, "black", font)
        sheet.paste(Image.fromarray(pixels), (0, top + label_height))
        top += pixels.shape[0] + label_height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _read_whole(path: str | Path, size: Callable[[int, int], tuple[int, int]]) -> tuple[np.ndarray, float]:
    """All frames at a constant rate, uint8 `[frames, height, width, 3]`, and their rate."""
    with opened_video(path) as reader:
        times: list[Fraction] = []
        pictures: list[np.ndarray] = []
        end = 0.0
        for frame in reader.frames():
            times.append(frame.time)
            wanted = pictures[0].shape[:2] if pictures else size(*frame.pixels.shape[:2])
            pictures.append(
                frame.pixels if frame.pixels.shape[:2] == wanted else _fit_pixels(frame.pixels, *wanted)
            )
            end = float(frame.time) + frame.duration
        fps, indices = steady_frames(reader, times, end)
    if indices is not None:
        pictures = [pictures[index] for index in indices]
    return np.stack(pictures), fps


def _as_video(pixels: np.ndarray) -> Tensor:
    """uint8 `[frames, height, width, 3]` to `[3, frames, height, width]` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


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
    video = torch.from_numpy(frame).permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)
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
