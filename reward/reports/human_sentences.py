"""Sentences about models that people compared, for the command line and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reward.reports.sentences import MINUS
from reward.statistics import LEAST_CLUSTERS, NO_INTERVAL

FEW_ANNOTATORS = "one annotator only, so the intervals hold for this person and not for others"


def share(value: float) -> str:
    """A share in percent with one decimal."""
    return f"{100 * value:.1f} %"


def share_ends(row: Mapping[str, Any]) -> str:
    """The interval of a share in brackets, or the reason why there is none."""
    if row["low"] is None:
        return f"[{NO_INTERVAL}]"
    return f"[{share(row['low'])}, {share(row['high'])}]"


def pair_text(pair: Mapping[str, Any]) -> str:
    """The win rate of a pair of models in one line."""
    rate = pair["win_rate"]
    return (
        f"{pair['first']} against {pair['second']}: win rate {share(rate['mean'])} {share_ends(rate)}, ties "
        f"{share(pair['tie_rate'])}, {rate['n']} judgements ({pair['verdict']})"
    )


def points(value: float) -> str:
    """Elo points with a sign."""
    return f"{value:+.0f}".replace("-", MINUS)


def strength_text(summary: Mapping[str, Any]) -> str:
    """The strengths of all models, the strongest first."""
    strengths = summary["strengths"]
    if strengths is None:
        return "Strengths: none, as the comparisons do not lead from each model to every other one."
    said = []
    for model in summary["models"]:
        row = strengths["elo"][model]
        ends = (
            f"[{points(row['low'])}, {points(row['high'])}]" if row["low"] is not None else f"[{NO_INTERVAL}]"
        )
        said.append(f"{model} {points(row['mean'])} {ends}")
    return f"Strengths in Elo points, mean 0: {'; '.join(said)}"


def agreement_text(summary: Mapping[str, Any]) -> list[str]:
    """Lines on the agreement of annotators, on known answers, and on measures."""
    found, gold = summary["agreement"], summary["gold"]
    lines = []
    if found["pairwise"] is not None:
        alpha = "" if found["alpha"] is None else f", Krippendorff's alpha {found['alpha']:.3f}"
        lines.append(f"Two annotators agree on {share(found['pairwise'])} of the answers{alpha}")
    if gold["accuracy"] is not None:
        lines.append(f"Hidden checks with a known answer: {share(gold['accuracy'])} of {gold['pairs']} right")
    for name, row in summary["measures"].items():
        rate = row["agreement"]
        lines.append(
            f"{name}: prefers the video that people prefer in {share(rate['mean'])} {share_ends(rate)} of "
            f"{rate['n']} decided answers; {row['model_pairs_alike']} of {row['model_pairs']} pairs of models alike"
        )
    return lines


def stopping_text(summary: Mapping[str, Any]) -> str:
    """Advice of the width rule."""
    advice = summary["stopping"]
    if advice["stop"]:
        return f"Stop: every interval of a win rate is at most {share(advice['width'])} wide."
    wide = [each for each in advice["pairs"] if not each["stop"]]
    unknown = [each for each in wide if each["width"] is None]
    if unknown:
        return f"Go on: below {LEAST_CLUSTERS} prompts a pair of models has no interval to forecast from."
    names = ", ".join(f"{each['first']} against {each['second']} {share(each['width'])}" for each in wide[:3])
    more = " …" if len(wide) > 3 else ""
    head = f"Go on: the interval is wider than {share(advice['width'])} ({names}{more})."
    people = [each["annotators"] for each in wide if each["annotators"] is not None]
    if people:
        return (
            f"{head} These annotators differ too much for more answers of their own to do: about {max(people)} "
            "annotators would."
        )
    left = summary["answers_left"]
    enough = (
        ""
        if left >= advice["more"]
        else f", but only {left} are left: import more prompts or raise --overlap"
    )
    return f"{head} About {advice['more']} more judgements would do{enough}."


def human_sentence(summary: Mapping[str, Any]) -> str:
    """The result in one sentence: the strongest model against the next one, or the only pair."""
    pair = _leading_pair(summary)
    rate, first, second = pair["win_rate"], pair["first"], pair["second"]
    verdict = pair["verdict"]
    if verdict == "worse" or (verdict != "better" and rate["mean"] < 0.5):
        first, second = second, first
        swapped = {"mean": 1 - rate["mean"], "low": None, "high": None}
        if rate["low"] is not None:
            swapped |= {"low": 1 - rate["high"], "high": 1 - rate["low"]}
        rate = {**rate, **swapped}
        verdict = "better" if verdict == "worse" else verdict
    ends = (
        NO_INTERVAL if rate["low"] is None else f"95 % interval {share(rate['low'])} to {share(rate['high'])}"
    )
    where = f"of {rate['n']} judgements, a tie counting ½ ({ends})"
    if verdict == "better":
        return f"People prefer {first} to {second}: it wins {share(rate['mean'])} {where}."
    if verdict == "too few prompts":
        return (
            f"Fewer than {LEAST_CLUSTERS} prompts are too few to tell {first} from {second}: {first} wins "
            f"{share(rate['mean'])} {where}."
        )
    beyond = rate["low"] is not None and not rate["low"] <= 0.5 <= rate["high"]
    why = f", which is not enough among {len(summary['pairs'])} pairs of models (Holm)" if beyond else ""
    return f"People cannot tell {first} from {second}: {first} wins {share(rate['mean'])} {where}{why}."


def _leading_pair(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    pairs = {frozenset((pair["first"], pair["second"])): pair for pair in summary["pairs"]}
    best = summary["models"][0]
    met = [frozenset((best, other)) for other in summary["models"][1:]]
    return next((pairs[key] for key in met if key in pairs), summary["pairs"][0])
