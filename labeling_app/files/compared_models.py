"""Blind comparisons of models: videos of several models for the same prompts and seeds, two to a task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from generator.first_frames import ImageFiles
from generator.one_or_several import as_list
from generator.output import InputError
from generator.video_files.remote_files import RemoteFiles, is_url
from labeling_app.files.candidates import (
    Candidates,
    ImportSummary,
    folder_rows,
    image_contents,
    inspect_tasks,
    read_jsonl_tasks,
    summary_of_problems,
)
from labeling_app.files.remote_candidates import as_source
from labeling_app.store.names import composed, is_name
from labeling_app.store.new_tasks import NewTask
from labeling_app.store.store import Store

NAMED = 5
"""Videos without a partner that are named one by one."""

Key = tuple[str, tuple[str, ...], int]
"""Prompt, contents of the images, and seed of a video, or its number where seeds are not known."""


@dataclass(frozen=True)
class ComparedVideos:
    """Videos of several models, matched by prompt and seed.

    Attributes:
        models: their names, in the order in which they were given.
        tasks: pairs of videos, each with the names of the two models.
        unmatched: one sentence for each model with videos that no other model has a partner for.
    """

    models: tuple[str, ...]
    tasks: list[Candidates]
    unmatched: list[str]


def name_sources(sources: Sequence[str]) -> dict[str, Path | str]:
    """`{model: folder or JSONL file}` from `NAME=PATH` or `PATH`, whose last part then is the name; URLs as texts.

    Raises:
        InputError: a path does not exist, a name is unusable, or two are the same.
    """
    named: dict[str, Path | str] = {}
    places: dict[str, Path | str] = {}
    for text in as_list(sources):
        name, separator, path = ("", "", text) if is_url(text) else text.partition("=")
        source = as_source(path if separator else text)
        if isinstance(source, Path) and not source.exists():
            raise InputError(
                f"{source} does not exist: give NAME=FOLDER or FOLDER with the videos of a model."
            )
        whole = source.resolve() if isinstance(source, Path) else source.rstrip("/")
        name = composed(name) if separator else composed(_own_name(source))
        if not is_name(name, 200):
            raise InputError(f"The name of a model is {name[:60]!r}: give 1 to 200 printable characters.")
        if name in named:
            raise InputError(f"Two models would be called {name!r}: name one with NAME={source}.")
        twin = next((other for other, known in places.items() if known == whole), None)
        if twin is not None:
            raise InputError(f"{twin} and {name} are the same videos, {source}: give each model its own.")
        named[name], places[name] = source, whole
    return named


def _own_name(source: Path | str) -> str:
    """The last part of a source's path or URL, without the suffix of a file."""
    if isinstance(source, str):
        return source.rstrip("/").rpartition("/")[2].removesuffix(".jsonl")
    whole = source.resolve()
    return whole.stem if source.is_file() else whole.name


def read_compared(sources: Sequence[str], remote: RemoteFiles | None = None) -> ComparedVideos:
    """Pairs of the videos of different models with the same prompt, images and seed.

    A folder that holds several models, as `evaluate` writes it, is read as those models: by their own names where it
    is the only source, else as `NAME/MODEL`. Videos are matched by their number within the prompt where a
    model has videos without a seed.

    Args:
        sources: `NAME=PATH` or `PATH` of folders and files as `labeling_app.files.candidates` reads them.
        remote: has places for files of other storage; without it, URLs are refused.

    Raises:
        InputError: a source cannot be read, there is only one model, or no video has a partner.
    """
    found: dict[str, list[tuple[str, int | None, Path, ImageFiles | None]]] = {}
    named = name_sources(sources)
    for name, source in named.items():
        for model, video in _videos_of(source, remote):
            own = name if model is None else model if len(named) == 1 else f"{name}/{model}"
            found.setdefault(composed(own), []).append(video)
    if len(found) < 2:
        raise InputError(
            f"Only the videos of {', '.join(found) or 'no model'} were given: compare two models or more."
        )
    has_seeds = all(seed is not None for videos in found.values() for _, seed, _, _ in videos)
    by_key: dict[Key, dict[str, tuple[Path, ImageFiles | None]]] = defaultdict(dict)
    for model, videos in found.items():
        numbers: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for prompt, seed, path, images in videos:
            shown = image_contents(images)
            number = seed if has_seeds and seed is not None else numbers[prompt, shown]
            numbers[prompt, shown] += 1
            if model in by_key[prompt, shown, number]:
                raise InputError(
                    f"{model} has two videos of the prompt {prompt[:60]!r} and seed {seed}: give each its own `seed`."
                )
            by_key[prompt, shown, number][model] = path, images
    tasks = [
        Candidates(key[0], [made[a][0], made[b][0]], made[a][1], (a, b))
        for key, made in by_key.items()
        for a, b in combinations(made, 2)
    ]
    if not tasks:
        seeds = " and seed" if has_seeds else ""
        raise InputError(
            f"{' and '.join(found)} have no prompt{seeds} in common: generate them with the same prompts and seed."
        )
    return ComparedVideos(tuple(found), tasks, _unmatched(by_key, remote))


