"""The report of `vidalign reward evaluate`: an HTML page, its JSON twin, and the reliability curve as PNG."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from generator.files.output_folder import Outputs
from generator.output import atomic_path, write_json, write_text
from reward.reports import html
from reward.reports.adherence import settings_table

ACCURACY = "pair accuracy"
TIES = "with ties"


def _is_evaluation(folder: Path) -> bool:
    try:
        return "dimensions" in json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


EVALUATION_OUTPUTS = Outputs(
    "reward evaluate",
    ("evaluation.html", "evaluation.json", "reliability.png"),
    is_record=_is_evaluation,
)


def write_evaluation(folder: str | Path, result: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes `evaluation.html`, `evaluation.json` and `reliability.png` into `folder`.

    Args:
        result: from `reward.evaluation.evaluate_reward`.
        settings: what was evaluated and how.
    """
    folder = Path(folder)
    write_json(folder / "evaluation.json", {**result, "settings": settings})
    write_text(folder / "evaluation.html", page_of(result, settings))
    _plot(folder / "reliability.png", result["dimensions"])


def page_of(result: dict[str, Any], settings: dict[str, Any]) -> str:
    """The whole page."""
    figures = result["dimensions"]
    rows = {
        name: {ACCURACY: values["accuracy"], TIES: values["accuracy_with_ties"], **_baselines(values)}
        for name, values in figures.items()
    }
    bars = {
        name: {ACCURACY: values["accuracy"], TIES: values["accuracy_with_ties"]}
        for name, values in figures.items()
        if math.isfinite(values["accuracy"]["mean"])
    }
    curves = {"calibrated": html.Series([0.5, 1.0], [0.5, 1.0])}
    for name, values in figures.items():
        curves[name] = html.Series(values["reliability"]["confidence"], values["reliability"]["accuracy"])
    calibration = {
        name: [
            name,
            values["calibration_error"],
            values["calibration_error_after_temperature"],
            values["calibration_error_by_chance"],
            values["temperature"],
            "never ties" if values["tie_threshold"] < 0 else values["tie_threshold"],
        ]
        for name, values in figures.items()
    }
    sections = [
        html.Section(
            "Agreement with people",
            html.interval_table(rows, first_column="dimension")
            + (html.bar_chart(bars, maximum=1.0) if bars else ""),
            "Share of the pairs whose preferred video has the higher score, and of all pairs, where scores closer than "
            "the threshold are called a tie; 95 % intervals from resampled prompts.",
        ),
        html.Section(
            "Calibration",
            html.plain_table(
                ["dimension", "error", "after temperature", "by chance", "temperature", "tie threshold"],
                list(calibration.values()),
            )
            + html.line_chart(curves, "reliability", "predicted probability", "observed share"),
            "How far the predicted probability that the better-scored video is preferred is from the share in which it "
            "was; by chance: what a perfectly calibrated model would show on as many pairs.",
        ),
        html.Section(
            "Settings",
            settings_table({**settings, "videos": result["videos"], "rankings": result["rankings"]}),
        ),
    ]
    return html.page("Reward model", sections, str(settings.get("reward", "")))


def _baselines(values: dict[str, Any]) -> dict[str, str]:
    """The columns that are plain numbers."""
    annotators, best = values["annotators"], values["best_possible"]
    columns = {
        "chance": values["chance"],
        "first video": values["position_baseline"],
        "majority (with ties)": values["majority_baseline"],
        "tie rate": values["tie_rate"],
        "annotators agree": annotators["agreement"] if annotators else math.nan,
        "best possible": best
        if best is not None
        else annotators["best_possible_at_most"]
        if annotators
        else math.nan,
    }
    shown = {name: "–" if math.isnan(value) else f"{value:.3f}" for name, value in columns.items()}
    if best is None and annotators:
        shown["best possible"] = f"≤ {shown['best possible']}"
    return {**shown, "pairs": str(values["pairs"]), "prompts": str(values["prompts"])}


def _plot(path: Path, figures: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.2, 4))
    axis.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":")
    for name, values in figures.items():
        curve = values["reliability"]
        axis.plot(curve["confidence"], curve["accuracy"], marker="o", label=name)
    axis.set(xlabel="predicted probability", ylabel="observed share", title="Reliability of pair preferences")
    if figures:
        axis.legend(fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
