"""Copies for browsers of videos that some of them do not play (H.264 with 4:4:4 or 10 bits, HEVC, ProRes, AV1, …).

The original stays where it is and what it is: it is ranked, scored and exported. Annotators are shown the copy, which
is kept with the uploads of the store under the hash of the original's content.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import av
from tqdm import tqdm

from generator.output import InputError
from labeling_app.browser_video import write_playable
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


def shown_file(uploads: Path, media: Media) -> Path:
    """The file that annotators are shown of a video: its copy where there is one."""
    copy = _copy(uploads, media.sha256)
    return copy if copy.is_file() else Path(media.path)


def _copy(uploads: Path, sha256: str) -> Path:
    return uploads / "playable" / f"{sha256}.mp4"