def import_compared(
    store: Store,
    sources: Sequence[str],
    campaign: str = "default",
    overlap: int | None = None,
    dimensions: Sequence[str] | None = None,
    skip_bad: bool = False,
    progress: bool = False,
) -> tuple[ImportSummary, list[str]]:
    """Imports blind comparisons of models as tasks of two videos; the same import again adds nothing.

    Args:
        sources: see `read_compared`.
        campaign, overlap, dimensions, skip_bad, progress: as for `labeling_app.files.candidates.import_tasks`.

    Returns:
        the summary, and a sentence for each pair of models that differ in what annotators see of the files.

    Raises:
        InputError: as `read_compared`, or something cannot be used. Then nothing was imported.
    """
    compared = read_compared(sources, store.remote)
    tasks, problems = inspect_tasks(compared.tasks, store.remote, skip_bad, progress)
    if not tasks:
        raise InputError(summary_of_problems(problems))
    added = store.add_tasks(campaign, tasks, overlap=overlap, dimensions=dimensions, change=True)
    left_out = (*compared.unmatched, *problems)
    return ImportSummary(added, len(tasks) - added, left_out), told_apart(tasks)


def told_apart(tasks: Sequence[NewTask]) -> list[str]:
    """Sentences on models whose videos differ in size, rate or length, by which annotators may tell them apart."""
    seen: dict[str, Counter[tuple[int, int, float, int]]] = defaultdict(Counter)
    for task in tasks:
        for model, video in zip(task.models or (), task.videos):
            seen[model][video.width, video.height, round(video.fps, 2), video.num_frames] += 1
    usual = {model: counts.most_common(1)[0][0] for model, counts in seen.items()}
    return [
        f"{a} and {b} differ in size, rate or length ({_look(usual[a])} against {_look(usual[b])}), so annotators may "
        "tell them apart."
        for a, b in combinations(usual, 2)
        if usual[a] != usual[b]
    ]


def _look(look: tuple[int, int, float, int]) -> str:
    width, height, fps, frames = look
    return f"{width}×{height}, {fps:g} frames a second, {frames} frames"


def _videos_of(
    source: Path | str,
    remote: RemoteFiles | None,
) -> list[tuple[str | None, tuple[str, int | None, Path, ImageFiles | None]]]:
    """The videos of a source, each with its model where the source holds several."""
    if source.endswith(".jsonl") if isinstance(source, str) else source.is_file():
        return [
            (None, (task.prompt, None, path, task.images))
            for task in read_jsonl_tasks(source, remote)
            for path in task.videos
        ]
    rows = list(folder_rows(source, remote))
    several = len({row.get("model") for row, _, _, _ in rows}) > 1
    return [
        (str(row.get("model")) if several else None, (prompt, _seed(row), path, images))
        for row, prompt, path, images in rows
    ]


def _seed(row: Mapping[str, Any]) -> int | None:
    seed = row.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _unmatched(by_key: Mapping[Key, Mapping[str, Any]], remote: RemoteFiles | None) -> list[str]:
    alone: dict[str, list[str]] = defaultdict(list)
    for made in by_key.values():
        if len(made) == 1:
            model, (path, _) = next(iter(made.items()))
            alone[model].append((remote.url(path) if remote else "") or str(path))
    return [
        f"{len(paths)} video(s) of {model} without a partner of the same prompt and seed: "
        f"{', '.join(paths[:NAMED])}{' …' if len(paths) > NAMED else ''}."
        for model, paths in alone.items()
    ]
