"""Reading candidates into the store: folders written by `vidalign generate`, and JSONL files of tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from generator.first_frames import ImageFiles
from generator.one_or_several import as_list
from generator.output import InputError, check_storable, read_jsonl
from generator.video_files.decoding import VIDEO_SUFFIXES, VideoReader, film_rate, opened_video
from labeling_app.browser_video import is_playable
from labeling_app.files.remote_candidates import (
    as_source,
    inspected_images,
    inspected_videos,
    located,
    remote_rows,
)
from labeling_app.files.video_limits import DecodingBudget
from labeling_app.store.new_tasks import NewTask, VideoFile, check_task
from labeling_app.store.remote_files import RemoteFiles
from labeling_app.store.store import Store

CONTENT_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
SUFFIXES = VIDEO_SUFFIXES
"""Content types of the files that can be imported; browsers are shown a copy of those that they do not play."""


@dataclass(frozen=True)
class ImportSummary:
    """Result of an import.

    Attributes:
        added: tasks that are new in the store.
        known: tasks that were there already.
        problems: one sentence for each video or prompt that was left out; empty unless `skip_bad`.
    """

    added: int
    known: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """A prompt and the paths of its videos, and of the images that they begin and end with, as a file names them."""

    prompt: str
    videos: list[Path]
    images: ImageFiles | None = None


def import_tasks(
    store: Store,
    source: str | Path | Sequence[str | Path],
    campaign: str = "default",
    overlap: int | None = None,
    dimensions: Sequence[str] | None = None,
    skip_bad: bool = False,
    progress: bool = False,
    copy: bool = True,
) -> ImportSummary:
    """Imports candidates as tasks; importing the same videos again adds nothing.

    Args:
        source: a folder, of this machine or by its URL (`s3://bucket/folder`), with `metadata.jsonl`
            (`{"file_name", "prompt", "group"?, "image"?}` a line), whose videos of the same prompt (and the same
            `group` and image, if there is one) make one task; or a JSONL file with `prompt` and `videos` a line,
            paths relative to the file, or URLs (a rankings file is one; its ranks are not read). Of several folders
            the videos of the same prompt are put together, so that models can be compared.
        campaign: made if it is new.
        overlap: annotators a task; for a new campaign 1 by default. May change until the first answer.
        dimensions: for a new campaign `("overall",)` by default. May change until the first answer.
        skip_bad: leave out what cannot be used and say so in the summary, instead of importing nothing.
        progress: show a progress bar while videos are read.
        copy: make copies of videos that some browsers do not play now; else each when it is first shown.

    Raises:
        InputError: nothing is there to import, or, without `skip_bad`, something cannot be used. Then nothing
            was imported.
    """
    dimensions = None if dimensions is None else as_list(dimensions)
    tasks, problems = read_tasks(source, skip_bad, progress, store.remote)
    added = store.add_tasks(campaign, tasks, overlap=overlap, dimensions=dimensions, change=True, copy=copy)
    return ImportSummary(added=added, known=len(tasks) - added, problems=tuple(problems))


def read_tasks(
    source: str | Path | Sequence[str | Path],
    skip_bad: bool = False,
    progress: bool = False,
    remote: RemoteFiles | None = None,
) -> tuple[list[NewTask], list[str]]:
    """Tasks that `import_tasks` imports, and the problems of what it leaves out.

    Args:
        remote: fetches files from other storage; without it, sources with URLs are refused.

    Raises:
        InputError: as `import_tasks`.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    candidates = read_candidates([as_source(item) for item in sources], remote)
    paths = list(dict.fromkeys(path for task in candidates for path in task.videos))
    files: dict[Path, VideoFile] = {}
    problems: list[str] = []
    found = inspected_videos(paths, remote, inspect_video)
    bar = tqdm(found, desc="Reading videos", unit="video", disable=not progress, total=len(paths))
    for path, video in zip(paths, bar):
        if isinstance(video, InputError):
            problems.append(str(video))
        else:
            files[path] = video
    if problems and not skip_bad:
        raise InputError(_summary_of_problems(problems))
    tasks = []
    known: dict[ImageFiles | None, tuple[VideoFile | None, VideoFile | None]] = {None: (None, None)}
    for task in candidates:
        videos = [files[path] for path in task.videos if path in files]
        try:
            if task.images not in known:
                known[task.images] = inspected_images(task.images, remote)
            images = known[task.images]
            check_task(task.prompt, [video.path for video in videos])
        except InputError as error:
            if not skip_bad:
                raise
            problems.append(str(error))
            continue
        tasks.append(NewTask(task.prompt, tuple(videos), *images))
    if not tasks:
        raise InputError(_summary_of_problems(problems) if problems else f"No prompts in {sources[0]}.")
    return tasks, problems


