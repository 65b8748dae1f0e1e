"""Figures of the reward accuracy benchmark: correlations with gold, the tables and the plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from reward.metrics import Floats, correct_without_ties, pairs_of_rankings
from reward.preferences import Ranking
from reward.statistics import Interval, cluster_bootstrap


@dataclass
class Learned:
    """One training: raw scores of the test videos `[prompts, videos]`, and what was found."""

    scores: np.ndarray
    figures: dict[str, Any]
    weights: dict[str, Tensor]


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1 on, equal values sharing the mean of their ranks."""
    values = np.asarray(values, dtype=np.float64)
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[inverse]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation with ties; NaN where one side is constant."""
    x, y = average_ranks(a), average_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / norm) if norm > 0 else float("nan")


def together(scores: Sequence[np.ndarray], rankings: Sequence[Ranking], prompts: Sequence[str]) -> Interval:
    """Pair accuracy, ties left out, of the mean of several models' standardised scores `[prompts, videos]`."""
    mean = np.mean([(one - one.mean()) / one.std() for one in scores], axis=0)
    pairs = pairs_of_rankings(mean, [ranking.ranks for ranking in rankings], prompts)
    right = correct_without_ties(pairs.difference, pairs.label)
    kept = np.isfinite(right)
    return cluster_bootstrap(right[kept], np.asarray(pairs.cluster)[kept])


def correlation(proxy: np.ndarray, gold: np.ndarray, resamples: int = 500) -> dict[str, float]:
    """Spearman's correlation over all videos of `[prompts, videos]`, with its interval from resampled prompts."""
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(proxy), len(proxy)) for _ in range(resamples)]
    values = np.array([spearman(proxy[rows].ravel(), gold[rows].ravel()) for rows in drawn])
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (np.nan, np.nan)
    return {
        "mean": spearman(proxy.ravel(), gold.ravel()), "low": float(low), "high": float(high), "prompts": len(proxy)
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The findings as Markdown."""
    lines = [
        f"Best possible pair accuracy on the test labels: {found['best_possible']:.3f}.",
        "",
        "| run | accuracy, mean of seeds | interval of the first seed | of the best possible | gold accuracy | "
        "calibration error |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found["runs"].items():
        accuracy = np.mean([run["accuracy"]["mean"] for run in runs])
        first = runs[0]["accuracy"]
        share = np.mean([run["share_of_best"] for run in runs])
        gold = np.mean([run["gold_accuracy"] for run in runs])
        error = np.mean([run["calibration_error_after_temperature"] for run in runs])
        lines.append(
            f"| {name} | {accuracy:.3f} | [{first['low']:.3f}, {first['high']:.3f}] | {share:.1%} | {gold:.3f} | "
            f"{error:.3f} |"
        )
    lines += ["", "| comparison (accuracy) | difference | p |", "|---|---|---|"]
    for name, value in found["comparisons"].items():
        lines.append(
            f"| {name} | {value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}] | {value['p_value']:.3f} |"
        )
    lines += ["", "| Spearman with gold | | prompts |", "|---|---|---|"]
    rows = {**found["spearman"], **{f"policy: {n}": v["spearman"] for n, v in found["policies"].items()}}
    for name, value in rows.items():
        lines.append(
            f"| {name} | {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}] | {value['prompts']} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy against the number of rankings, and the reliability curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    numbers = {n: int(n.split()[1]) for n in found["runs"] if n.startswith("plackett_luce ")}
    curve = {count: found["runs"][name] for name, count in sorted(numbers.items(), key=lambda item: item[1])}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for seed in range(len(next(iter(curve.values())))):
        runs = [run[seed]["accuracy"] for run in curve.values()]
        low = [r["mean"] - r["low"] for r in runs]
        high = [r["high"] - r["mean"] for r in runs]
        axes[0].errorbar(
            list(curve), [r["mean"] for r in runs], [low, high], marker="o", label=f"seed {seed}"
        )
    axes[0].axhline(found["best_possible"], color="grey", linestyle=":", label="best possible")
    axes[0].axhline(0.95 * found["best_possible"], color="grey", linestyle="--", label="95 % of it")
    axes[0].set(xscale="log", xlabel="rankings", ylabel="held-out pair accuracy")
    axes[0].legend(fontsize=8)
    reliability = curve[max(curve)][0]["reliability"]
    axes[1].plot([0.5, 1], [0.5, 1], color="grey", linestyle=":")
    axes[1].plot(reliability["confidence"], reliability["accuracy"], marker="o")
    axes[1].set(xlabel="predicted probability", ylabel="observed share")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
