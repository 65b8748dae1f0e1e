"""The report of `vidalign reward evaluate`: an HTML page, its JSON twin, and the reliability curve as PNG."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from generator.files.output_folder import Outputs
from generator.output import atomic_path, write_json, write_text
from reward.reports import html
from reward.reports.clips import bytes_a_clip, read_shown, video_element
from reward.reports.examples import CHOICE_SEED
from reward.reports.html import GalleryCell, GalleryRow
from reward.reports.made import made_now
from reward.reports.page import Examples, Front, Side, dot_chart, page
from reward.reports.sentences import against, baselines_of, number, percent, reward_sentence
from reward.reports.tables import settings_table

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
OLD_NAMES = ("evaluation.html", "evaluation.json")
"""Names that the report had before all reports were called alike."""
INTRO = "Left the video that a person preferred, right the other one, each with the model's score."
SHOWN = 3
"""Examples of each rule."""
ACCURACY = "pair accuracy"
TIES = "with ties"


def _is_evaluation(folder: Path) -> bool:
    for name in (REPORT_NAME, OLD_NAMES[1]):
        try:
            if "dimensions" in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError, TypeError):
            continue
    return False


EVALUATION_OUTPUTS = Outputs(
    "reward evaluate",
    (PAGE_NAME, REPORT_NAME, "reliability.png", *OLD_NAMES),
    is_record=_is_evaluation,
)


def write_evaluation(folder: str | Path, result: dict[str, Any], settings: dict[str, Any]) -> Path:
    """Writes `report.html`, `report.json` and `reliability.png` into `folder`; returns the path of the page.

    Args:
        result: from `reward.evaluation.evaluate_reward`.
        settings: what was evaluated and how.
    """
    folder, made = Path(folder), made_now()
    text = page_of(result, settings, made, folder)
    write_json(folder / REPORT_NAME, {**result, "settings": settings, "made": made})
    write_text(folder / PAGE_NAME, text)
    _plot(folder / "reliability.png", result["dimensions"])
    return folder / PAGE_NAME


def page_of(
    result: dict[str, Any], settings: dict[str, Any], made: Mapping[str, Any], folder: str | Path = "."
) -> str:
    """The whole page, which will lie in `folder`."""
    figures = result["dimensions"]
    reward = str(settings.get("reward", ""))
    name = Path(reward).name if Path(reward).is_dir() else reward or "The reward model"
    first = "overall" if "overall" in figures else next(iter(figures))
    accuracies = {
        dimension: values["accuracy"]
        for dimension, values in figures.items()
        if math.isfinite(values["accuracy"]["mean"])
    }
    compared = [row for row in result.get("compared", ()) if row["dimension"] == first]
    show = _shown_once(Path(folder))
    rule, typical = _quartiles(compared)
    front = Front(
        sentence=reward_sentence(name, figures[first], figures[first]["best_possible"], pairs="pairs"),
        facts={
            "reward": reward,
            "dimension": first,
            "rankings": str(result["rankings"]),
            "videos": str(result["videos"]),
            "from": str(settings.get("preferences", "")),
            "device": str(settings.get("device", "")),
        },
        clips=[show(row) for row in typical],
        rule=rule,
        chart=dot_chart(
            accuracies, "Pair accuracy with 95 % intervals over prompts; chance is ½", {"chance": 0.5}
        ),
        sides=_sides(figures),
        notes=[_ceiling(values, dimension) for dimension, values in figures.items() if values["annotators"]],
    )
    examples = _examples(compared, show)
    return page(
        "Agreement of a reward model with people", front, examples, _details(result, settings, made), INTRO
    )


def _sides(figures: dict[str, Any]) -> list[Side]:
    """Baselines that the model beat, and those that it did not, as equals."""
    lists: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    for dimension, values in figures.items():
        for baseline, key, value in baselines_of(values):
            row = values[key]
            if math.isnan(row["mean"]):
                continue
            ends = "too few prompts" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
            said = f"{dimension}: {baseline} ({value:.3f})"
            lists[against(row, value) == "better"].append((said, f"{row['mean']:.3f}", ends))
    return [
        Side("Better than", lists[True], "No baseline: no interval lies above one."),
        Side("Not better than", lists[False], "No baseline: all intervals lie above them."),
    ]


def _ceiling(values: dict[str, Any], dimension: str) -> str:
    found = values["annotators"]
    return (
        f"{dimension}: two annotators agree on {percent(found['agreement'])} of the {found['pairs']} pairs that "
        f"several ordered, so no model can be right on more than {percent(found['best_possible_at_most'])}."
    )


def _margin(row: Mapping[str, Any]) -> float:
    """Score of the preferred video minus that of the other: below 0 the model is wrong."""
    return float(row["chosen_score"] - row["rejected_score"])


def _quartiles(pairs: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """A rule and its pairs for the first screen: the upper and the lower quartile of the model's margins."""
    ordered = sorted(pairs, key=_margin, reverse=True)
    if not ordered:
        return "", []
    upper, lower = ordered[len(ordered) // 4], ordered[len(ordered) - 1 - len(ordered) // 4]
    rule = (
        "Left the video that the person preferred, with the model's score. Above: the upper quartile of how much "
        "higher the preferred video is scored; below: the lower quartile, which is an error where the left score is "
        "lower."
    )
    return rule, [upper] if upper is lower else [upper, lower]


def _examples(
    pairs: Sequence[Mapping[str, Any]], show: Callable[[Mapping[str, Any]], GalleryRow]
) -> list[Examples]:
    """Pairs where the model agrees most surely with a person, disagrees most surely, and drawn at random."""
    ordered = sorted(pairs, key=_margin, reverse=True)
    right = [row for row in ordered if _margin(row) > 0]
    wrong = [row for row in reversed(ordered) if _margin(row) < 0]
    drawn = random.Random(CHOICE_SEED).sample(pairs, min(SHOWN, len(pairs)))
    rules = (
        ("Surest and right", "The largest differences of scores in a person's order, one a prompt.", right),
        (
            "Surest and wrong",
            "The largest differences of scores against a person's order, one a prompt.",
            wrong,
        ),
        (
            "At random",
            f"Drawn from all {len(pairs)} ordered pairs with Python's random.Random({CHOICE_SEED}).",
            drawn,
        ),
    )
    chosen = {
        title: list({row["prompt"]: row for row in reversed(rows)}.values())[::-1] for title, _, rows in rules
    }
    return [
        Examples(title, rule, [show(row) for row in chosen[title][:SHOWN]])
        for title, rule, rows in rules
        if rows
    ]


def _shown_once(folder: Path) -> Callable[[Mapping[str, Any]], GalleryRow]:
    """Gives the row of a pair; its clips are read and encoded once, however many rules choose it."""
    rows: dict[tuple[str, str, str], GalleryRow] = {}
    most = bytes_a_clip(2 * (3 * SHOWN + 2))

    def show(row: Mapping[str, Any]) -> GalleryRow:
        key = row["prompt"], row["chosen"], row["rejected"]
        if key not in rows:
            rows[key] = _pair_row(row, folder, most)
        return rows[key]

    return show


def _pair_row(row: Mapping[str, Any], folder: Path, most_bytes: int) -> GalleryRow:
    cells = []
    for side in ("chosen", "rejected"):
        path = Path(row[side])
        video, fps = read_shown(path)
        link = quote(os.path.relpath(path, folder)) if path.suffix == ".mp4" else ""
        label = "preferred by the person" if side == "chosen" else "not preferred"
        media = video_element(video, fps, f"{label}: {row['prompt']}", most_bytes)
        cells.append(GalleryCell(label, media, number(row[f"{side}_score"]), link=link))
    return GalleryRow(row["prompt"], cells)


def _details(result: dict[str, Any], settings: dict[str, Any], made: Mapping[str, Any]) -> list[html.Section]:
    figures = result["dimensions"]
    rows = {
        name: {ACCURACY: values["accuracy"], TIES: values["accuracy_with_ties"], **_baselines(values)}
        for name, values in figures.items()
    }
    return [
        html.Section(
            "All dimensions, with baselines",
            html.interval_table(rows, first_column="dimension"),
            "Share of the pairs whose preferred video has the higher score, and of all pairs, where scores closer "
            "than the threshold are called a tie; 95 % intervals from resampled prompts.",
        ),
        html.Section(
            "Calibration",
            _calibration(figures),
            "How far the predicted probability that the better-scored video is preferred is from the share in which "
            "it was; by chance: what a perfectly calibrated model would show on as many pairs.",
        ),
        html.Section(
            "Everything to repeat this",
            (html.code(made["command"]) if made.get("command") else "")
            + html.facts({name: value for name, value in made.items() if name != "command"})
            + settings_table({**settings, "videos": result["videos"], "rankings": result["rankings"]}),
        ),
    ]


def _calibration(figures: dict[str, Any]) -> str:
    curves = {"calibrated": html.Series([0.5, 1.0], [0.5, 1.0])}
    for name, values in figures.items():
        curves[name] = html.Series(values["reliability"]["confidence"], values["reliability"]["accuracy"])
    rows = [
        [
            name,
            values["calibration_error"],
            values["calibration_error_after_temperature"],
            values["calibration_error_by_chance"],
            values["temperature"],
            "never ties" if values["tie_threshold"] < 0 else values["tie_threshold"],
        ]
        for name, values in figures.items()
    ]
    columns = ["dimension", "error", "after temperature", "by chance", "temperature", "tie threshold"]
    return html.plain_table(columns, rows) + html.line_chart(
        curves, "reliability", "predicted probability", "observed share"
    )


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

    from generator.label_fonts import plot_label

    figure, axis = pyplot.subplots(figsize=(4.2, 4))
    axis.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":")
    for name, values in figures.items():
        curve = values["reliability"]
        axis.plot(curve["confidence"], curve["accuracy"], marker="o", label=plot_label(name))
    axis.set(xlabel="predicted probability", ylabel="observed share", title="Reliability of pair preferences")
    if figures:
        axis.legend(fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