def inspect_video(path: str | Path) -> VideoFile:
    """Reads a video to its end, and says whether browsers play it.

    Raises:
        InputError: it does not exist, cannot be decoded, is an image, or is too large (`DecodingBudget`).
    """
    path = Path(path)
    check_storable(str(path.resolve()), "The path of a video is not UTF-8")
    if not path.is_file():
        raise InputError(f"The video {path} does not exist: correct the path.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is not a video file (mp4, webm, mov, mkv, …): convert it to H.264 mp4.")
    with opened_video(path) as reader:
        if not isinstance(reader, VideoReader):
            raise InputError(f"{path} is an image, but videos are ranked: make it a video of one frame.")
        times: list[Fraction] = []
        budget = DecodingBudget(path, reader)
        for time, frame in reader.raw_frames():
            budget.spend(time, frame.height, frame.width)
            if not times:
                height, width = reader.picture(frame).shape[:2]
                playable = is_playable(reader, frame)
            times.append(time)
        fps = film_rate(times, reader.stated_rates)[0]
    return VideoFile(
        path=path.resolve(),
        sha256=file_hash(path),
        content_type=CONTENT_TYPES[path.suffix.lower()] if playable else "video/mp4",
        fps=fps,
        num_frames=len(times),
        width=width,
        height=height,
        playable=playable,
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_candidates(sources: Sequence[Path | str], remote: RemoteFiles | None = None) -> list[Candidates]:
    """The prompts of folders and JSONL files (see `import_tasks`), each with the paths of its videos.

    Args:
        sources: paths, and as strings the URLs of folders and JSONL files in other storage.
        remote: has places for files of other storage; without it, URLs are refused.

    Raises:
        InputError: a source is not there or is none.
    """
    pooled: dict[tuple[str, str, tuple[str, ...]], list[Path]] = {}
    images: dict[tuple[str, ...], ImageFiles | None] = {}
    tasks: list[Candidates] = []
    for source in sources:
        if isinstance(source, str) or source.is_dir():
            if isinstance(source, str) and source.endswith(".jsonl"):
                tasks += _read_jsonl_tasks(source, remote)
                continue
            for prompt, group, path, files in _read_folder(source, remote):
                shown = _contents(files)
                images.setdefault(shown, files)
                pooled.setdefault((prompt, group, shown), []).append(path)
        elif source.is_file():
            tasks += _read_jsonl_tasks(source, remote)
        else:
            raise InputError(
                f"{source} does not exist: give a folder with metadata.jsonl or a JSONL file of tasks."
            )
    for path in (path for videos in (*pooled.values(), *(task.videos for task in tasks)) for path in videos):
        check_storable(str(path.resolve()), "The path of a video is not UTF-8")
    # Several annotators' rankings of the same videos are one task.
    tasks = list({(task.prompt, frozenset(task.videos), task.images): task for task in tasks}.values())
    return [
        Candidates(prompt, videos, images[shown]) for (prompt, _, shown), videos in pooled.items()
    ] + tasks


def _contents(files: ImageFiles | None) -> tuple[str, ...]:
    """Names of what images hold, by which those of two folders are the same; of missing ones, their paths."""
    named = [Path(each) for each in files or () if each is not None]
    return tuple(file_hash(path) if path.is_file() else str(path) for path in named)


def _named_images(
    row: dict[str, Any], where: str, folder: Path | str, remote: RemoteFiles | None
) -> ImageFiles | None:
    """Files that a line names as `image` and `last_image`; they are read later, with the videos."""
    found: list[str | None] = []
    for key in ("image", "last_image"):
        named = [row[name] for name in (key, f"{key}_file_name") if row.get(name) is not None]
        if len(named) > 1 or not all(isinstance(each, str) and each for each in named):
            raise InputError(f"{where}: `{key}` must be the name of one file, found {named}.")
        if named:
            check_storable(named[0], f"{where}: the path of an image is not UTF-8")
        found.append(str(located(folder, named[0], remote)) if named else None)
    if found[0] is None:
        if found[1] is not None:
            raise InputError(f"{where}: `last_image` is given without `image`: name the first image too.")
        return None
    return found[0], found[1]


def _read_folder(
    folder: Path | str, remote: RemoteFiles | None
) -> Iterable[tuple[str, str, Path, ImageFiles | None]]:
    metadata = folder / "metadata.jsonl" if isinstance(folder, Path) else None
    if metadata is not None and not metadata.is_file():
        raise InputError(
            f"{folder} has no metadata.jsonl: give a folder written by `vidalign generate`, or write one line "
            '{"file_name": …, "prompt": …} a video.'
        )
    rows = (
        remote_rows(f"{str(folder).rstrip('/')}/metadata.jsonl") if metadata is None else read_jsonl(metadata)
    )
    for where, row in rows:
        name, prompt, group = row.get("file_name"), row.get("prompt"), row.get("group", "")
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise InputError(
                f'{where}: "file_name" or "prompt" is missing: each line needs both, as strings.'
            )
        images = _named_images(row, where, folder, remote)
        yield prompt, json.dumps(group), located(folder, name, remote), images


def _read_jsonl_tasks(path: Path | str, remote: RemoteFiles | None) -> list[Candidates]:
    tasks = []
    folder = path.parent if isinstance(path, Path) else path.rpartition("/")[0]
    for where, row in read_jsonl(path) if isinstance(path, Path) else remote_rows(path):
        prompt, videos = row.get("prompt"), row.get("videos")
        if not isinstance(prompt, str) or not _is_list_of(videos, lambda item: isinstance(item, str)):
            raise InputError(
                f'{where}: "prompt" (a string) or "videos" (a list of paths) is missing: each line needs both.'
            )
        images = _named_images(row, where, folder, remote)
        tasks.append(Candidates(prompt, [located(folder, video, remote) for video in videos or []], images))
    return tasks


def _is_list_of(value: Any, legal: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(legal(item) for item in value)


def _summary_of_problems(problems: Sequence[str], shown: int = 5) -> str:
    more = f" … and {len(problems) - shown} more" if len(problems) > shown else ""
    return (
        f"Nothing was imported, for {len(problems)} problem(s): {' '.join(problems[:shown])}{more} "
        "(--skip_bad imports the rest)."
    )
