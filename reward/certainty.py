"""Certainty that a trained reward model judges better than chance, from the figures that lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generator.output import read_record

METRICS_NAME = "metrics.json"


def judged_dimensions(metrics: Mapping[str, Any], dimension: str | None) -> list[str]:
    """Dimensions whose scores are the reward: `dimension`, else `overall`, else all of which the mean is taken.

    Args:
        metrics: content of `metrics.json`.
    """
    known = [name for name, figures in metrics.items() if isinstance(figures, dict) and "held_out" in figures]
    if dimension is not None:
        return [dimension] if dimension in known else []
    return ["overall"] if "overall" in known else known


def side_baseline(figures: Mapping[str, Any]) -> float:
    """Accuracy on the untied pairs of always preferring the side that is preferred more often; at least ½."""
    first = figures["position_baseline"]
    return max(first, 1 - first)


def uncertain_dimensions(metrics: Mapping[str, Any], dimension: str | None = None) -> list[str]:
    """Judged dimensions whose held-out accuracy has an interval that is not above `side_baseline`.

    Dimensions without held-out figures, or with too few prompts for an interval, are left out: nothing is known.
    """

    def is_uncertain(figures: Mapping[str, Any] | None) -> bool:
        low = (figures or {}).get("accuracy", {}).get("low")
        return figures is not None and low is not None and low <= side_baseline(figures)

    return [name for name in judged_dimensions(metrics, dimension) if is_uncertain(metrics[name]["held_out"])]


def uncertain_accuracy(folder: str | Path, dimension: str | None = None) -> str | None:
    """Sentence that says of which dimensions a reward model may be judging by chance; None where there is none.

    Args:
        folder: what `vidalign reward` wrote; anything else has no figures, so nothing is said.
        dimension: the score that is the reward, see `judged_dimensions`.
    """
    metrics = read_record(Path(folder) / METRICS_NAME)
    uncertain = uncertain_dimensions(metrics, dimension)
    if not uncertain:
        return None
    return (
        f"The reward {folder} may be no better than chance: {'; '.join(_figure_text(metrics, uncertain))}. What is "
        "learnt from it need not be what people prefer: collect more rankings, or look at `vidalign reward evaluate`."
    )


def _figure_text(metrics: Mapping[str, Any], dimensions: Sequence[str]) -> list[str]:
    texts = []
    for name in dimensions:
        figures = metrics[name]["held_out"]
        accuracy = figures["accuracy"]
        texts.append(
            f"its held-out accuracy in {name} is {accuracy['mean']:.3f} [{accuracy['low']:.3f}, "
            f"{accuracy['high']:.3f}], where always preferring the same side has {side_baseline(figures):.3f}"
        )
    return texts
