"""Judges videos that exist already, of any model or none that is here, and writes the same report.

What is judged is on disk after every batch (`metadata.jsonl`), so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from generator.data.demonstrations import METADATA, read_demonstrations
from generator.files.output_folder import open_output_dir
from generator.one_or_several import as_list
from generator.output import InputError, read_jsonl, write_json, write_jsonl
from generator.video import read_video
from reward.adherence.evaluate import judge, load_verifier, summarise
from reward.adherence.verifiers import Categories, check_prompts_of
from reward.reports.adherence import write_report
from reward.reports.clips import read_shown
from reward.reports.comparison import (
    METADATA_NAME,
    OUTPUTS,
    SETTINGS_NAME,
    check_evaluation,
    measuring,
    read_samples,
    repeatable,
)

BATCH_BYTES = 2**28
"""Most memory of the videos that are judged together, unless one takes more."""


@dataclass(frozen=True)
class ExistingVideo:
    """One video that is judged.

    Attributes:
        model: what made it, as the report calls it.
        prompt: what it was asked to show.
        seed: of its noise where the folder tells, else its number among the videos of its prompt.
        path: its file.
    """

    model: str
    prompt: str
    seed: int
    path: Path


def name_folders(folders: Sequence[str]) -> dict[str, Path]:
    """`{name in the report: folder}` from `NAME=FOLDER` or `FOLDER`, whose last part then is the name.

    Raises:
        InputError: a folder is missing, or two would have one name.
    """
    named: dict[str, Path] = {}
    for text in as_list(folders):
        name, separator, path = text.partition("=")
        folder = Path(path if separator else text)
        name = name if separator else folder.resolve().name
        if not folder.is_dir():
            raise InputError(f"The folder of videos {folder} does not exist: give NAME=FOLDER or FOLDER.")
        if name in named:
            raise InputError(
                f"Two models would be called {name!r} in the report: name one with NAME={folder}."
            )
        named[name] = folder
    return named


def existing_videos(folders: Mapping[str, Path]) -> list[ExistingVideo]:
    """The videos of all folders with their prompts.

    A folder is one that `generate` wrote, or any that `generator.data.demonstrations` reads; one that `evaluate` wrote
    holds several models, which are then called `NAME/MODEL`.

    Raises:
        InputError: a folder has no prompts or an unreadable video, or two videos of a model have one prompt and seed.
    """
    found: list[ExistingVideo] = []
    for name, folder in folders.items():
        known = _rows_of(folder)
        several = len({row.get("model") for row in known.values()}) > 1
        numbers: Counter[tuple[str, str]] = Counter()
        for each in read_demonstrations(folder):
            row = known.get(each.video, {})
            model = f"{name}/{row['model']}" if several else name
            seed = row.get("seed")
            number = numbers[model, each.prompt]
            numbers[model, each.prompt] += 1
            found.append(
                ExistingVideo(model, each.prompt, number if not isinstance(seed, int) else seed, each.video)
            )
    twice = [key for key, n in Counter((v.model, v.prompt, v.seed) for v in found).items() if n > 1]
    if twice:
        model, prompt, seed = twice[0]
        raise InputError(
            f"{model} has two videos of the prompt {prompt!r} and seed {seed}: give each its own `seed` in {METADATA}."
        )
    return found


def _rows_of(folder: Path) -> dict[Path, dict[str, Any]]:
    """Lines of `metadata.jsonl` by video; empty without that file."""
    if not (folder / METADATA).is_file():
        return {}
    rows = [row for _, row in read_jsonl(folder / METADATA)]
    return {folder / str(row.get("file_name")): row for row in rows if isinstance(row, dict)}


def judge_existing(
    folders: Mapping[str, Path],
    output_dir: str | Path,
    verifier: str,
    *,
    questions: str | None = None,
    categories: Categories | None = None,
    measures: Sequence[str] = (),
    references: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    title: str = "Prompt adherence",
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Judges the videos of several folders, each as one model; writes `metadata.jsonl`, `report.html`, `report.json`.

    Models are compared on the prompts and seeds that all have.

    Args:
        folders: `{name in the report: folder}`.
        verifier, questions, measures: as for `reward.reports.comparison.compare_models`.
        categories: sorts the prompts; by default what belongs to the verifier.
        settings: further facts for the report.

    Returns:
        The summary of `reward.adherence.evaluate.summarise`.

    Raises:
        InputError: the videos cannot be used, the models share no prompt and seed, the verifier is not valid, or the
            output folder is in use.
    """
    videos, folder = existing_videos(folders), Path(output_dir)
    models = list(dict.fromkeys(video.model for video in videos))
    references = as_list(references) or models[:1]
    unknown = [name for name in references if name not in models]
    if unknown:
        raise InputError(f"The reference {unknown[0]!r} is not among the models {', '.join(models)}.")
    kept = _shared(videos, models)
    prompts = [video.prompt for video in kept]
    check_prompts_of(verifier, questions, prompts)
    own = _facts(len(videos), len(kept), models, folders, verifier, questions, measures)
    facts = {**own, **(settings or {})}
    for source in folders.values():
        _refuse_source_inside(source, folder)
    going_on = check_evaluation(folder, facts, overwrite)
    verify, own_categories = load_verifier(verifier, questions)
    rewards = measuring(measures, prompts)
    samples = read_samples(folder / METADATA_NAME) if going_on else []
    done = {(sample.model, sample.prompt, sample.seed) for sample in samples}
    missing = [video for video in kept if (video.model, video.prompt, video.seed) not in done]
    begin = _nothing if going_on else partial(_begin, folder, facts, overwrite)
    with tqdm(total=len(kept), initial=len(done), desc="Judging", unit="video", disable=not progress) as bar:
        for batch, pixels, fps in _batches(missing, batch_size):
            names = [os.path.relpath(video.path, folder) for video in batch]
            texts, seeds = [video.prompt for video in batch], [video.seed for video in batch]
            sort = categories or own_categories
            found = judge(batch[0].model, pixels, texts, seeds, verify, sort, names, fps, rewards)
            begin()
            begin = _nothing
            samples += found
            write_jsonl(folder / METADATA_NAME, [sample.as_row() for sample in samples])
            bar.update(len(batch))
    order = {(v.model, v.prompt, v.seed): place for place, v in enumerate(kept)}
    samples.sort(key=lambda sample: order[sample.model, sample.prompt, sample.seed])
    summary = summarise(samples, references)
    facts |= {"bootstrap": repeatable(folder)["bootstrap"], "subtitle": _subtitle(len(videos) - len(kept))}
    write_report(
        folder, samples, summary, facts, lambda s: read_shown(folder / s.file_name), references, title
    )
    return summary


