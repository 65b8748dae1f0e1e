"""Decoding of video files and images: upright frames as a viewer shows them, each with its time stamp.

Free of torch, so that programs that only look at a file start quickly.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from generator.output import InputError
from generator.video_files.colour import is_high_dynamic_range, rgb_pixels
from generator.video_files.completeness import missing_bytes
from generator.video_files.still_images import IMAGE_SUFFIXES, image_frames
from generator.video_files.timing import even_rate, steady_rate

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".gif", ".webm", ".mov", ".mkv", ".m4v"})

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that know the transparency of webm, which FFmpeg's own ones drop."""
_STRANGEST_ASPECT = 16
SEEK_SECONDS = 4.0
"""Clips that begin later are looked for by the file's index; earlier ones are decoded from the start."""
_GUESSED_FPS = 25


@dataclass(frozen=True)
class Frame:
    """A frame of a film.

    Attributes:
        picture: gives `pixels`.
        time: seconds since the first frame.
        duration: seconds for which it is shown, where the file says so; else 0.
    """

    picture: Callable[[], np.ndarray]
    time: Fraction
    duration: float = 0.0

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 RGB `[height, width, 3]`, upright, with square pixels; made on the first use, which costs several
        times what decoding costs."""
        return self.picture()


def file_address(path: str | Path) -> str:
    """A path as FFmpeg opens it; it would take `take:2.mp4` for an address with the protocol `take`."""
    return str(Path(path).absolute())


@dataclass
class VideoReader:
    """An opened video; see `opened_video`.

    Attributes:
        path: its file.
        container, stream: of PyAV.
        end: seconds at which the last frame that was decoded ends, by its own duration; 0 where none is stated.
    """

    path: Path
    container: Any
    stream: Any
    end: float = field(default=0.0, init=False)

    @property
    def stated_rates(self) -> list[float]:
        """Frames per second that the file states, most trusted first."""
        rates = (self.stream.average_rate, self.stream.guessed_rate)
        return [float(rate) for rate in rates if rate]

    @property
    def stated_seconds(self) -> float:
        """Duration that the file states; 0 where it states none."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return float(self.container.duration or 0) / av.time_base

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """All frames from the first to the last; those well before `start` seconds may be left out.

        Raises:
            InputError: there is none, or the file breaks off or is damaged.
        """
        warned = False
        for time, raw in self._from(start):
            if not warned and is_high_dynamic_range(raw):
                logger.warning(
                    "%s has high dynamic range (HLG or PQ): its reference white becomes white and what is brighter is "
                    "cut off; convert it to SDR with a program of your choice if that is not what you want.",
                    self.path,
                )
                warned = True
            duration = float((raw.duration or 0) * self.stream.time_base)
            yield Frame(partial(self.picture, raw), time, duration)

    def raw_frames(self, origin: Fraction | None = None) -> Iterator[tuple[Fraction, Any]]:
        """Time in seconds since the first frame, and PyAV's frame; errors as in `frames`.

        Args:
            origin: time stamp of the first frame, in seconds, after a search for a later one; else None.
        """
        count = 0
        try:
            for stamped in self._stamped(self._decoded(), origin):
                yield stamped
                count += 1
        except (av.FFmpegError, _Damaged) as error:
            reason = str(error) if isinstance(error, _Damaged) else error.strerror
            raise InputError(
                f"{self.path} is broken after {count} frames ({reason}): convert it again or remove it."
            ) from error
        if not count:
            raise InputError(
                f"{self.path} holds no frame, but a video was expected: replace or remove the file."
            )

    def _from(self, start: float) -> Iterator[tuple[Fraction, Any]]:
        """`raw_frames`, if possible from the key frame before `start` on, without decoding what is before that."""
        if start < SEEK_SECONDS or self.stream.time_base is None:
            yield from self.raw_frames()
            return
        # One second earlier, so that the frame that is nearest to `start` is there whatever the rate.
        first = next(self.raw_frames())[1]
        origin = None if first.pts is None else Fraction(first.pts) * self.stream.time_base
        found = None if origin is None else self._sought(origin, start - 1)
        if found is None:
            self.container.seek(0)
            yield from self.raw_frames()
            return
        yield from found

    def _sought(self, origin: Fraction, start: float) -> Iterator[tuple[Fraction, Any]] | None:
        """Frames from the last key frame before `start` seconds; None where the file has none that can be found.

        Args:
            origin: time stamp of the first frame, in seconds.
        """
        base = self.stream.time_base
        try:
            self.container.seek(int((origin + Fraction(start)) / base), stream=self.stream, backward=True)
            frames = self.raw_frames(origin)
            first = next(frames)
        except (av.FFmpegError, InputError):
            return None
        return itertools.chain([first], frames) if 0 <= first[0] <= start + 1 else None

    def picture(self, raw: Any) -> np.ndarray:
        """The pixels of a frame as a viewer shows them: uint8 RGB `[height, width, 3]`."""
        height, width = shown_size(raw.height, raw.width, self.stream.sample_aspect_ratio)
        return turned(rgb_pixels(raw, height, width), display_matrix(raw))

    def _decoded(self) -> Iterator[Any]:
        wanted = _WITH_ALPHA.get(self.stream.codec_context.name)
        separate: Any = None
        if wanted and self.stream.metadata.get("alpha_mode") == "1":
            separate = av.CodecContext.create(wanted, "r")
        clean, latest = False, 0.0
        for packet in self.container.demux():
            if packet.stream.index == self.stream.index:
                decoded = (
                    packet.decode() if separate is None else separate.decode(packet if packet.size else None)
                )
                for frame in decoded:
                    if frame.is_corrupt and clean:
                        raise _Damaged("its data are damaged")
                    clean = clean or not frame.is_corrupt
                    yield frame
            if packet.pts is not None and packet.time_base:
                latest = max(latest, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        self._check_reached(latest)

    def _check_reached(self, latest: float) -> None:
        """Raises `_Damaged` where the file states a much later end than that of its last packet."""
        container = self.container
        if container.format.name != "matroska,webm" or not container.duration:
            return  # others state sizes, or say when packets are missing
        first = float(container.start_time or 0) / av.time_base
        stated = first + container.duration / av.time_base
        if latest < stated - max(0.25, 0.05 * stated) - self._longest_gap:
            raise _Damaged(f"it ends at {latest:.1f} of {stated:.1f} seconds")

    def _stamped(
        self, frames: Iterator[Any], origin: Fraction | None = None
    ) -> Iterator[tuple[Fraction, Any]]:
        base = self.stream.time_base
        step = Fraction(1) / Fraction(self.stream.average_rate or self.stream.guessed_rate or _GUESSED_FPS)
        shift, last = Fraction(0), None
        self._longest_gap = 0.0
        for frame in frames:
            stamp = None if frame.pts is None else Fraction(frame.pts) * base
            if last is None:
                shift = -(stamp or Fraction(0)) if origin is None else -origin
                time = Fraction(0) if stamp is None else stamp + shift
            elif stamp is None:
                time = last + step
            else:
                if stamp + shift < last:  # the clock of a joined recording starts again
                    shift = last + step - stamp
                time = stamp + shift
                self._longest_gap = max(self._longest_gap, float(time - last))
            last = time
            yield time, frame


@dataclass
class ImageReader:
    """An opened image; its frames are like those of `VideoReader`."""

    path: Path
    stated_rates: Sequence[float] = ()

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """The one frame, or those of an animation, whatever `start` is."""
        for time, duration, pixels in image_frames(self.path):
            yield Frame(partial(np.asarray, pixels), Fraction(time).limit_denominator(100_000), duration)


class _Damaged(Exception):
    pass


@contextmanager
def opened_video(
    path: str | Path, demuxer: str | None = None, options: Mapping[str, str] | None = None
) -> Iterator[VideoReader | ImageReader]:
    """A file that is there, complete and has a film in it; images have one frame.

    Args:
        path: mp4, avi, gif, webm or anything else that FFmpeg reads, or an image.
        demuxer: FFmpeg's name of the only container that may be opened; by default any.
        options: of the demuxer.

    Raises:
        InputError: it is missing, empty, cut off, or neither a video nor an image.
    """
    path = Path(path)
    _check_file(path)
    if demuxer is None and path.suffix.lower() in IMAGE_SUFFIXES:
        yield ImageReader(path)
        return
    try:
        container = av.open(file_address(path), format=demuxer, options=dict(options or {}))
    except av.FFmpegError as error:
        raise InputError(
            f"{path} cannot be read as a video ({error.strerror}): convert it to an mp4 file or remove it."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): check the permissions.") from error
    with container:
        kind = container.format.name
        if kind.endswith("_pipe") or kind == "image2":
            yield ImageReader(path)
            return
        films = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
        # FFmpeg draws plain text as a video ("tty"); no one who passes a text file means that.
        if not films or kind == "tty":
            raise InputError(f"{path} holds no video stream ({container.format.long_name}): name a video.")
        if container.metadata.get("major_brand", "") in ("heic", "heix", "mif1"):
            raise InputError(
                f"{path} is a photo in HEIF, of which only tiles can be read: convert it to jpg."
            )
        # Threads by frame drop the errors at the end of a damaged file.
        films[0].thread_type = "SLICE"
        yield VideoReader(path, container, films[0])


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist, but a video file was expected there: check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file, but a video file was expected: name one file.")
    try:
        size, missing = path.stat().st_size, missing_bytes(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): check the permissions.") from error
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes), but a video was expected: replace or remove the file.")
    if missing:
        raise InputError(
            f"{path} is broken: its end is missing, at least {missing:,} bytes after the {size:,} that are there; copy "
            "or convert it again, or remove it."
        )


