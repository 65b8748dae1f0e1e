"""The sentences at the head of a report: the result, and whether a reward model is better than its baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.statistics import CONFIDENCE, LEAST_CLUSTERS

MINUS = "−"
LEVEL = f"{100 * CONFIDENCE:g} %"


@dataclass(frozen=True)
class Subject:
    """Subject of an evaluation.

    Attributes:
        model: name of the generator; empty where there are several.
        guidance: such as `without guidance`; empty where unknown.
        prompts: such as `176 held-out prompts`.
        measure: `adherence`, or what else the scores are.
    """

    model: str
    guidance: str
    prompts: str
    measure: str = "adherence"


def number(value: float, signed: bool = False, digits: int = 3) -> str:
    """A number with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def interval(row: Mapping[str, Any], signed: bool = False, digits: int = 3) -> str:
    """The 95 % interval of a row in words; says why where there is none."""
    if row["low"] is None:
        return "too few prompts for an interval"
    return f"{LEVEL} interval {number(row['low'], signed, digits)} to {number(row['high'], signed, digits)}"


def guidance_text(scale: float | Mapping[str, float] | None, scale_2: float | None = None) -> str:
    """Guidance in words, of one scale or of each model's own; empty where it is unknown."""
    if isinstance(scale, Mapping):
        return f"each at its best guidance ({', '.join(f'{name} {own:g}' for name, own in scale.items())})"
    if scale is None:
        return ""
    if scale_2 is not None and scale_2 != scale:
        return f"at guidance {scale:g} and {scale_2:g}"
    return "without guidance (scale 1)" if scale == 1 else f"at guidance {scale:g}"


def measure_of(verifier: str) -> str:
    """Name of the scores of a verifier for `load_verifier`."""
    kind = verifier.partition(":")[0]
    return "adherence" if kind in ("world", "vlm", "judge", "") else verifier


def lead(summary: Mapping[str, Any], reference: str) -> str:
    """The model that the first screen shows: of those beside the reference the one with the highest mean."""
    others = {name: row["mean"] for name, row in summary["adherence"].items() if name != reference}
    return max(others, key=lambda name: others[name]) if others else reference


def result_sentence(summary: Mapping[str, Any], reference: str, subject: Subject) -> str:
    """The result in one sentence, with model, guidance and number of prompts in it."""
    model = lead(summary, reference)
    where = _where(subject)
    own, measure = summary["adherence"][model], subject.measure
    if model == reference:
        return f"{model} has a mean {measure} of {number(own['mean'])} ({interval(own)}) {where}."
    base, row = summary["adherence"][reference], summary[f"difference_to_{reference}"][model]
    change = f"{number(row['mean'], True)}, {interval(row, True)}"
    verdict = row["verdict"]
    if verdict == "too few prompts":
        few = f"fewer than {LEAST_CLUSTERS} prompts are too few to tell {model} from {reference}"
        return f"{few[0].upper()}{few[1:]}: {measure} {number(own['mean'])} against {number(base['mean'])} {where}."
    if verdict == "not distinguishable":
        return (
            f"{model} cannot be told from {reference}: {measure} {number(own['mean'])} against "
            f"{number(base['mean'])} ({change}) {where}."
        )
    follows = "follows prompts" if measure == "adherence" else "scores"
    way, moves = (verdict, "rises") if verdict == "better" else ("worse", "falls")
    if measure != "adherence":
        way = "higher" if verdict == "better" else "lower"
    return (
        f"{model} {follows} {way} than {reference}: {measure} {moves} from {number(base['mean'])} to "
        f"{number(own['mean'])} ({change}) {where}."
    )


def _where(subject: Subject) -> str:
    model = f", {subject.model}" if subject.model else ""
    guidance = f" {subject.guidance}" if subject.guidance else ""
    separator = "" if model else ","
    return f"on {subject.prompts}{model}{separator if guidance else ''}{guidance}"


def others_sentence(summary: Mapping[str, Any], reference: str) -> str:
    """The verdicts on all further models; empty where there are none."""
    first = lead(summary, reference)
    rows = summary.get(f"difference_to_{reference}", {})
    said = [
        f"{name} {number(row['mean'], True)} ({row['verdict']})"
        for name, row in rows.items()
        if name != first
    ]
    return f"Other models against {reference}: {', '.join(said)}." if said else ""


def against(row: Mapping[str, Any], baseline: float) -> str:
    """Verdict on an accuracy with its interval: `better` or `worse` than a baseline, or `not distinguishable`."""
    if row["low"] is None or math.isnan(row["mean"]):
        return "not distinguishable"
    if row["low"] > baseline:
        return "better"
    return "worse" if row["high"] < baseline else "not distinguishable"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %"


def baselines_of(figures: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Baselines of a reward model: name, the accuracy that each is compared with, and its value."""
    position = figures["position_baseline"]
    side = "first" if position >= 0.5 else "last"
    rows = [("chance", "accuracy", figures["chance"])]
    if not math.isnan(position):
        name = f"always preferring the video that stands {side}"
        rows.append((name, "accuracy", max(position, 1 - position)))
    return [*rows, ("always giving the commonest answer", "accuracy_with_ties", figures["majority_baseline"])]


_THAN = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


def reward_sentence(
    name: str,
    figures: Mapping[str, Any],
    best_possible: float | None = None,
    judges: str = "people",
    pairs: str = "held-out pairs",
) -> str:
    """Comparison of a reward model with its baselines, in words.

    Args:
        figures: of one dimension, from `reward.metrics.evaluate_pairs`.
        best_possible: accuracy of a perfect model, where it is known.
        judges: whose rankings the pairs are from.
        pairs: what they are called.
    """
    accuracy = figures["accuracy"]
    if math.isnan(accuracy["mean"]):
        return f"{name} was given no pairs of which one video is preferred, so its accuracy is unknown."
    groups: dict[str, list[str]] = {}
    for baseline, key, value in baselines_of(figures):
        groups.setdefault(against(figures[key], value), []).append(f"{baseline} ({percent(value)})")
    verdicts = [f"{_THAN[verdict]} {_joined(names)}" for verdict, names in groups.items()]
    ceiling = "" if best_possible is None else f" A perfect model would reach {percent(best_possible)}."
    span = (
        "too few prompts for an interval"
        if accuracy["low"] is None
        else f"{LEVEL} interval {percent(accuracy['low'])} to {percent(accuracy['high'])}"
    )
    return (
        f"{name} orders {percent(accuracy['mean'])} of {accuracy['n']} {pairs} of {accuracy['clusters']} prompts as "
        f"{judges} do ({span}): {'; '.join(verdicts)}.{ceiling}"
    )


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
