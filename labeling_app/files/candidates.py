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
from generator.output import InputError, check_storable, is_storable, read_jsonl
from generator.video_files.decoding import VIDEO_SUFFIXES, VideoReader, film_rate, opened_video
from generator.video_files.remote_files import RemoteFiles
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
from labeling_app.store.store import Store

CONTENT_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
SUFFIXES = VIDEO_SUFFIXES
"""Content types of the files that can be imported; browsers are shown a copy of those that they do not play."""
NOT_METADATA = frozenset(
    [
        "prompt",
        "file_name",
        "videos",
        "ranks",
        "dimension",
        "annotator",
        "seconds",
        "created_at",
        "votes",
        "tags",
    ]
    + ["metadata", "flag", "comment", "index", "negative_prompt"]
    + [f"{image}{key}" for image in ("image", "last_image") for key in ("", "_file_name", "_sha256")]
)
"""Keys of a line that say what the task or ranking is, or that no lead looks for."""


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
    """A prompt and the paths of its videos, and of the images that they begin and end with, as a file names them.

    Attributes:
        models: the model of each video, where models are compared.
        metadata: other names and values of the file's lines (`named_values`).
    """

    prompt: str
    videos: list[Path]
    images: ImageFiles | None = None
    models: tuple[str, ...] | None = None
    metadata: tuple[tuple[str, str], ...] = ()


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
    tasks, problems = inspect_tasks(candidates, remote, skip_bad, progress)
    if not tasks:
        raise InputError(summary_of_problems(problems) if problems else f"No prompts in {sources[0]}.")
    return tasks, problems


def inspect_tasks(
    candidates: Sequence[Candidates],
    remote: RemoteFiles | None = None,
    skip_bad: bool = False,
    progress: bool = False,
) -> tuple[list[NewTask], list[str]]:
    """Tasks of the candidates whose videos and images can be read, and the problems of the others.

    Raises:
        InputError: something cannot be used, and `skip_bad` is not set.
    """
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
        raise InputError(summary_of_problems(problems))
    tasks = []
    known: dict[ImageFiles | None, tuple[VideoFile | None, VideoFile | None]] = {None: (None, None)}
    for task in candidates:
        places = [place for place, path in enumerate(task.videos) if path in files]
        videos = [files[task.videos[place]] for place in places]
        models = None if task.models is None else tuple(task.models[place] for place in places)
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
        tasks.append(NewTask(task.prompt, tuple(videos), *images, models, task.metadata))
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
    metadata: dict[tuple[str, str, tuple[str, ...]], list[tuple[str, str]]] = {}
    tasks: list[Candidates] = []
    for source in sources:
        if isinstance(source, str) or source.is_dir():
            if isinstance(source, str) and source.endswith(".jsonl"):
                tasks += read_jsonl_tasks(source, remote)
                continue
            for row, prompt, path, files in folder_rows(source, remote):
                group, shown = json.dumps(row.get("group", "")), image_contents(files)
                images.setdefault(shown, files)
                pooled.setdefault((prompt, group, shown), []).append(path)
                metadata.setdefault((prompt, group, shown), []).extend(named_values(row))
        elif source.is_file():
            tasks += read_jsonl_tasks(source, remote)
        else:
            raise InputError(
                f"{source} does not exist: give a folder with metadata.jsonl or a JSONL file of tasks."
            )
    for path in (path for videos in (*pooled.values(), *(task.videos for task in tasks)) for path in videos):
        check_storable(str(path.resolve()), "The path of a video is not UTF-8")
    # Several annotators' rankings of the same videos are one task.
    tasks = list({(task.prompt, frozenset(task.videos), task.images): task for task in tasks}.values())
    return [
        Candidates(key[0], videos, images[key[2]], metadata=tuple(dict.fromkeys(metadata[key])))
        for key, videos in pooled.items()
    ] + tasks


def image_contents(files: ImageFiles | None) -> tuple[str, ...]:
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


def named_values(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of a line that are no part of a task or ranking, and those of its object `metadata`: texts,
    numbers and truth values of up to 200 characters, at most 30; of a longer `rewritten_prompt` the beginning."""
    own = {name: value for name, value in row.items() if name not in NOT_METADATA}
    inner = row.get("metadata")
    own |= inner if isinstance(inner, dict) else {}
    named = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in own.items()
        if isinstance(value, (str, int, float))
    }
    rewritten = named.get("rewritten_prompt", "")
    if len(rewritten) > 200:
        named["rewritten_prompt"] = rewritten[:199] + "…"
    kept = [
        (name, value)
        for name, value in named.items()
        if 0 < len(name) <= 100 and 0 < len(value) <= 200 and is_storable(name) and is_storable(value)
    ]
    return tuple(kept[:30])


def folder_rows(
    folder: Path | str, remote: RemoteFiles | None = None
) -> Iterable[tuple[dict[str, Any], str, Path, ImageFiles | None]]:
    """The lines of a folder's `metadata.jsonl`, each with its prompt, the path of its video and its images.

    Raises:
        InputError: there is none, or a line names no video or no prompt.
    """
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
        name, prompt = row.get("file_name"), row.get("prompt")
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise InputError(
                f'{where}: "file_name" or "prompt" is missing: each line needs both, as strings.'
            )
        yield row, prompt, located(folder, name, remote), _named_images(row, where, folder, remote)


def read_jsonl_tasks(path: Path | str, remote: RemoteFiles | None = None) -> list[Candidates]:
    """The lines of a JSONL file with `prompt` and `videos`.

    Raises:
        InputError: a line has not both.
    """
    tasks = []
    folder = path.parent if isinstance(path, Path) else path.rpartition("/")[0]
    for where, row in read_jsonl(path) if isinstance(path, Path) else remote_rows(path):
        prompt, videos = row.get("prompt"), row.get("videos")
        if not isinstance(prompt, str) or not _is_list_of(videos, lambda item: isinstance(item, str)):
            raise InputError(
                f'{where}: "prompt" (a string) or "videos" (a list of paths) is missing: each line needs both.'
            )
        images = _named_images(row, where, folder, remote)
        paths = [located(folder, video, remote) for video in videos or []]
        tasks.append(Candidates(prompt, paths, images, metadata=named_values(row)))
    return tasks


def _is_list_of(value: Any, legal: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(legal(item) for item in value)


def summary_of_problems(problems: Sequence[str], shown: int = 5) -> str:
    """One sentence on what kept everything from being imported."""
    more = f" … and {len(problems) - shown} more" if len(problems) > shown else ""
    return (
        f"Nothing was imported, for {len(problems)} problem(s): {' '.join(problems[:shown])}{more} "
        "(--skip_bad imports the rest)."
    )