def _begin(folder: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Opens the folder, once a first batch was judged."""
    open_output_dir(folder, OUTPUTS, overwrite)
    write_json(folder / SETTINGS_NAME, json.loads(json.dumps(facts)))


def _nothing() -> None:
    """Stands for the beginning of a run that has begun."""


def _facts(
    videos: int,
    kept: int,
    models: Sequence[str],
    folders: Mapping[str, Path],
    verifier: str,
    questions: str | None,
    measures: Sequence[str],
) -> dict[str, Any]:
    """Settings that an interrupted run must share with the one that goes on."""
    asked = {"questions": questions, "measures": list(measures)}
    return {
        "models": list(models),
        "videos": {name: str(path) for name, path in folders.items()},
        "left_out": videos - kept,
        "verifier": verifier,
        **{name: value for name, value in asked.items() if value},
    }


def _shared(videos: Sequence[ExistingVideo], models: Sequence[str]) -> list[ExistingVideo]:
    """The videos of the prompts and seeds that every model has."""
    keys = [{(v.prompt, v.seed) for v in videos if v.model == model} for model in models]
    shared = set.intersection(*keys)
    if not shared:
        raise InputError(
            "The folders have no prompt and seed in common: generate them with the same prompts and seed."
        )
    return [video for video in videos if (video.prompt, video.seed) in shared]


def _refuse_source_inside(source: Path, folder: Path) -> None:
    if folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise InputError(
            f"The videos {source} lie in the output folder {folder}: name another one, which will hold the report only."
        )


def _batches(
    videos: Sequence[ExistingVideo], size: int
) -> Iterator[tuple[list[ExistingVideo], Tensor, float]]:
    """Videos of one model, one shape and one frame rate together."""
    waiting: list[tuple[ExistingVideo, Tensor]] = []
    rate = 0.0
    for video in videos:
        pixels, fps = read_video(video.path)
        if waiting:
            first, other = waiting[0]
            alike = first.model == video.model and other.shape == pixels.shape and rate == fps
            held = sum(tensor.nbytes for _, tensor in waiting)
            if not alike or len(waiting) >= size or held + pixels.nbytes > BATCH_BYTES:
                yield [v for v, _ in waiting], torch.stack([p for _, p in waiting]), rate
                waiting = []
        rate = fps
        waiting.append((video, pixels))
    if waiting:
        yield [v for v, _ in waiting], torch.stack([p for _, p in waiting]), rate


def _subtitle(left_out: int) -> str:
    if not left_out:
        return ""
    return f"{left_out} videos of prompts and seeds that not every model has are left out."
