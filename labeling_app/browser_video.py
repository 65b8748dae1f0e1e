"""Videos for browsers: which of them all browsers play, and H.264 with yuv420p, which is one of these."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from generator.output import atomic_path
from generator.video_files.colour import is_high_dynamic_range, is_transparent
from generator.video_files.decoding import VideoReader, display_matrix, file_address, film_rate, opened_video
from generator.video_files.reformatting import reformatted

LONGEST_SIDE = 1920
"""Longest side of a copy, in pixels."""
SMALL_SIDE = 256
"""Videos with a shorter side below this are doubled in their copy, so that each pixel keeps its colour in yuv420p."""

MP4_SUFFIXES = (".mp4", ".m4v")
_H264_PROFILES = ("Baseline", "Constrained Baseline", "Main", "High")
_BT709, _LIMITED_RANGE = 1, 1
_BRANDS = ("major_brand", "minor_version", "compatible_brands")
_OF_THE_FORMAT = (*_BRANDS, "encoder", "handler_name", "vendor_id", "language")
"""Metadata that every mp4 has; all else is somebody's text, such as a title or the settings of a model."""
_FINEST_BASE = 1_000_000


def is_playable(reader: VideoReader, first: Any) -> bool:
    """True where Chromium, Firefox and Safari all play a file as it is, and show what `generator.video` reads.

    An mp4 with texts in its metadata is not played as it is: they may tell the prompt or the model that made it.

    Args:
        reader: the opened file.
        first: its first frame.
    """
    return not has_texts(reader) and _has_playable_pictures(reader, first)


def has_texts(reader: VideoReader) -> bool:
    """Returns whether the metadata of an mp4 hold a title, a comment, a date or another text of somebody's."""
    if reader.path.suffix.lower() not in MP4_SUFFIXES:
        return False
    return any(
        name not in _OF_THE_FORMAT
        for metadata in (reader.container.metadata, *(each.metadata for each in reader.container.streams))
        for name in metadata
    )


def _has_playable_pictures(reader: VideoReader, first: Any) -> bool:
    codec, suffix = reader.stream.codec_context, reader.path.suffix.lower()
    container = reader.container.format.name
    a, b, c, d = display_matrix(first)
    if is_transparent(first) or is_high_dynamic_range(first) or a * d - b * c < 0:
        return False
    if suffix in MP4_SUFFIXES and container.startswith("mov"):
        plain = first.format.name in ("yuv420p", "yuvj420p")
        return codec.name == "h264" and plain and codec.profile in _H264_PROFILES
    if suffix == ".webm" and container == "matroska,webm":
        opaque = reader.stream.metadata.get("alpha_mode") != "1"
        return codec.name in ("vp8", "vp9") and first.format.name == "yuv420p" and opaque
    return False


class BrowserWriter:
    """Writes frames as H.264 with yuv420p in mp4, BT.709 and tagged so, at the moments that they come with.

    Args:
        target: file to write.
        base: unit of the time stamps in seconds, that of the source.
        rate: frames per second; a hint for the encoder.
        longest_side: in pixels; larger frames are reduced.
        quality: x264's constant rate factor.
        enlarge_below: frames with a shorter side below this are doubled, so that each pixel keeps its colour.
    """

    def __init__(
        self,
        target: Path,
        base: Fraction,
        rate: float,
        longest_side: int,
        quality: int,
        enlarge_below: int = 0,
    ) -> None:
        self.longest_side = longest_side
        self.enlarge_below, self.enlarge = enlarge_below, 1
        self.base = base if base.denominator <= _FINEST_BASE else Fraction(1, 90_000)
        self.last = -1
        options = {"movflags": "faststart"}
        self.container = av.open(file_address(target), "w", format="mp4", options=options)
        hint = Fraction(rate).limit_denominator(1001) if rate >= 1 else Fraction(1)
        stream: Any = self.container.add_stream(
            "libx264", rate=hint, options={"crf": str(quality), "preset": "veryfast"}
        )
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self.base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self.stream = stream

    def __enter__(self) -> BrowserWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.last >= 0:
            self.container.mux(self.stream.encode())
        self.container.close()

    def write(self, time: Fraction, pixels: np.ndarray) -> None:
        """Adds a frame `[height, width, 3]` (uint8 RGB) that is shown `time` seconds after the first."""
        if self.last < 0:
            height, width = pixels.shape[:2]
            self.enlarge = 2 if min(height, width) < self.enlarge_below else 1
            size = written_size(width * self.enlarge, height * self.enlarge, self.longest_side)
            self.stream.width, self.stream.height = size
        if self.enlarge > 1:
            pixels = pixels.repeat(self.enlarge, 0).repeat(self.enlarge, 1)
        frame = reformatted(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
            width=self.stream.width,
            height=self.stream.height,
            format="yuv420p",
            dst_colorspace="ITU709",
            dst_color_range="MPEG",
            interpolation="AREA",
        )
        self.last = max(round(time / self.base), self.last + 1)
        frame.pts, frame.time_base = self.last, self.base
        frame.colorspace, frame.color_range = _BT709, _LIMITED_RANGE
        self.container.mux(self.stream.encode(frame))


def written_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """Even width and height, no side above `longest_side`."""
    scale = min(1.0, longest_side / max(width, height))
    new_width, new_height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    return new_width, new_height


def write_playable(source: Path, target: Path) -> None:
    """Writes the copy of a video that browsers play, in one step; it has no texts in its metadata.

    Where the texts are all that keeps a file from being played as it is, its pictures stay as they are encoded.

    Raises:
        InputError: the video cannot be read.
    """
    with opened_video(source) as reader, atomic_path(target) as temporary:
        assert isinstance(reader, VideoReader)
        if has_texts(reader) and _stays_encoded(source):
            _copy_pictures(source, temporary)
            return
        rate = (reader.stated_rates or [30.0])[0]
        settings = (reader.stream.time_base, rate, LONGEST_SIDE, 12, SMALL_SIDE)
        with BrowserWriter(temporary, *settings) as writer:
            for frame in reader.frames():
                writer.write(frame.time, frame.pixels)


def _stays_encoded(source: Path) -> bool:
    """Returns whether browsers play the pictures of a file as they are, upright."""
    with opened_video(source) as reader:
        assert isinstance(reader, VideoReader)
        _, first = next(reader.raw_frames())
        return display_matrix(first) == (1, 0, 0, 1) and _has_playable_pictures(reader, first)


def _copy_pictures(source: Path, target: Path) -> None:
    options = {"movflags": "faststart"}
    with (
        av.open(file_address(source)) as reading,
        av.open(file_address(target), "w", format="mp4", options=options) as writing,
    ):
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                writing.mux(packet)


@lru_cache(maxsize=4096)
def frame_times(path: str, sha256: str) -> tuple[float, ...] | None:
    """Seconds at which each frame of a film of variable rate begins; None where they follow each other steadily.

    Args:
        path: of the video.
        sha256: of its content.
    """
    with opened_video(path) as reader:
        if not isinstance(reader, VideoReader):
            return None
        packets = reader.container.demux(reader.stream)
        stamps = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
        times = [(stamp - stamps[0]) * reader.stream.time_base for stamp in dict.fromkeys(stamps)]
        if len(times) < 2 or film_rate(times, reader.stated_rates)[1]:
            return None
    return tuple(round(float(time), 4) for time in times)
