"""Generates the same prompts and seeds with several models, judges the videos and writes the report.

What is done is on disk after every batch (`metadata.jsonl` and the mp4 files), so an interrupted comparison
goes on where it stopped. Videos are judged as they were generated, before the mp4 encoder sees them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.files.output_folder import (
    Outputs,
    check_output_dir,
    named_videos,
    open_output_dir,
    require_own,
)
from generator.one_or_several import as_list
from generator.output import InputError, read_json, read_jsonl, write_json, write_jsonl
from generator.progress import VideoBar
from generator.prompts import PromptRecord
from generator.video import read_video, write_video
from generator.video_files.pixel_formats import PIXEL_FORMATS
from reward.adherence.evaluate import Sample, judge, load_verifier, summarise
from reward.adherence.verifiers import Categories, Verifier, check_prompts_of
from reward.reports.adherence import write_report
from reward.statistics import CONFIDENCE, RESAMPLES

SETTINGS_NAME = "settings.json"
METADATA_NAME = "metadata.jsonl"
REPORT_NAME = "report.json"
DEFAULTS_NAME = "defaults.json"


@dataclass(frozen=True)
class GenerationSettings:
    """Sizes and sampling; None takes the generator's default."""

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 8
    solver: str = "euler"
    pixel_format: str = "auto"
    guidance_scale_2: float | None = None


@dataclass(frozen=True)
class _Request:
    number: int
    record: PromptRecord
    seed: int

    def file_name(self, model: str) -> str:
        return video_name(model, self.number, self.seed)


def _requests(prompts: Sequence[PromptRecord], num_videos_per_prompt: int, seed: int) -> list[_Request]:
    return [
        _Request(i, record, seed + i * num_videos_per_prompt + j)
        for i, record in enumerate(prompts)
        for j in range(num_videos_per_prompt)
    ]


def video_name(model: str, number: int, seed: int) -> str:
    """Where the video of a model, the number of a prompt and a seed lies in the output folder."""
    return f"videos/{model}/{number:04d}-{seed}.mp4"


def check_evaluation(output_dir: str | Path, settings: Mapping[str, Any], overwrite: bool) -> bool:
    """Returns whether the output folder is that of an interrupted run with the same settings, to go on with.

    Raises:
        InputError: it holds a finished report, a run with other settings or foreign files, and `overwrite` is not set
            or may not delete them.
    """
    folder = Path(output_dir)
    wanted = json.loads(json.dumps(settings))
    if overwrite or not (folder / SETTINGS_NAME).is_file() or (folder / REPORT_NAME).is_file():
        check_output_dir(folder, OUTPUTS, overwrite)
        return False
    require_own(folder, OUTPUTS)
    found = _stored_settings(folder)
    if found == wanted:
        return True
    changed = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    raise InputError(
        f"{folder} holds an unfinished evaluation with other settings ({', '.join(changed)} differ): "
        "give the same settings to go on with it, name another folder, or pass --overwrite."
    )


def _stored_settings(folder: Path) -> dict[str, Any]:
    """Settings of an evaluation's folder; nothing where they are missing or damaged."""
    try:
        found = read_json(folder / SETTINGS_NAME)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _video_names(folder: Path) -> list[str]:
    """The videos that the settings and the metadata of an evaluation's folder tell of."""
    found = _stored_settings(folder)
    try:
        each, seed = int(found["num_videos_per_prompt"]), int(found["seed"])
        return [
            *named_videos(folder, METADATA_NAME),
            *(
                video_name(str(model), number, seed + number * each + copy)
                for model in found["models"]
                for number in range(int(found["prompts"]))
                for copy in range(each)
            ),
        ]
    except (KeyError, TypeError, ValueError):
        return named_videos(folder, METADATA_NAME)


OUTPUTS = Outputs(
    "evaluate",
    (SETTINGS_NAME, DEFAULTS_NAME, METADATA_NAME, REPORT_NAME, "report.html"),
    early=(SETTINGS_NAME, DEFAULTS_NAME),
    is_record=lambda folder: {"models", "num_videos_per_prompt"} <= _stored_settings(folder).keys(),
    listed=_video_names,
)


def read_samples(path: Path) -> list[Sample]:
    """The samples of `metadata.jsonl`; none where it does not exist."""
    if not path.is_file():
        return []
    samples = []
    for place, row in read_jsonl(path):
        try:
            samples.append(Sample(**row))
        except TypeError as error:
            raise InputError(f"{place}: this is not a judged video ({error}): restore the file.") from error
    return samples


def _facts(
    models: Iterable[str],
    prompts: Sequence[PromptRecord],
    num_videos_per_prompt: int,
    seed: int,
    verifier: str,
    questions: str | None,
) -> dict[str, Any]:
    """The settings of an evaluation, without those of the sampler."""
    facts: dict[str, Any] = {
        "models": list(models),
        "prompts": len(prompts),
        "num_videos_per_prompt": num_videos_per_prompt,
        "seed": seed,
        "verifier": verifier,
    }
    return {**facts, "questions": questions} if questions else facts


def _samples_with_videos(folder: Path) -> list[Sample]:
    """The samples of an evaluation's folder whose videos are still there."""
    samples = read_samples(folder / METADATA_NAME)
    return [sample for sample in samples if (folder / sample.file_name).is_file()]


