"""The contents of video files: whether they still are what was imported and judged."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from generator.output import InputError
from generator.video_files.remote_files import RemoteFiles, holds_version, is_url
from labeling_app.store.tables import Media, Task

REQUESTS = 16
"""Questions to a storage at a time."""
_State = tuple[int, int, int, int, int]
_hashes: dict[str, tuple[_State, str]] = {}
_lock = threading.Lock()


def content_hash(path: str | Path) -> str | None:
    """SHA-256 of a file's bytes in hexadecimal; None where it is not there or cannot be read.

    A file is read again only where its size, its times or its inode have changed.
    """
    try:
        state = _state(path)
        with _lock:
            known = _hashes.get(str(path))
        if known is not None and known[0] == state:
            return known[1]
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    with _lock:
        _hashes[str(path)] = (state, found)
    return found


def _state(path: str | Path) -> _State:
    found = os.stat(path)
    # The time of the last change of the inode cannot be set back, as that of the contents can.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def is_unchanged(video: Media) -> bool:
    """Returns whether the video's file is there and holds what was imported."""
    return holds_version(video) if is_url(video.path) else content_hash(video.path) == video.sha256


def changed_files(videos: Iterable[Media]) -> list[str]:
    """Paths of the videos whose files are gone or hold something else than was imported, each once."""
    paths = {video.path: video for video in videos}
    elsewhere = [video for path, video in paths.items() if is_url(path)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        held = dict(zip((video.path for video in elsewhere), pool.map(is_unchanged, elsewhere)))
    return [
        path for path, video in paths.items() if not (held[path] if path in held else is_unchanged(video))
    ]


def require_unchanged(videos: Iterable[Media], advice: str) -> None:
    """Refuses videos that are not there any more as they were judged.

    Args:
        advice: what may be done apart from putting them back, for example `pass --skip_bad to leave them out`.

    Raises:
        InputError: a file is gone or holds something else; it names the first five of them.
    """
    bad = changed_files(videos)
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(
            f"{len(bad)} video file(s) have changed or gone since they were judged ({', '.join(bad[:5])}{more}): "
            f"put them back, or {advice}."
        )


def task_media(tasks: Iterable[Task]) -> list[Media]:
    """The videos and images of tasks."""
    return [media for task in tasks for media in (*(video.media for video in task.videos), *task.images)]


def image_files(task: Task, remote: RemoteFiles) -> tuple[str, str | None] | None:
    """Files of the images that a task's videos begin and end with; None where it has none."""
    if task.image is None:
        return None
    last = None if task.last_image is None else str(remote.local(task.last_image))
    return str(remote.local(task.image)), last


def copy_verified(source: str | Path, target: Path, sha256: str) -> None:
    """Copies a file whose contents are known; the copy appears only where it holds them.

    Raises:
        InputError: the source holds something else, or cannot be read.
    """
    digest = hashlib.sha256()
    temporary = target.with_name(f".{target.name}.part")
    try:
        with Path(source).open("rb") as reading, temporary.open("wb") as writing:
            while chunk := reading.read(1 << 20):
                digest.update(chunk)
                writing.write(chunk)
        if digest.hexdigest() != sha256:
            raise InputError(f"The video {source} has changed since it was judged: put the old one back.")
        temporary.replace(target)
    except FileNotFoundError as error:
        raise InputError(f"The video {source} of the campaign is not there any more: put it back.") from error
    finally:
        temporary.unlink(missing_ok=True)
