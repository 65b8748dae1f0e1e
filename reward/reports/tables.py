"""Tables of an evaluation: means, differences, win rates, categories, questions, measures, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generator.one_or_several import as_list
from reward.reports import html
from reward.reports.changes import changes
from reward.reports.sentences import number
from reward.statistics import LEAST_CLUSTERS


def family_text(summary: Mapping[str, Any]) -> str:
    """The tests that better and worse rest on, and that there are no others on the page."""
    count = summary["tests"]
    if not count:
        compared = any(summary["category_differences"].values())
        return f"Below {LEAST_CLUSTERS} prompts nothing is tested." if compared else ""
    over = (
        f", Holm-adjusted over the {count} tests of this page"
        if count > 1
        else ", the only test of this page"
    )
    return f"Coloured: better or worse with p below 0.05{over}."


def overview(summary: Mapping[str, Any], references: Sequence[str]) -> str:
    """Tables of all models: adherence and paired differences, and win rates, with 95 % intervals."""
    references = as_list(references)
    means: dict[str, dict[str, Any]] = {}
    wins: dict[str, dict[str, Any]] = {}
    for model, interval in summary["adherence"].items():
        means[model] = {"adherence": interval}
        for reference in references:
            difference = summary[f"difference_to_{reference}"].get(model)
            means[model][f"difference to {reference}"] = difference or "–"
            if len(summary["adherence"]) > 1:
                row = wins.setdefault(model, {})
                row[f"win rate against {reference}"] = difference["win_rate"] if difference else "–"
                ties = f"{difference['tie_rate']:.0%}" if difference else "–"
                row[f"ties with {reference}"] = ties
    first = next(iter(summary["adherence"].values()))
    caption = (
        f"{first['n']} videos of {first['clusters']} prompts a model. Brackets: 95 % intervals, bootstrap "
        f"over prompts; none below {LEAST_CLUSTERS} prompts. Differences are paired by prompt and seed. "
        f"{family_text(summary)}"
    )
    signed = [f"difference to {reference}" for reference in references]
    tables = html.interval_table(means, caption, signed, first_column="model")
    if wins:
        tables += html.interval_table(wins, "Win rates; a tie counts ½.", first_column="model")
    return tables


def category_tables(summary: Mapping[str, Any], reference: str) -> str:
    """Chart and table of adherence by category, and of paired differences, which are described and not tested."""
    categories = summary["categories"]
    if not categories:
        return html.paragraph(
            "The verifier sorts the prompts into no categories that differ from all prompts."
        )
    table: dict[str, dict[str, Any]] = {}
    for category, intervals in categories.items():
        prompts = next(iter(intervals.values()))["clusters"]
        table[category] = {"prompts": str(int(prompts)), **intervals}
    by_model = summary["category_differences"].get(reference, {})
    differences: dict[str, dict[str, Any]] = {category: {} for category in categories}
    for model, rows in by_model.items():
        for category, row in rows.items():
            differences[category][f"{model} − {reference}"] = row
    parts = [
        html.bar_chart(
            {"all": summary["adherence"], **categories}, "Mean adherence, 95 % intervals.", maximum=1.0
        ),
        html.interval_table(table, "Adherence by category of the prompt.", first_column="category"),
    ]
    if by_model:
        caption = (
            "Paired differences, each with its own 95 % interval. They say where the difference of all prompts comes "
            "from and are no tests of their own; a category that holds all prompts is left out."
        )
        signed = [f"{model} − {reference}" for model in by_model]
        parts.append(html.interval_table(differences, caption, signed, first_column="category"))
    return "".join(parts)


def question_table(summary: Mapping[str, Any]) -> str:
    """Share of videos of which each question was answered yes."""
    questions = summary["questions"]
    if not questions:
        return ""
    models = list(summary["adherence"])
    counts = summary.get("question_counts", {})
    rows: list[list[html.Cell | str | float]] = [
        [name, str(counts.get(name, "–")), *(rates.get(model, float("nan")) for model in models)]
        for name, rates in questions.items()
    ]
    return html.plain_table(["question", "n", *models], rows, "Share of n videos of each model that show it.")


def measure_table(summary: Mapping[str, Any]) -> str:
    """Motion, flicker and consistency of each model; empty where they were not measured."""
    measures = summary.get("measures") or {}
    if not measures:
        return ""
    table = {
        _MEASURES.get(name, (name, ""))[0]: {**by_model, "better": _MEASURES.get(name, ("", "–"))[1]}
        for name, by_model in measures.items()
    }
    return html.interval_table(
        table, "Measured from the pixels, whatever the prompt.", first_column="measure"
    )


_MEASURES = {
    "motion": ("motion (shorter sides a second)", "–"),
    "flicker": ("flicker (change without motion)", "lower"),
    "temporal_flickering": ("VBench temporal flickering", "higher"),
    "consistency": ("consistency of colours", "higher"),
    "diversity": ("diversity (distance between videos)", "higher"),
}


def change_table(summary: Mapping[str, Any], reference: str) -> str:
    """Gains and losses of every model against the reference: categories, motion, flicker, diversity."""
    found = {
        model: {(c.is_category, c.name): c for c in changes(summary, model, reference)}
        for model in summary["adherence"]
        if model != reference
    }
    names = list(dict.fromkeys(key for rows in found.values() for key in rows))
    if not names:
        return ""
    marks = {"gain": "better", "loss": "worse"}
    rows: list[list[html.Cell | str | float]] = []
    for key in names:
        first = next(rows[key] for rows in found.values() if key in rows)
        cells: list[html.Cell | str | float] = [f"adherence in “{first.name}”" if key[0] else first.label]
        for by_name in found.values():
            change = by_name.get(key)
            if change is None:
                cells.append("–")
                continue
            known = change.low is not None and change.high is not None
            ends = f"[{number(change.low or 0, True)}, {number(change.high or 0, True)}]" if known else "–"
            cells.append(html.Cell(number(change.mean, True), ends, marks.get(change.verdict, "")))
        rows.append(cells)
    caption = (
        f"Paired differences to {reference} with 95 % intervals; coloured where the interval leaves out 0. They "
        "describe where a difference comes from and are no tests of their own. Less motion and less diversity count "
        "as losses."
    )
    return html.plain_table(["change of", *found], rows, caption)


def power_text(summary: Mapping[str, Any]) -> str:
    """Sentence on the prompts that a difference takes, and the difference that these show; empty where unknown."""
    power = summary.get("power") or {}
    if "detectable_difference" not in power:
        return ""
    if power["deviation"] == 0:
        return (
            f"All {power['prompts']} prompts came out alike ({power['measured_on']}), so these videos do not say "
            "how many prompts a difference takes."
        )
    needed = ", ".join(
        f"{count} prompts for a difference of {name.removeprefix('prompts_for_')}"
        for name, count in power.items()
        if name.startswith("prompts_for_")
    )
    return (
        f"With 80 % power, {power['prompts']} prompts show a difference of {power['detectable_difference']:.3f}; "
        f"it takes {needed} (spread of {power['measured_on']})."
    )


def settings_table(settings: Mapping[str, Any]) -> str:
    """Names and values; what the settings of several runs do not share stands side by side."""
    shared = {name: value for name, value in settings.items() if name not in ("settings_of_runs", "subtitle")}
    runs = {name: _flatten(own) for name, own in settings.get("settings_of_runs", {}).items()}
    if not runs:
        return html.facts(_flatten(shared))
    names = list(dict.fromkeys(name for own in runs.values() for name in own))
    each = {name: [str(own.get(name, "–")) for own in runs.values()] for name in names}
    alike = {name: values[0] for name, values in each.items() if len(set(values)) == 1}
    rows = [[name, *values] for name, values in each.items() if name not in alike]
    differing = html.plain_table(["setting", *runs], rows, "What the runs do not share.") if rows else ""
    return differing + html.facts({**_flatten(shared), **alike})


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name} "))
        elif isinstance(value, (list, tuple)):
            flat[prefix + name] = ", ".join(str(item) for item in value)
        else:
            flat[prefix + name] = value
    return flat
