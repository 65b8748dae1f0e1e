"""The evaluation report: one self-contained HTML page and its JSON twin with everything to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.output import write_json, write_text
from reward.adherence import html
from reward.adherence.evaluate import Sample

LoadVideo = Callable[[Sample], "tuple[Tensor, float]"]
"""The video `[3, frames, height, width]` of a sample, and its frames per second."""


def overview(summary: Mapping[str, Any], references: Sequence[str]) -> str:
    """Table of all models: adherence, paired differences and win rates with 95 % intervals."""
    rows: dict[str, dict[str, Any]] = {}
    signed = []
    for model, interval in summary["adherence"].items():
        row: dict[str, Any] = {"adherence": interval}
        for reference in references:
            column, wins = f"difference to {reference}", f"win rate against {reference}"
            signed.append(column)
            difference = summary[f"difference_to_{reference}"].get(model)
            row[column] = difference if difference else "–"
            row[wins] = difference["win_rate"] if difference else "–"
            row[f"ties with {reference}"] = f"{difference['tie_rate']:.0%}" if difference else "–"
        rows[model] = row
    first = next(iter(summary["adherence"].values()))
    caption = (
        f"{first['n']} videos of {first['clusters']} prompts a model. Brackets: 95 % intervals, bootstrap "
        "over prompts; "
        "differences are paired by prompt and seed; ties count ½ in win rates."
    )
    return html.interval_table(rows, caption, signed, first_column="model")


def category_tables(summary: Mapping[str, Any], reference: str) -> str:
    """Chart and table of adherence by category, and of paired differences with Holm-adjusted p-values."""
    categories = summary["categories"]
    if not categories:
        return html.paragraph("The verifier sorts prompts into no categories.")
    parts = [
        html.bar_chart(
            {"all": summary["adherence"], **categories}, "Mean adherence, 95 % intervals.", maximum=1.0
        )
    ]
    table: dict[str, dict[str, Any]] = {}
    for category, intervals in categories.items():
        prompts = next(iter(intervals.values()))["clusters"]
        table[category] = {"prompts": str(int(prompts)), **intervals}
    parts.append(html.interval_table(table, "Adherence by category.", first_column="category"))
    for model, rows in summary["category_differences"].get(reference, {}).items():
        body = {
            category: {
                f"{model} − {reference}": row,
                "p, Holm-adjusted": f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "< 0.001",
            }
            for category, row in rows.items()
        }
        parts.append(html.interval_table(body, "", [f"{model} − {reference}"], first_column="category"))
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
    count = min(count, max(1, len(ranked) // 2))
    return gallery(ranked[:count], load_video), gallery(ranked[::-1][:count], load_video)


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
        note = f"95 % interval {interval['low']:.3f} to {interval['high']:.3f}"
        mark = ""
        if difference:
            cell = html.interval_cell(difference, signed=True)
            note, mark = f"{cell.text} to {reference} {cell.interval}", cell.mark
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
    output_dir = Path(output_dir)
    several = len(summary["adherence"]) > 1
    best, worst = best_and_worst(samples, references[0], load_video)
    sections = [
        html.Section(
            "Result", headline(summary, references[0]) + overview(summary, references if several else [])
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
        sections.insert(2, html.Section("By question", questions))
    sections.append(html.Section("How to repeat this", html.facts(_flatten(settings))))
    write_json(
        output_dir / "report.json",
        {**summary, "settings": dict(settings), "samples": [sample.as_row() for sample in samples]},
    )
    write_text(output_dir / "report.html", html.page(title, sections, str(settings.get("subtitle", ""))))
    return output_dir / "report.html"


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
