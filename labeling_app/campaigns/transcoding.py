"""Writing an uploaded video anew, in a process of its own with limits on time and memory.

    python -m labeling_app.campaigns.transcoding SOURCE TARGET

Only mp4/mov and webm/mkv files are opened, by the demuxer that their first bytes name, so that a playlist or another
format that FFmpeg would follow elsewhere is never read. What comes out is H.264 with yuv420p, without sound and without
the metadata of the file. The last line of the output is JSON: what the video is, or one sentence why it is refused.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from generator.output import InputError

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
    """What the process does.

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
        with av.open(str(source), format=demuxer, options={"enable_drefs": "0"}) as container:
            if not container.streams.video:
                raise InputError(NOT_A_VIDEO)
            stream = container.streams.video[0]
            fps = _checked_rate(container, stream)
            count = _encode(container, stream, fps, target)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(BROKEN) from error
    if count == 0:
        raise InputError(BROKEN)


def _checked_rate(container: Any, stream: Any) -> Fraction:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1:
        raise InputError(BROKEN)
    seconds = float(container.duration or 0) / av.time_base
    if max(width, height) > MAXIMUM_SIDE or width * height > MAXIMUM_PIXELS or seconds > MAXIMUM_SECONDS:
        raise InputError(TOO_LARGE)
    fps = stream.average_rate or stream.guessed_rate
    if not fps or not 1 <= fps <= MAXIMUM_FPS:
        raise InputError(
            f"The video has {float(fps or 0):.1f} frames per second: save it with 1 to {MAXIMUM_FPS}."
        )
    return Fraction(fps).limit_denominator(1001)


def _encode(container: Any, stream: Any, fps: Fraction, target: Path) -> int:
    count = 0
    with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as written:
        output = written.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryfast"})
        output.pix_fmt = "yuv420p"
        for frame in container.decode(stream):
            if count == MAXIMUM_FRAMES or frame.width * frame.height > MAXIMUM_PIXELS:
                raise InputError(TOO_LARGE)
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0) // 90 % 4)
            if count == 0:
                output.width, output.height = _written_size(pixels.shape[1], pixels.shape[0])
            fresh = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            written.mux(output.encode(fresh.reformat(output.width, output.height, "yuv420p")))
            count += 1
        if count:
            written.mux(output.encode())
    return count


def _written_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, LONGEST_SIDE_WRITTEN / max(width, height))
    return tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))  # type: ignore[return-value]


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
