"""Gains and losses of a model against another: categories, motion, flicker, diversity and further measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETTER_WHEN = {
    "motion": 1,
    "flicker": -1,
    "temporal_flickering": 1,
    "consistency": 1,
    "diversity": 1,
}
"""The direction in which a measure is called a gain. Less motion and less diversity are losses: both are how models
that are trained on rewards go wrong."""
LABELS = {"temporal_flickering": "steadiness (VBench)", "consistency": "consistency of colours"}


@dataclass(frozen=True)
class Change:
    """A paired difference of one category or measure, with its own 95 % interval.

    Attributes:
        name: the category, or the measure.
        is_category: whether it is adherence in a category.
        mean, low, high: difference to the reference; the ends are None where the prompts are too few.
        reference_mean: what the reference has.
        prompts: number of prompts.
        sign: 1 where more is better, −1 where less is.
    """

    name: str
    is_category: bool
    mean: float
    low: float | None
    high: float | None
    reference_mean: float
    prompts: int
    sign: int = 1

    @property
    def verdict(self) -> str:
        """`gain`, `loss`, `unclear` (the interval holds 0, or three digits show none) or `unknown` (no interval)."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low <= 0 <= self.high or abs(self.mean) < 0.0005:
            return "unclear"
        return "gain" if self.mean * self.sign > 0 else "loss"

    @property
    def label(self) -> str:
        """Name for the reader, with what less of it means."""
        return LABELS.get(self.name, self.name)


def changes(summary: Mapping[str, Any], model: str, reference: str) -> list[Change]:
    """All changes from `reference` to `model`: categories first, each kind by the size of the change.

    Args:
        summary: from `reward.adherence.evaluate.summarise`.
    """
    found = []
    categories = summary["category_differences"].get(reference, {}).get(model, {})
    for name, row in categories.items():
        found.append(_change(name, True, row, summary["categories"][name][reference]["mean"], 1))
    measures = summary.get("measure_differences", {}).get(reference, {}).get(model, {})
    for name, row in measures.items():
        sign = BETTER_WHEN.get(name, 1)
        found.append(_change(name, False, row, summary["measures"][name][reference]["mean"], sign))
    return sorted(found, key=lambda change: (not change.is_category, -abs(change.mean)))


def _change(name: str, is_category: bool, row: Mapping[str, Any], reference: float, sign: int) -> Change:
    return Change(name, is_category, row["mean"], row["low"], row["high"], reference, row["clusters"], sign)
