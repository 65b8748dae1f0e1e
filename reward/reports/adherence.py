"""The evaluation report: one self-contained HTML page and its JSON twin with everything to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.one_or_several import as_list
from generator.output import write_json, write_text
from reward.adherence.evaluate import Sample
from reward.adherence.training_rewards import known_measures
from reward.reports import html
from reward.statistics import LEAST_CLUSTERS, NO_INTERVAL

LoadVideo = Callable[[Sample], "tuple[Tensor, float]"]
"""The video `[3, frames, height, width]` of a sample, and its frames per second."""


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
    rows = [
        [name, *(rates.get(model, float("nan")) for model in models)] for name, rates in questions.items()
    ]
    return html.plain_table(["question", *models], rows, "Share of videos that show it.")


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
}


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


def best_and_worst(
    samples: Sequence[Sample], reference: str, load_video: LoadVideo, count: int = 6
) -> tuple[str, str]:
    """Two galleries, of the prompts and seeds where the last model gained most over the reference and lost
    most.

    With one model only: its best and its worst videos.
    """
    groups: dict[tuple[str, int], dict[str, Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.prompt, sample.seed), {})[sample.model] = sample
    models = list(dict.fromkeys(sample.model for sample in samples))
    last = models[-1]
    complete = [group for group in groups.values() if len(group) == len(models)]

    def gain(group: dict[str, Sample]) -> float:
        return group[last].score - (group[reference].score if last != reference else 0.0)

    ranked = sorted(complete, key=lambda group: (-gain(group), -group[last].score, group[last].prompt))
    # One row a prompt: its seed with the largest gain or, in the other gallery, the largest loss.
    best = list({group[last].prompt: group for group in reversed(ranked)}.values())[::-1]
    worst = list({group[last].prompt: group for group in ranked}.values())
    worst.sort(key=gain)
    best.sort(key=lambda group: -gain(group))
    count = min(count, max(1, len(best) // 2))
    return gallery(best[:count], load_video), gallery(worst[:count], load_video)


def gallery(groups: Sequence[Mapping[str, Sample]], load_video: LoadVideo) -> str:
    """Rows of videos, one row for each prompt and seed, one video a model."""
    rows = []
    for group in groups:
        cells = []
        for model, sample in group.items():
            video, fps = load_video(sample)
            cells.append(
                html.GalleryCell(
                    label=model,
                    media=html.video_element(video, fps, f"{model}: {sample.prompt}"),
                    score=sample.score,
                    failed=[name for name, answer in sample.parts.items() if not answer],
                    passed=[name for name, answer in sample.parts.items() if answer],
                )
            )
        first = next(iter(group.values()))
        rows.append(html.GalleryRow(first.prompt, cells, note=f"seed {first.seed}"))
    return html.gallery(rows)


def headline(summary: Mapping[str, Any], reference: str) -> str:
    """Cards with each model's adherence and its difference to the reference."""
    items = []
    for model, interval in summary["adherence"].items():
        difference = summary[f"difference_to_{reference}"].get(model)
        known = interval["low"] is not None
        note = f"95 % interval {interval['low']:.3f} to {interval['high']:.3f}" if known else NO_INTERVAL
        mark = ""
        if difference:
            cell = html.interval_cell(difference, signed=True)
            note, mark = f"{cell.text} to {reference} {cell.interval}: {difference['verdict']}", cell.mark
        items.append(html.Card(model, f"{interval['mean']:.3f}", note, mark))
    return html.cards(items)


def write_report(
    output_dir: str | Path,
    samples: Sequence[Sample],
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    load_video: LoadVideo,
    references: Sequence[str],
    title: str = "Prompt adherence",
) -> Path:
    """Writes `report.html` and `report.json` to `output_dir`; returns the path of the page.

    Args:
        samples: all judged videos; they stand in the JSON one by one.
        summary: from `reward.adherence.evaluate.summarise`.
        settings: everything to repeat the evaluation: models, prompts, seeds, sizes, versions.
        load_video: gives the videos for the galleries.
        references: models that the others are compared with.
    """
    references = as_list(references)
    output_dir = Path(output_dir)
    several = len(summary["adherence"]) > 1
    best, worst = best_and_worst(samples, references[0], load_video)
    sections = [
        html.Section(
            "Result",
            headline(summary, references[0])
            + overview(summary, references if several else [])
            + (html.paragraph(power_text(summary)) if power_text(summary) else "")
            + "".join(html.paragraph(sentence) for sentence in _trained_on(settings)),
        ),
        html.Section("By category", category_tables(summary, references[0])),
        html.Section(
            "Largest gains" if several else "Best videos", best, "Same prompt and seed side by side."
        ),
        html.Section(
            "Largest losses" if several else "Worst videos", worst, "✗ marks what a video does not show."
        ),
    ]
    questions = question_table(summary)
    if questions:
        sections.append(html.Section("By question", questions))
    measures = measure_table(summary)
    if measures:
        sections.insert(2, html.Section("Motion, flicker, consistency", measures))
    sections.append(html.Section("How to repeat this", settings_table(settings)))
    write_json(
        output_dir / "report.json",
        {**summary, "settings": dict(settings), "samples": [sample.as_row() for sample in samples]},
    )
    write_text(output_dir / "report.html", html.page(title, sections, str(settings.get("subtitle", ""))))
    return output_dir / "report.html"


def _trained_on(settings: Mapping[str, Any]) -> list[str]:
    """Sentences about models that were trained on what measures them."""
    return known_measures(
        settings.get("trained_on", {}), str(settings.get("verifier", "")), settings.get("measures", ())
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