def compare_models(
    models: Mapping[str, Callable[[], VideoGenerator]],
    prompts: Sequence[PromptRecord],
    output_dir: str | Path,
    verifier: str = "world",
    num_videos_per_prompt: int = 1,
    seed: int = 0,
    generation: GenerationSettings = GenerationSettings(),
    references: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    title: str = "Prompt adherence",
    progress: bool = True,
    on_progress: Callable[[float], None] | None = None,
    questions: str | None = None,
    categories: Categories | None = None,
) -> dict[str, Any]:
    """Compares models on the same prompts and seeds; writes videos, `metadata.jsonl`, `report.html`,
    `report.json`.

    Args:
        models: name of each model and a function that loads it; one is held at a time.
        prompts: what to generate. Video j of prompt i has the seed `seed + i * num_videos_per_prompt + j` in
            every model.
        verifier: a name for `reward.adherence.evaluate.load_verifier`.
        references: models that the others are compared with; the first one by default.
        settings: further facts for the report, such as versions.
        overwrite: whether an existing output folder is emptied.
        progress: whether to show a progress bar.
        on_progress: called after every batch with the finished share in [0, 1].
        questions: source of question graphs for `load_verifier`.
        categories: sorts the prompts; by default what belongs to the verifier.

    Returns:
        The summary of `reward.adherence.evaluate.summarise`.

    Raises:
        InputError: the size or the verifier is not valid, or the output folder is in use.
    """
    verify, found_categories = load_verifier(verifier, questions)
    check_prompts_of(verifier, questions, [record.prompt for record in prompts])
    categories = categories or found_categories
    references = as_list(references) or list(models)[:1]
    requests = _requests(prompts, num_videos_per_prompt, seed)
    facts = _facts(models, prompts, num_videos_per_prompt, seed, verifier, questions)
    facts |= {**vars(generation), **(settings or {})}
    folder, opened = Path(output_dir), False
    going_on = check_evaluation(folder, facts, overwrite)
    samples = _samples_with_videos(folder) if going_on else []
    done = {(sample.model, sample.file_name) for sample in samples}
    with VideoBar(len(models) * len(requests), len(done), "Evaluating", disable=not progress) as bar:
        for name, load in models.items():
            missing = [request for request in requests if (name, request.file_name(name)) not in done]
            if not missing:
                continue
            generator = load()
            if not opened:
                open_output_dir(folder, OUTPUTS, overwrite, going_on)
                write_json(folder / SETTINGS_NAME, json.loads(json.dumps(facts)))
                opened = True
            write_json(folder / DEFAULTS_NAME, asdict(generator.defaults))
            stepped = bar.stepped(generation.num_inference_steps or generator.defaults.num_inference_steps)
            judged = _judged_batches(
                name, generator, missing, folder, generation, verify, categories, stepped
            )
            for batch in judged:
                samples += batch
                write_jsonl(folder / METADATA_NAME, [sample.as_row() for sample in samples])
                bar.finish(len(batch))
                if on_progress is not None:
                    on_progress(len(samples) / (len(models) * len(requests)))
            del generator
    order = list(models)
    samples.sort(key=lambda sample: (order.index(sample.model), sample.file_name))
    summary = summarise(samples, references)
    facts = in_effect({**facts, **repeatable(folder)})
    write_report(
        folder, samples, summary, facts, lambda s: read_video(folder / s.file_name), references, title
    )
    return summary


def repeatable(folder: Path) -> dict[str, Any]:
    """Facts that a repetition needs beside the settings: the values that unset sizes stood for, and the bootstrap's."""
    stored = folder / DEFAULTS_NAME
    return {
        "model_defaults": read_json(stored) if stored.is_file() else {},
        "bootstrap": {"resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": 0, "clusters": "prompts"},
    }


def in_effect(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` with the model's own values for the sizes and sampling settings that were not given."""
    defaults = facts["model_defaults"]
    if facts.get("guidance_scale") is not None and defaults.get("guidance_scale_2") is not None:
        defaults = {**defaults, "guidance_scale_2": facts["guidance_scale"]}
    return {name: defaults.get(name) if value is None else value for name, value in facts.items()}


def _judged_batches(
    name: str,
    generator: VideoGenerator,
    requests: Sequence[_Request],
    folder: Path,
    generation: GenerationSettings,
    verify: Verifier,
    categories: Categories,
    stepped: Callable[[int], None],
) -> Iterator[list[Sample]]:
    """Generates the videos of the model `name`, writes them into `folder` and judges them, batch after batch."""
    for start in range(0, len(requests), generation.batch_size):
        batch = requests[start : start + generation.batch_size]
        videos = _generate(generator, batch, generation, stepped)
        files = [request.file_name(name) for request in batch]
        for file_name, video in zip(files, videos):
            full_colour = PIXEL_FORMATS[generation.pixel_format]
            write_video(folder / file_name, video, generator.defaults.fps, full_colour=full_colour)
        yield judge(
            name,
            videos,
            [request.record.prompt for request in batch],
            [request.seed for request in batch],
            verify,
            categories,
            files,
            generator.defaults.fps,
        )


def _generate(
    generator: VideoGenerator,
    batch: Sequence[_Request],
    settings: GenerationSettings,
    stepped: Callable[[int], None],
) -> Tensor:
    """Videos of the requests; those with one negative prompt are generated together."""
    negatives = {request.record.negative_prompt for request in batch}
    parts: dict[int, Tensor] = {}
    for negative in negatives:
        chosen = [i for i, request in enumerate(batch) if request.record.negative_prompt == negative]
        videos = generator.generate(
            [batch[i].record.prompt for i in chosen],
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            seed=[batch[i].seed for i in chosen],
            negative_prompt=negative,
            batch_size=settings.batch_size,
            solver=settings.solver,
            stepped=stepped,
        )
        parts.update(zip(chosen, videos))
    return torch.stack([parts[i] for i in range(len(batch))])
