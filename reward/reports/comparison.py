"""Generates the same prompts and seeds with several models, judges the videos and writes the report.

What is done is on disk after every batch (`metadata.jsonl` and the mp4 files), so an interrupted comparison
goes on where it stopped. Videos are judged as they were generated, before the mp4 encoder sees them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from generator.base import VideoGenerator
from generator.data.prompts import PromptRecord
from generator.files.output_folder import (
    open_output_dir,
)
from generator.first_frames import read_images
from generator.generation import (
    GenerationSettings,
    PlannedVideo,
    describe_generation,
    generate_videos_to,
    plan_videos,
    require_all,
)
from generator.one_or_several import as_list
from generator.output import InputError, read_json, read_jsonl, write_json, write_jsonl
from generator.training.progress import VideoBar
from generator.training.shared_work import SharedWork
from reward.adherence.evaluate import Sample, judge, load_verifier, summarise
from reward.adherence.verifiers import Categories, Verifier, check_prompts_of
from reward.reports.adherence import write_report
from reward.reports.clips import read_shown
from reward.reports.evaluation_folder import (
    DEFAULTS_NAME,
    METADATA_NAME,
    OUTPUTS,
    PART,
    SETTINGS_NAME,
    check_evaluation,
    video_name,
)
from reward.statistics import CONFIDENCE, RESAMPLES

if TYPE_CHECKING:
    from reward.models.base import RewardModel


def _plan(
    model: str, prompts: Sequence[PromptRecord], num_videos_per_prompt: int, seed: int
) -> list[PlannedVideo]:
    """The videos of one model."""
    return plan_videos(
        prompts,
        num_videos_per_prompt,
        seed,
        lambda number, index: video_name(model, number, seed + index),
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
    measures: Sequence[str],
) -> dict[str, Any]:
    """The settings of an evaluation, without those of the sampler."""
    facts: dict[str, Any] = {
        "models": list(models),
        "prompts": len(prompts),
        "num_videos_per_prompt": num_videos_per_prompt,
        "seed": seed,
        "verifier": verifier,
    }
    asked = {"questions": questions, "measures": list(measures)}
    return {**facts, **{name: value for name, value in asked.items() if value}}


def _rows_with_videos(folder: Path, planned: Collection[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of planned models and files whose videos are still there, put together in `metadata.jsonl`."""
    parts = sorted(folder.glob(PART.replace("#", "*")))
    samples = {
        (sample.model, sample.file_name): sample
        for file in (*parts, folder / METADATA_NAME)
        for sample in read_samples(file)
        if (sample.model, sample.file_name) in planned and (folder / sample.file_name).is_file()
    }
    rows = [sample.as_row() for sample in samples.values()]
    if parts:
        write_jsonl(folder / METADATA_NAME, rows)
        for file in parts:
            file.unlink()
    return rows


def _put_together(folder: Path, samples: Sequence[Sample], processes: int) -> None:
    """Writes `metadata.jsonl` of all processes in place of their parts."""
    if processes > 1:
        write_jsonl(folder / METADATA_NAME, [sample.as_row() for sample in samples])
        for file in folder.glob(PART.replace("#", "*")):
            file.unlink()


def compare_models(
    models: Mapping[str, Callable[[], VideoGenerator]],
    prompts: Sequence[PromptRecord],
    output_dir: str | Path,
    verifier: str = "world",
    num_videos_per_prompt: int = 1,
    seed: int = 0,
    generation: GenerationSettings | None = None,
    references: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    title: str = "Prompt adherence",
    progress: bool = True,
    on_progress: Callable[[float], None] = lambda share: None,
    questions: str | None = None,
    categories: Categories | None = None,
    measures: Sequence[str] = (),
    work: SharedWork | None = None,
) -> dict[str, Any]:
    """Compares models on the same prompts and seeds; writes videos, `metadata.jsonl`, `report.html`,
    `report.json`.

    Args:
        models: name of each model and a function that loads it; one is held at a time.
        prompts: what to generate. Video j of prompt i has the seed `seed + i * num_videos_per_prompt + j` in
            every model.
        verifier: a name for `reward.adherence.evaluate.load_verifier`.
        generation: sizes and sampling; the generators' own where not given.
        references: models that the others are compared with; the first one by default.
        settings: further facts for the report, such as versions.
        overwrite: whether an existing output folder is emptied.
        progress: whether to show a progress bar.
        on_progress: called after every batch with the finished share in [0, 1].
        questions: source of question graphs for `load_verifier`.
        categories: sorts the prompts; by default what belongs to the verifier.
        measures: rewards for `reward.load_reward` whose scores are shown beside motion and flicker.
        work: whose processes share the videos; the first one writes the report, and all get the summary.

    Returns:
        The summary of `reward.adherence.evaluate.summarise`.

    Raises:
        InputError: the size or the verifier is not valid, or the output folder is in use.
    """
    texts, generation = [record.prompt for record in prompts], generation or GenerationSettings()
    verify, categories, rewards = _judges(verifier, questions, texts, categories, measures)
    references = as_list(references) or list(models)[:1]
    folder = Path(output_dir)
    facts = _facts(models, prompts, num_videos_per_prompt, seed, verifier, questions, measures)
    facts |= {**vars(generation), **(settings or {})}
    work = SharedWork(0, 1) if work is None else work
    plans = {name: _plan(name, prompts, num_videos_per_prompt, seed) for name in models}
    places = {(name, each.file_name): i for name, plan in plans.items() for i, each in enumerate(plan)}

    def left() -> tuple[bool, list[dict[str, Any]]]:
        going_on = check_evaluation(folder, facts, overwrite)
        return going_on, _rows_with_videos(folder, places) if going_on else []

    def in_order(samples: Iterable[Sample]) -> list[Sample]:
        order = {name: number for number, name in enumerate(models)}
        return sorted(samples, key=lambda s: (order[s.model], places[s.model, s.file_name]))

    def take_up(own: Sequence[Sample]) -> None:
        kept = METADATA_NAME if work.is_first else PART.replace("#", str(work.rank))
        write_jsonl(folder / kept, [sample.as_row() for sample in in_order(own)])
        on_progress(len(own) / len(places))

    going_on, rows = work.first(left)
    done = [Sample(**row) for row in rows]
    with VideoBar(len(places), len(done), "Evaluating", disable=not progress, work=work) as bar:
        made = _Videos(folder, facts, generation, overwrite, going_on, work, bar)
        own = _judge_missing(models, plans, done, made, (verify, categories, rewards), take_up)
        judged = work.gather([sample.as_row() for sample in own], bar.show)
    require_all(folder, [planned for plan in plans.values() for planned in plan], work)
    samples = in_order(Sample(**row) for part in judged for row in part)
    summary = summarise(samples, references)
    if work.is_first:
        _put_together(folder, samples, work.size)
        facts = in_effect({**facts, **repeatable(folder)})
        write_report(
            folder, samples, summary, facts, lambda s: read_shown(folder / s.file_name), references, title
        )
    return summary