def film_rate(times: Sequence[Fraction], stated: Sequence[float]) -> tuple[float, bool]:
    """Frames per second, and True where the frames follow each other steadily at this rate.

    Args:
        times: seconds of each frame.
        stated: rates that the file states.
    """
    if len(times) == 1:
        return (stated[0] if stated and stated[0] <= 1000 else 1.0), True
    seconds = [float(time) for time in times]
    steady = steady_rate(seconds, stated)
    return (even_rate(seconds, stated), False) if steady is None else (steady, True)


def shown_size(height: int, width: int, aspect: Fraction | None) -> tuple[int, int]:
    """Height and width with square pixels: of non-square pixels the shorter side is stretched, none is lost.

    Args:
        height, width: in pixels of the file.
        aspect: width of a pixel by its height; None or 0 where unknown.
    """
    if not aspect or not 1 / _STRANGEST_ASPECT <= aspect <= _STRANGEST_ASPECT:
        return height, width
    return (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)


def display_matrix(raw: Any) -> tuple[int, int, int, int]:
    """The quarter turns and mirrors that a camera noted: `(a, b, c, d)` with x' = ax + cy, y' = bx + dy."""
    noted = raw.side_data.get(SideData.DISPLAYMATRIX)
    if noted is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(noted), np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        return 0, 1 if b > 0 else -1, 1 if c > 0 else -1, 0
    return 1 if a >= 0 else -1, 0, 0, 1 if d >= 0 else -1


def turned(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """An image `[height, width, 3]` turned and mirrored by a matrix of `display_matrix`."""
    a, b, c, d = matrix
    if b:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])
