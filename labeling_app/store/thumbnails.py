"""Thumbnails of videos: one small JPEG each, made once, so that lists of them load no videos."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from generator.output import atomic_path
from generator.video_files.remote_files import RemoteFiles
from labeling_app.store.tables import Media
from labeling_app.store.task_images import first_frame

LONGEST_SIDE = 320
"""Of a thumbnail, in pixels."""
QUALITY = 70


def thumbnail(uploads: Path, media: Media, remote: RemoteFiles) -> Path:
    """The JPEG of a video's first frame, or of an image, which is made where it is missing.

    Raises:
        InputError: the original cannot be read, or is elsewhere and cannot be fetched.
    """
    path = thumbnail_place(uploads, media.sha256)
    if not path.is_file():
        write_thumbnail(remote.local(media), path)
    return path


def thumbnail_place(uploads: Path, sha256: str) -> Path:
    """The path of the thumbnail of a file with these contents."""
    return uploads / "thumbnails" / f"{sha256}.jpg"


def write_thumbnail(source: Path, path: Path) -> None:
    """Writes the thumbnail of a video or image, in one step.

    Raises:
        InputError: it cannot be read.
    """
    picture = Image.fromarray(first_frame(source))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="JPEG", quality=QUALITY, optimize=True)
