"""Writing an uploaded video anew, in a process of its own with limits on time and memory.

    python -m labeling_app.campaigns.transcoding SOURCE TARGET

Only mp4/mov and webm/mkv files are opened, by the demuxer that their first bytes name, so that a playlist or another
format that FFmpeg would follow elsewhere is never read. What comes out is H.264 with yuv420p and the time stamps of the
file, upright, with square pixels and over white, without sound and without the metadata of the file. The last line of
the output is JSON: what the video is, or one sentence why it is refused.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av

from generator.output import InputError
from generator.video_files.decoding import VideoReader, opened_video, shown_size
from labeling_app.browser_video import BrowserWriter

MAXIMUM_BYTES = 200_000_000
MAXIMUM_SIDE = 4096
MAXIMUM_PIXELS = 3840 * 2160
MAXIMUM_SECONDS = 60
MAXIMUM_FRAMES = 3600
MAXIMUM_FPS = 120
LONGEST_SIDE_WRITTEN = 1280
CPU_SECONDS = 120
MEMORY_BYTES = 4 * 2**30
PROCESSES = 2
AT_A_TIME = threading.BoundedSemaphore(PROCESSES)

NOT_A_VIDEO = "This is not an mp4, mov or webm video: convert it and upload it again."
BROKEN = "The video cannot be read to its end, so it may be damaged: save it anew and upload it again."
TOO_LARGE = f"The video is too large: at most {MAXIMUM_SECONDS} seconds, {MAXIMUM_FRAMES} frames and 3840×2160 pixels."


def transcode(source: Path, target: Path) -> None:
    """Checks an upload and writes it anew; two at a time, others wait.

    Raises:
        InputError: it is not a video that can be used; one sentence for the annotator.
    """
    command = [sys.executable, "-m", "labeling_app.campaigns.transcoding", str(source), str(target)]
    with AT_A_TIME:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=2 * CPU_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            target.unlink(missing_ok=True)
            raise InputError(TOO_LARGE) from None
    if done.returncode == 0:
        return
    target.unlink(missing_ok=True)
    said = done.stdout.strip().splitlines()
    # A process that was ended for its time or memory says nothing.
    raise InputError(json.loads(said[-1])["message"] if done.returncode == 2 and said else TOO_LARGE)


def demuxer_of(first_bytes: bytes) -> str | None:
    """FFmpeg's name of the container that a file begins like; None for all but mp4/mov and webm/mkv."""
    if first_bytes[4:8] == b"ftyp":
        return "mov"
    return "matroska" if first_bytes[:4] == b"\x1aE\xdf\xa3" else None


def write_anew(source: Path, target: Path) -> None:
    """Work of the process.

    Raises:
        InputError: one sentence why the file is refused.
    """
    if source.stat().st_size > MAXIMUM_BYTES:
        raise InputError(TOO_LARGE)
    with source.open("rb") as file:
        demuxer = demuxer_of(file.read(16))
    if demuxer is None:
        raise InputError(NOT_A_VIDEO)
    try:
        with opened_video(source, demuxer, {"enable_drefs": "0"}) as reader:
            assert isinstance(reader, VideoReader)
            _check_header(reader)
            _encode(reader, target)
    except _Refused:
        raise
    except InputError as error:  # its message names a file of ours
        raise InputError(NOT_A_VIDEO if "no video stream" in str(error) else BROKEN) from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise InputError(BROKEN) from error


class _Refused(InputError):
    """A refusal in words that the annotator may read."""


def _check_header(reader: VideoReader) -> None:
    width, height = reader.stream.codec_context.width, reader.stream.codec_context.height
    if width < 1 or height < 1:
        raise _Refused(BROKEN)
    if float(reader.container.duration or 0) / av.time_base > MAXIMUM_SECONDS:
        raise _Refused(TOO_LARGE)
    _check_size(reader, height, width)


def _check_size(reader: VideoReader, height: int, width: int) -> None:
    shown = shown_size(height, width, reader.stream.sample_aspect_ratio)
    if max(shown) > MAXIMUM_SIDE or shown[0] * shown[1] > MAXIMUM_PIXELS:
        raise _Refused(TOO_LARGE)


def _encode(reader: VideoReader, target: Path) -> None:
    rate = (reader.stated_rates or [30.0])[0]
    settings = (reader.stream.time_base, min(rate, MAXIMUM_FPS), LONGEST_SIDE_WRITTEN, 16)
    count, time = 0, Fraction(0)
    with BrowserWriter(target, *settings) as writer:
        for time, frame in reader.raw_frames():
            if count == MAXIMUM_FRAMES or time > MAXIMUM_SECONDS:
                raise _Refused(TOO_LARGE)
            _check_size(reader, frame.height, frame.width)
            writer.write(time, reader.picture(frame))
            count += 1
    fps = float((count - 1) / time) if time else 0.0 if count > 1 else 1.0
    if not 1 <= fps <= MAXIMUM_FPS:
        raise _Refused(f"The video has {fps:.1f} frames per second: save it with 1 to {MAXIMUM_FPS}.")


def main() -> int:
    """Runs under limits; 0 when the video was written, 2 when it was refused."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    av.logging.set_level(av.logging.PANIC)
    try:
        write_anew(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        print(json.dumps({"message": str(error)}))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
