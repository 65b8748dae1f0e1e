"""Candidates in other storage: lists of videos read by their URLs, and videos looked at where they were fetched to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from generator.first_frames import ImageFiles
from generator.output import InputError, read_jsonl
from generator.video_files.remote_files import (
    FETCHED_AT_A_TIME,
    RemoteFiles,
    checked_url,
    is_url,
    joined_url,
    read_remote_text,
)
from labeling_app.store.new_tasks import VideoFile
from labeling_app.store.playable import keep_playable
from labeling_app.store.task_images import inspect_images
from labeling_app.store.thumbnails import thumbnail_place, write_thumbnail


def as_source(source: str | Path) -> Path | str:
    """A source of candidates: a path of this machine, or a URL, which a `Path` would spoil.

    Raises:
        InputError: the URL may not be read (`generator.video_files.remote_files.checked_url`).
    """
    return checked_url(str(source)) if is_url(source) else Path(source)


def remote_rows(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Place and contents of each line of a JSONL file in another storage.

    Raises:
        InputError: it cannot be read, or a line is not JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.jsonl"
        try:
            read_remote_text(url, path)
            return [(where.replace(str(path), url), row) for where, row in read_jsonl(path)]
        except InputError as error:
            raise InputError(str(error).replace(str(path), url)) from error


def located(folder: Path | str, name: str, remote: RemoteFiles | None) -> Path:
    """The path of a file that a list in `folder` names; of one elsewhere, the place to which it will be fetched.

    Raises:
        InputError: the name is a URL that may not be read, or that this command does not read.
    """
    if isinstance(folder, Path) and not is_url(name):
        return folder / name
    if remote is None:
        raise InputError(
            f"{name[:80]} is a URL, which this command does not read: fetch the videos, and name a folder."
        )
    return remote.place(name if isinstance(folder, Path) else joined_url(folder, name))


def inspected_videos(
    paths: Sequence[Path], remote: RemoteFiles | None, inspect: Callable[[Path], VideoFile]
) -> Iterator[VideoFile | InputError]:
    """The videos of paths, read, in their order, or why one cannot be used; several are fetched at a time."""

    def look(path: Path) -> VideoFile | InputError:
        try:
            return (
                inspect(path) if remote is None or not remote.url(path) else _fetched(path, remote, inspect)
            )
        except InputError as error:
            return error

    elsewhere = remote is not None and any(remote.url(path) for path in paths)
    if not elsewhere:
        yield from map(look, paths)
        return
    pool = ThreadPoolExecutor(FETCHED_AT_A_TIME)
    try:
        yield from pool.map(look, paths)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted import does not fetch the rest first


def read_videos(
    paths: Sequence[Path], remote: RemoteFiles | None, inspect: Callable[[Path], VideoFile]
) -> Iterator[VideoFile]:
    """The videos of paths, read, in their order.

    Raises:
        InputError: one cannot be used.
    """
    for video in inspected_videos(paths, remote, inspect):
        if isinstance(video, InputError):
            raise video
        yield video


def kept_name(path: Path, remote: RemoteFiles) -> str:
    """The name by which the database and files know a video: its URL, or its absolute path."""
    return remote.url(path) or str(path.resolve())


def with_url(video: VideoFile, path: Path, remote: RemoteFiles) -> VideoFile:
    """A video that was read from `path`, with its URL where that is the place of a fetched file."""
    if not remote.url(path):
        return video
    return replace(video, path=path, url=remote.url(path), remote_version=remote.fetch(path))


def inspected_images(
    files: ImageFiles | None, remote: RemoteFiles | None
) -> tuple[VideoFile | None, VideoFile | None]:
    """The first and the last image, read, fetched before where they are elsewhere."""
    elsewhere = [Path(each) for each in files or () if each and remote and remote.url(Path(each))]
    if remote is None or not elsewhere:
        return inspect_images(files)
    with ExitStack() as stack:
        for path in elsewhere:
            stack.enter_context(remote.held(path))
        versions = {path: remote.fetch(path) for path in elsewhere}
        found = inspect_images(files)
        named = [None if each is None else Path(each) for each in files or ()]
        first, last = (
            replace(image, path=path, url=remote.url(path), remote_version=versions[path])
            if image is not None and path in versions and path is not None
            else image
            for image, path in zip(found, named)
        )
    return first, last


def _fetched(path: Path, remote: RemoteFiles, inspect: Callable[[Path], VideoFile]) -> VideoFile:
    url, uploads = remote.url(path), remote.folder.parent
    with remote.held(path):
        version = remote.fetch(path)
        try:
            video = replace(inspect(path), path=path)
            # Now, while the file is here.
            keep_playable(uploads, [video])
            if not thumbnail_place(uploads, video.sha256).is_file():
                write_thumbnail(path, thumbnail_place(uploads, video.sha256))
        except InputError as error:
            raise InputError(str(error).replace(str(path.resolve()), url).replace(str(path), url)) from error
    return replace(video, url=url, remote_version=version)
