"""Figures of models that people compared: win rates, strengths, agreement with measures, and whether to go on.

A `JudgedPair` is one answer of one annotator about two videos of a prompt. Everything is computed from a list of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generator.output import InputError, read_jsonl
from generator.provenance import file_hash
from reward.human.comparisons import ELO, PairResult, are_connected, davidson_strengths, pair_result, stopping
from reward.statistics import Interval, holm, verdict

SCORE = "score of the verifier"
LOWER_IS_BETTER = ("flicker",)
"""Measures of which a lower value counts as the better video."""

Scores = dict[str, dict[tuple[str, str], float]]
"""`{measure: {(prompt, SHA-256 of the video): value}}`."""


@dataclass(frozen=True)
class JudgedPair:
    """Answer of one annotator about the videos of two models.

    Attributes:
        task: number of the task, which other annotators may have judged too.
        first, second: names of the models.
        outcome: 1 where the first one's video is better, ½ for a tie, 0 where the second one's is.
        all_bad: a tie of two videos that the annotator called bad.
        videos: paths or URLs of the two videos.
        contents: SHA-256 of both.
        simulated: the annotator is a program.
    """

    task: int
    prompt: str
    annotator: str
    first: str
    second: str
    outcome: float
    all_bad: bool
    videos: tuple[str, str]
    contents: tuple[str, str]
    simulated: bool = False


def pair_results(judged: Sequence[JudgedPair]) -> dict[tuple[str, str], PairResult]:
    """Win rate of the first model of each two that were compared, with its interval.

    Raises:
        ValueError: a pair of models stands in both orders.
    """
    by_pair: dict[tuple[str, str], list[JudgedPair]] = defaultdict(list)
    for each in judged:
        by_pair[each.first, each.second].append(each)
    if any((b, a) in by_pair for a, b in by_pair):
        raise ValueError("Two models must stand in one order in all their comparisons.")
    return {pair: pair_result(*_columns(rows)) for pair, rows in by_pair.items()}


def summarise_judgements(
    judged: Sequence[JudgedPair], scores: Scores | None = None, stop_width: float | None = None
) -> dict[str, Any]:
    """All figures of `vidalign evaluate human` that follow from the answers alone.

    Args:
        judged: two models always in one order.
        scores: of automatic measures, whose agreement with people is computed.
        stop_width: width of the intervals at which judging may end.

    Returns:
        `models`, from the strongest to the weakest where strengths are known; counts; `pairs`, with win and tie rates,
        `p_holm` and `verdict` on the first model; `strengths` in Elo points (mean 0), None where the comparisons do
        not connect all models; `measures`; `stopping`.

    Raises:
        ValueError: there are no answers.
    """
    results = pair_results(judged)
    names = list(dict.fromkeys(name for each in judged for name in (each.first, each.second)))
    adjusted = iter(holm([r.p_value for r in results.values() if not math.isnan(r.p_value)]))
    pairs = []
    for (first, second), result in results.items():
        p_holm = None if math.isnan(result.p_value) else next(adjusted)
        rows = [each for each in judged if (each.first, each.second) == (first, second)]
        pairs.append(
            {
                "first": first,
                "second": second,
                "win_rate": result.win_rate.as_dict(),
                "tie_rate": result.tie_rate,
                "all_bad_rate": float(np.mean([each.all_bad for each in rows])),
                "annotators": result.annotators,
                "p_value": None if math.isnan(result.p_value) else result.p_value,
                "p_holm": p_holm,
                "verdict": verdict({"mean": result.win_rate.mean - 0.5, "p_holm": p_holm}),
            }
        )
    strengths = _strengths(judged, names)
    ordered = sorted(names, key=lambda name: -strengths["elo"][name]["mean"]) if strengths else names
    return {
        "models": ordered,
        "judgements": len(judged),
        "prompts": len({each.prompt for each in judged}),
        "annotators": len({each.annotator for each in judged}),
        "simulated_annotators": len({each.annotator for each in judged if each.simulated}),
        "pairs": pairs,
        "strengths": strengths,
        "measures": agreement_with_measures(judged, scores or {}),
        "stopping": None if stop_width is None else _advice(results, stop_width),
    }


def _columns(rows: Sequence[JudgedPair]) -> tuple[list[float], list[str], list[str]]:
    return [r.outcome for r in rows], [r.prompt for r in rows], [r.annotator for r in rows]


def _strengths(judged: Sequence[JudgedPair], names: Sequence[str]) -> dict[str, Any] | None:
    first = [names.index(each.first) for each in judged]
    second = [names.index(each.second) for each in judged]
    if not are_connected(first, second, len(names)):
        return None
    found = davidson_strengths(first, second, *_columns(judged), len(names))
    return {
        "elo": {name: _scaled(found.intervals[i]) for i, name in enumerate(names)},
        "nu": math.exp(found.log_nu),
        "differences": [
            {"first": names[i], "second": names[j], **_scaled(interval)}
            for (i, j), interval in found.pairs.items()
        ],
    }


def _scaled(interval: Interval) -> dict[str, Any]:
    """An interval of log strengths in Elo points."""
    points = {
        name: ELO * value for name, value in asdict(interval).items() if name in ("mean", "low", "high")
    }
    return Interval(**points, n=interval.n, clusters=interval.clusters).as_dict()


def agreement_with_measures(judged: Sequence[JudgedPair], scores: Scores) -> dict[str, Any]:
    """Share of the decided answers in which a measure prefers the same video, equal values counting ½.

    The interval is clustered by prompt and annotator. `model_pairs_alike` of `model_pairs` are pairs of models whose
    mean values stand in the order of their win rate.
    """
    found = {}
    for measure, values in scores.items():
        sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
        rows, agreeing = [], []
        by_pair: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for each in judged:
            a, b = (values.get((each.prompt, content)) for content in each.contents)
            if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
                continue
            by_pair[each.first, each.second].append((sign * (a - b), each.outcome - 0.5))
            if each.outcome != 0.5:
                rows.append(each)
                agreeing.append((1 + float(np.sign(sign * (a - b)) * np.sign(each.outcome - 0.5))) / 2)
        if not rows:
            continue
        result = pair_result(agreeing, *_columns(rows)[1:])
        means = [np.mean(differences, axis=0) for differences in by_pair.values()]
        found[measure] = {
            "agreement": result.win_rate.as_dict(),
            "lower_is_better": sign < 0,
            "model_pairs_alike": sum(bool(by_measure * by_people > 0) for by_measure, by_people in means),
            "model_pairs": len(means),
        }
    return found


def _advice(results: Mapping[tuple[str, str], PairResult], width: float) -> dict[str, Any]:
    """The width rule on every pair of models: stop where all may stop."""
    each = {pair: stopping(result, width) for pair, result in results.items()}
    more = [advice.more for advice in each.values()]
    return {
        "width": width,
        "stop": all(advice.stop for advice in each.values()),
        "more": None if None in more else sum(count or 0 for count in more),
        "pairs": [
            {
                "first": first,
                "second": second,
                **asdict(advice),
                "width": None if math.isnan(advice.width) else advice.width,
            }
            for (first, second), advice in each.items()
        ],
    }


def read_scores(folder: str | Path, judged: Sequence[JudgedPair]) -> Scores:
    """Scores that `vidalign evaluate` gave the compared videos, which are known by prompt and content.

    Raises:
        InputError: the folder is no evaluation, or holds none of the videos.
    """
    folder = Path(folder)
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file() or not (folder / "report.json").is_file():
        raise InputError(
            f"{folder} is no finished evaluation: give a folder that vidalign evaluate wrote, with report.json and "
            "metadata.jsonl."
        )
    prompts = {each.prompt for each in judged}
    wanted = {(each.prompt, content) for each in judged for content in each.contents}
    found: Scores = defaultdict(dict)
    for place, row in read_jsonl(metadata):
        try:
            prompt, path, score = row["prompt"], folder / row["file_name"], float(row["score"])
            measures = {name: float(value) for name, value in row.get("measures", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{place}: this is not a judged video ({error}): restore the file.") from error
        if prompt not in prompts or not path.is_file():
            continue
        key = prompt, file_hash(path)
        if key in wanted:
            for name, value in {SCORE: score, **measures}.items():
                found[name][key] = value
    if not found:
        raise InputError(
            f"{folder} holds none of the {len(wanted)} compared videos: evaluate those that were imported, for example "
            "with vidalign evaluate --videos."
        )
    return dict(found)
