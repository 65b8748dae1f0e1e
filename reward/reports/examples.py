"""Examples of a report: groups of videos of one prompt and seed, chosen by rules that the page states."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from torch import Tensor

from reward.adherence.evaluate import Sample
from reward.reports import html
from reward.reports.clips import video_element
from reward.reports.sentences import number

LoadVideo = Callable[[Sample], "tuple[Tensor, float]"]
"""The video `[3, frames, height, width]` of a sample, and its frames per second."""

Group = Mapping[str, Sample]
"""The videos of one prompt and seed, by model."""

CHOICE_SEED = 0


@dataclass(frozen=True)
class Choice:
    """Groups that one rule chose.

    Attributes:
        title: such as `Largest gains`.
        rule: the rule in a sentence.
        groups: what it chose.
    """

    title: str
    rule: str
    groups: Sequence[Group]


def complete_groups(samples: Sequence[Sample]) -> list[Group]:
    """The groups of which every model has its video, in the order of the evaluation."""
    models = {sample.model for sample in samples}
    groups: dict[tuple[str, int], dict[str, Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.prompt, sample.seed), {})[sample.model] = sample
    return [group for group in groups.values() if len(group) == len(models)]


def gain(group: Group, model: str, reference: str) -> float:
    """Score of the model minus that of the reference; its own score where they are the same model."""
    return group[model].score - (group[reference].score if model != reference else 0.0)


def quartiles(samples: Sequence[Sample], model: str, reference: str) -> tuple[str, list[Group]]:
    """A rule and its groups for the first screen: the upper and the lower quartile of all gains."""
    ranked = sorted(complete_groups(samples), key=partial(_order, model=model, reference=reference))
    if not ranked:
        return "", []
    upper, lower = ranked[len(ranked) // 4], ranked[len(ranked) - 1 - len(ranked) // 4]
    what = "gain" if model != reference else "score"
    rule = (
        f"Same prompt and noise for every model. Above: the upper quartile of the {what}s of {model} (one in four is "
        "at least so good). Below: the lower quartile (one in four is at least so bad)."
    )
    return rule, [upper] if upper is lower else [upper, lower]


def _order(group: Group, model: str, reference: str) -> tuple[float, float, str, int]:
    own = group[model]
    return -gain(group, model, reference), -own.score, own.prompt, own.seed


def choose(samples: Sequence[Sample], model: str, reference: str, count: int = 3) -> list[Choice]:
    """Largest gains, largest losses and groups drawn at random, at most one group a prompt in each."""
    groups = complete_groups(samples)
    ranked = sorted(groups, key=partial(_order, model=model, reference=reference))
    best = list({group[model].prompt: group for group in reversed(ranked)}.values())[::-1]
    worst = list({group[model].prompt: group for group in ranked}.values())[::-1]
    worst.sort(key=lambda group: gain(group, model, reference))
    best.sort(key=lambda group: -gain(group, model, reference))
    drawn = random.Random(CHOICE_SEED).sample(groups, min(count, len(groups)))
    several = model != reference
    half = min(count, max(1, len(best) // 2))
    chosen = (
        f"Drawn from all {len(groups)} with Python's random.Random({CHOICE_SEED}), whatever their scores are."
    )
    if not several:
        return [
            Choice("Best videos", f"The {half} prompts with the highest score of {model}.", best[:half]),
            Choice("Worst videos", f"The {half} prompts with the lowest score of {model}.", worst[:half]),
            Choice("At random", chosen, drawn),
        ]
    of = f"score of {model} minus score of {reference}, one seed a prompt"
    gains = [group for group in best[:half] if gain(group, model, reference) > 0]
    losses = [group for group in worst[:half] if gain(group, model, reference) < 0]
    return [
        Choice("Largest gains", f"The prompts with the highest {of}{_none(gains)}.", gains),
        Choice("Largest losses", f"The prompts with the lowest {of}{_none(losses)}.", losses),
        Choice("At random", chosen, drawn),
    ]


def _none(groups: Sequence[Group]) -> str:
    return "" if groups else ": there is none"


def score_text(sample: Sample) -> str:
    """Arithmetic by which a reader gets the score from the ticks; empty where it does not follow from them alone."""
    parts = sample.parts
    if not parts:
        return ""
    if sample.answers:
        counted = _counted(sample)
        if abs(sum(counted.values()) / len(counted) - sample.score) > 5e-4:
            return ""
        return f"mean of {len(counted)} answers"
    yes, count = sum(parts.values()), len(parts)
    factor = 1.0 if sample.factor is None else sample.factor
    if abs(yes / count * factor - sample.score) > 5e-4:
        return ""
    return f"{yes} of {count}" + (f" × {number(factor, digits=2)}" if sample.factor is not None else "")


def _counted(sample: Sample) -> dict[str, float]:
    """Worth of each answer: its probability, or 0 where a parent failed."""
    return {
        name: 0.0
        if sample.answers.get(name, float(yes)) >= 0.5 and not yes
        else sample.answers.get(name, float(yes))
        for name, yes in sample.parts.items()
    }


def rows(
    groups: Sequence[Group], load_video: LoadVideo, most_bytes: int, folder: str = "", ticks: bool = True
) -> list[html.GalleryRow]:
    """Rows of videos, one row a group, one video a model.

    Args:
        most_bytes: of a clip.
        folder: between the page and the file names of the samples.
        ticks: whether the answers stand below the videos.
    """
    return [html.GalleryRow(*_row(group, load_video, most_bytes, folder, ticks)) for group in groups]


def _row(
    group: Group, load_video: LoadVideo, most_bytes: int, folder: str, ticks: bool
) -> tuple[str, list[html.GalleryCell], str]:
    cells = []
    for model, sample in group.items():
        video, fps = load_video(sample)
        counted: dict[str, Any] = _counted(sample) if sample.answers else {}
        cells.append(
            html.GalleryCell(
                label=model,
                media=video_element(video, fps, f"{model}: {sample.prompt}", most_bytes),
                score=number(sample.score, digits=2),
                how=score_text(sample),
                link=quote(folder + sample.file_name) if sample.file_name else "",
                ticks=[
                    (answer, f"{name} {counted[name]:.2f}" if name in counted else name)
                    for name, answer in sample.parts.items()
                ]
                if ticks
                else [],
            )
        )
    first = next(iter(group.values()))
    given = "" if first.rewritten_prompt is None else f", rewritten for the models: {first.rewritten_prompt}"
    return first.prompt, cells, f"seed {first.seed}{given}"
