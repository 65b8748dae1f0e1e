"""Copies for browsers of videos that some of them do not play (H.264 with 4:4:4 or 10 bits, HEVC, ProRes, AV1, …).

The original stays where it is and what it is: it is ranked, scored and exported. Annotators are shown the copy, which
is kept with the uploads of the store under the hash of the original's content.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
from tqdm import tqdm

from generator.output import InputError
from generator.video_files.decoding import VideoReader, opened_video
from generator.video_files.remote_files import RemoteFiles
from labeling_app.browser_video import is_playable, write_playable
from labeling_app.store.tables import Media

if TYPE_CHECKING:
    from labeling_app.store.new_tasks import VideoFile


def keep_playable(uploads: Path, videos: Iterable[VideoFile]) -> None:
    """Writes the copies that are missing of videos that some browser does not play.

    Args:
        uploads: folder of the store beside whose files the copies are kept.

    Raises:
        InputError: a copy cannot be written.
    """
    waiting = {
        video.sha256: video.path
        for video in videos
        if not video.playable and not _copy(uploads, video.sha256).is_file()
    }
    for sha256, path in tqdm(
        waiting.items(), desc="Copies for browsers", unit="video", disable=len(waiting) < 20
    ):
        try:
            write_playable(path, _copy(uploads, sha256))
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"{path} is not of a kind that every browser plays, and its copy cannot be written to "
                f"{_copy(uploads, sha256).parent} ({error.strerror}): make room, or convert it to H.264 with yuv420p."
            ) from error


def shown_file(uploads: Path, media: Media, remote: RemoteFiles) -> Path:
    """The file that annotators are shown of a video: itself, or its copy, which is made where it is missing.

    It is missing where the import kept it in another folder than the server looks in, or was before there were copies.

    Raises:
        InputError: the file is elsewhere and cannot be fetched.
    """
    copy = _copy(uploads, media.sha256)
    if copy.is_file():
        return copy
    original = remote.local(media)
    if _plays(str(original), media.sha256):
        return original
    try:
        write_playable(original, copy)
    except (av.FFmpegError, OSError, InputError):
        return original  # most browsers still play it
    return copy


@lru_cache(maxsize=4096)
def _plays(path: str, sha256: str) -> bool:
    """True where every browser plays the file of this content, or none can read it."""
    try:
        with opened_video(path) as reader:
            return not isinstance(reader, VideoReader) or is_playable(reader, next(reader.raw_frames())[1])
    except InputError:
        return True


def _copy(uploads: Path, sha256: str) -> Path:
    return uploads / "playable" / f"{sha256}.mp4"