Judges = tuple[Verifier, Categories, list["RewardModel"]]


@dataclass(frozen=True)
class _Videos:
    """Output folder and settings of the videos that an evaluation makes."""

    folder: Path
    facts: Mapping[str, Any]
    generation: GenerationSettings
    overwrite: bool
    going_on: bool
    work: SharedWork
    bar: VideoBar


def _judge_missing(
    models: Mapping[str, Callable[[], VideoGenerator]],
    plans: Mapping[str, Sequence[PlannedVideo]],
    done: Sequence[Sample],
    made: _Videos,
    judges: Judges,
    take_up: Callable[[Sequence[Sample]], None],
) -> list[Sample]:
    """Makes and judges this process's share of the videos that are not done, one model after the other.

    Args:
        take_up: called after every batch with all samples of this process; those that are done count as the first's.
    """
    own, there = list(done) if made.work.is_first else [], {(each.model, each.file_name) for each in done}
    count = sum(len(plan) for plan in plans.values())
    for name, load in models.items():
        missing = [planned for planned in plans[name] if (name, planned.file_name) not in there]
        if not missing:
            continue
        generator, settings = load(), made.generation
        made.bar.write_once(describe_generation(generator, settings, count, len(done), len(models)))
        opened = made.going_on or name != next(iter(models))
        for batch, videos in generate_videos_to(
            made.folder,
            missing,
            partial(generator.generate, solver=settings.solver),
            settings,
            generator.defaults.fps,
            source=name,
            begin=partial(_begin, made.folder, made.facts, generator, made.overwrite, opened),
            bar=made.bar,
            steps=settings.num_inference_steps or generator.defaults.num_inference_steps,
            work=made.work,
        ):
            own += _judged(made.folder, name, batch, videos, judges, generator)
            take_up(own)
        del generator  # before the next one is loaded
    return own


def _judges(
    verifier: str,
    questions: str | None,
    prompts: Sequence[str],
    categories: Categories | None,
    measures: Sequence[str],
) -> Judges:
    """Verifier, categories and further rewards, after a look at the prompts."""
    verify, own_categories = load_verifier(verifier, questions)
    check_prompts_of(verifier, questions, prompts)
    return verify, categories or own_categories, measuring(measures, prompts)


def _begin(
    folder: Path, facts: Mapping[str, Any], generator: VideoGenerator, overwrite: bool, going_on: bool
) -> None:
    """Opens the folder for the videos of one model, and records what a repetition needs."""
    open_output_dir(folder, OUTPUTS, overwrite, going_on)
    write_json(folder / SETTINGS_NAME, json.loads(json.dumps(facts)))
    write_json(folder / DEFAULTS_NAME, asdict(generator.defaults))


def _judged(
    folder: Path,
    model: str,
    batch: Sequence[PlannedVideo],
    videos: Tensor,
    judges: Judges,
    generator: VideoGenerator,
) -> list[Sample]:
    """Samples of one batch of videos in a folder, which all or none begin with images."""
    files = [planned.record.image for planned in batch if planned.record.image is not None]
    images = read_images(files, *videos.shape[3:]) if files else None
    verify, categories, rewards = judges
    samples = judge(
        model,
        videos,
        [planned.record.prompt for planned in batch],
        [planned.seed for planned in batch],
        verify,
        categories,
        [planned.file_name for planned in batch],
        generator.defaults.fps,
        rewards,
        images,
    )
    return [replace(sample, **_given_of(planned, folder)) for sample, planned in zip(samples, batch)]


def _given_of(planned: PlannedVideo, folder: Path) -> dict[str, Any]:
    """Images and rewritten prompt of a video, by their names in its line of `metadata.jsonl`."""
    named = {"image": planned.record.image, "last_image": planned.record.last_image}
    images = {name: os.path.relpath(file, folder) for name, file in named.items() if file is not None}
    return {**images, "rewritten_prompt": planned.record.rewritten_prompt}


def measuring(names: Sequence[str], prompts: Sequence[str]) -> list[RewardModel]:
    """Rewards to measure with: those of these names, after a look at the prompts."""
    from reward import load_reward

    rewards = [load_reward(name) for name in as_list(names)]
    for reward in rewards:
        reward.check_prompts(prompts)
    return rewards


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
