"""The report of `vidalign evaluate human`: the page of all reports, with its JSON twin."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from generator.files.output_folder import Outputs, open_output_dir
from generator.output import InputError, read_record, write_json, write_text
from generator.video_files.remote_files import FileOfHash, is_url
from reward.human.comparisons import judgements_needed
from reward.human.evaluation import JudgedPair
from reward.ranked_files import kept_files
from reward.reports import html
from reward.reports.clips import bytes_a_clip, read_shown, video_element
from reward.reports.examples import CHOICE_SEED
from reward.reports.html import Cell, GalleryCell, GalleryRow
from reward.reports.human_sentences import (
    FEW_ANNOTATORS,
    agreement_text,
    human_sentence,
    points,
    share,
    share_ends,
    stopping_text,
)
from reward.reports.made import made_now
from reward.reports.page import Examples, Front, Side, dot_chart, page
from reward.reports.tables import settings_table

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
OUTPUTS = Outputs(
    "evaluate human",
    (PAGE_NAME, REPORT_NAME),
    is_record=lambda folder: {"pairs", "strengths"} <= read_record(folder / REPORT_NAME).keys(),
)
INTRO = "Below each video its model, and how many annotators preferred it."
SHOWN = 3
"""Examples of each rule."""
DIFFERENCES = (0.05, 0.1, 0.15, 0.2)

Votes = list[JudgedPair]
"""All answers about one pair of videos."""


def write_human_report(
    folder: str | Path,
    judged: Sequence[JudgedPair],
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    title: str,
    overwrite: bool = False,
) -> Path:
    """Writes `report.html` and `report.json` into the folder, which is made; returns the path of the page.

    Args:
        judged: the answers; their videos are shown where the files still are, those of other storage too.
        summary: from `reward.human.evaluation.summarise_judgements`, with what the store adds.
        settings: what was asked for.

    Raises:
        InputError: the folder is in use, and `overwrite` is not set or may not empty it.
    """
    folder, made = Path(folder), made_now()
    text = human_page(judged, summary, settings, made, title, folder)
    open_output_dir(folder, OUTPUTS, overwrite)
    write_json(folder / REPORT_NAME, {**summary, "settings": dict(settings), "made": made})
    write_text(folder / PAGE_NAME, text)
    return folder / PAGE_NAME


def human_page(
    judged: Sequence[JudgedPair],
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    made: Mapping[str, Any],
    title: str,
    folder: Path,
) -> str:
    """The whole page, which will lie in `folder`."""
    by_task: dict[tuple[int, str, str], Votes] = defaultdict(list)
    for each in judged:
        by_task[each.task, each.first, each.second].append(each)
    groups = list(by_task.values())
    drawn = random.Random(CHOICE_SEED).sample(groups, min(2, len(groups)))
    front = Front(
        sentence=human_sentence(summary),
        facts={
            "campaign": str(settings["campaign"]),
            "dimension": summary["dimension"],
            "judgements": str(summary["judgements"]),
            "prompts": str(summary["prompts"]),
            "annotators": str(summary["annotators"]),
        },
        clips=_rows(drawn, folder, 2),
        rule=f"Drawn from all {len(groups)} compared pairs of videos with Python's random.Random({CHOICE_SEED}).",
        chart=_chart(summary),
        sides=_sides(summary),
        notes=_notes(summary),
    )
    return page(title, front, _examples(groups, folder), _details(summary, settings, made), INTRO)


def _chart(summary: Mapping[str, Any]) -> str:
    """Win rates of the only two models, or strengths of more."""
    if summary["strengths"] is None or len(summary["models"]) == 2:
        rows = {f"{p['first']} – {p['second']}": p["win_rate"] for p in summary["pairs"]}
        return dot_chart(
            rows, "Win rate of the first model with its 95 % interval; a tie counts ½", {"equal": 0.5}
        )
    rows = {model: summary["strengths"]["elo"][model] for model in summary["models"]}
    return dot_chart(rows, "Strengths in Elo points with 95 % intervals", {"mean": 0.0}, 0)


def _sides(summary: Mapping[str, Any]) -> list[Side]:
    """Pairs of models that people tell apart, and those that they do not, as equals."""
    told: list[tuple[str, str, str]] = []
    alike: list[tuple[str, str, str]] = []
    for pair in summary["pairs"]:
        decided = pair["verdict"] in ("better", "worse")
        (told if decided else alike).append(
            (
                f"{pair['first']} {pair['verdict'] if decided else 'and'} "
                f"{'than ' if decided else ''}{pair['second']}",
                share(pair["win_rate"]["mean"]),
                share_ends(pair["win_rate"]),
            )
        )
    return [
        Side("Told apart", told, "No two models: all intervals hold one half."),
        Side("Not told apart", alike, "None."),
    ]


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = [f"{line}." for line in agreement_text(summary)]
    if summary["stopping"] is not None:
        notes.append(stopping_text(summary))
    if summary["annotators"] == 1:
        notes.append(f"There is {FEW_ANNOTATORS}.")
    if summary["simulated_annotators"]:
        notes.append(
            f"{summary['simulated_annotators']} of {summary['annotators']} annotators are simulated, so these are "
            "answers of programs and not of people."
        )
    return notes


def _examples(groups: Sequence[Votes], folder: Path) -> list[Examples]:
    """Pairs of videos on which annotators were of one mind, were divided, or found both bad."""
    several = [votes for votes in groups if len(votes) > 1]
    clear = sorted(several or groups, key=lambda votes: -abs(sum(v.outcome - 0.5 for v in votes)))
    divided = [v for v in several if {0.0, 1.0} <= {each.outcome for each in v}]
    divided.sort(key=lambda votes: abs(sum(v.outcome - 0.5 for v in votes)) / len(votes))
    bad = sorted((v for v in groups if any(e.all_bad for e in v)), key=lambda v: -sum(e.all_bad for e in v))
    rules = (
        ("Of one mind", "The most annotators more for one video than for the other.", clear),
        ("Divided", "Annotators preferred each of the two, in the most even numbers.", divided),
        ("Both bad", "The most annotators called both videos bad.", bad),
    )
    return [
        Examples(name, rule, _rows(chosen[:SHOWN], folder, SHOWN * len(rules) + 2))
        for name, rule, chosen in rules
        if chosen
    ]


def _rows(groups: Sequence[Votes], folder: Path, pages: int) -> list[GalleryRow]:
    rows, remote = [], kept_files()
    for votes in groups:
        cells = []
        for side, model in enumerate((votes[0].first, votes[0].second)):
            preferred = sum(each.outcome == 1 - side for each in votes)
            name = votes[0].videos[side]
            try:
                path = remote.local(FileOfHash(name, votes[0].contents[side]))
                video, fps = read_shown(path)
                media = video_element(video, fps, f"{model}: {votes[0].prompt}", bytes_a_clip(2 * pages))
            except (InputError, OSError):
                media = html.paragraph("The file is not there any more.")
            linked = name.endswith(".mp4") and not is_url(name)
            link = quote(os.path.relpath(name, folder)) if linked else ""
            cells.append(GalleryCell(model, media, f"{preferred} of {len(votes)}", link=link))
        ties = sum(each.outcome == 0.5 for each in votes)
        rows.append(GalleryRow(votes[0].prompt, cells, f"{ties} of {len(votes)} equal" if ties else ""))
    return rows


def _details(
    summary: Mapping[str, Any], settings: Mapping[str, Any], made: Mapping[str, Any]
) -> list[html.Section]:
    return [
        html.Section(
            "Win rates",
            _pair_table(summary),
            "A tie counts ½. Intervals are 95 %, clustered by prompt and annotator. Coloured: better or worse with p "
            "below 0.05, Holm-adjusted over all pairs of this page.",
        ),
        html.Section(
            "Strengths",
            _strength_table(summary),
            "Davidson's model of wins and ties, in Elo points with mean 0: 400 points are odds of 10 to 1.",
        ),
        html.Section(
            "Agreement with measures",
            _measure_table(summary),
            "Share of the decided answers in which a measure prefers the video that the annotator preferred; ½ is "
            "chance.",
        ),
        html.Section(
            "Annotators",
            _people_table(summary),
            "Agreement is with the other annotators on the same videos; known answers and repeats are hidden checks.",
        ),
        html.Section(
            "Judgements that a difference takes",
            _power_table(summary),
            "Independent judgements of one pair of models with 80 % power, at the tie rate of all answers. Several "
            "annotators a prompt, or annotators with tastes of their own, take more.",
        ),
        html.Section(
            "Everything to repeat this",
            (html.code(made["command"]) if made.get("command") else "")
            + html.facts({name: value for name, value in made.items() if name != "command"})
            + settings_table(dict(settings)),
        ),
    ]


def _pair_table(summary: Mapping[str, Any]) -> str:
    rows: list[list[Cell | str | float]] = []
    for pair in summary["pairs"]:
        rate, p_holm = pair["win_rate"], pair["p_holm"]
        mark = pair["verdict"] if pair["verdict"] in ("better", "worse") else ""
        rows.append(
            [
                f"{pair['first']} against {pair['second']}",
                Cell(share(rate["mean"]), share_ends(rate), mark),
                share(pair["tie_rate"]),
                share(pair["all_bad_rate"]),
                str(rate["n"]),
                str(rate["clusters"]),
                str(pair["annotators"]),
                "–" if p_holm is None else "< 0.001" if p_holm < 0.001 else f"{p_holm:.3f}",
            ]
        )
    columns = [
        "models",
        "win rate of the first",
        "ties",
        "both bad",
        "judgements",
        "prompts",
        "annotators",
        "p (Holm)",
    ]
    return html.plain_table(columns, rows)


def _strength_table(summary: Mapping[str, Any]) -> str:
    strengths = summary["strengths"]
    if strengths is None:
        return html.paragraph("The comparisons do not lead from each model to every other one.")
    rows: list[list[Cell | str | float]] = []
    for model in summary["models"]:
        row = strengths["elo"][model]
        ends = "–" if row["low"] is None else f"[{points(row['low'])}, {points(row['high'])}]"
        rows.append([model, Cell(points(row["mean"]), ends)])
    return html.plain_table(["model", "Elo points"], rows, f"ν of ties: {strengths['nu']:.2f}.")


def _measure_table(summary: Mapping[str, Any]) -> str:
    if not summary["measures"]:
        return html.paragraph("No evaluation was given: --evaluation FOLDER of vidalign evaluate adds this.")
    rows: list[list[Cell | str | float]] = [
        [
            f"{name} (lower is better)" if row["lower_is_better"] else name,
            Cell(share(row["agreement"]["mean"]), share_ends(row["agreement"])),
            str(row["agreement"]["n"]),
            f"{row['model_pairs_alike']} of {row['model_pairs']}",
        ]
        for name, row in summary["measures"].items()
    ]
    return html.plain_table(["measure", "agreement", "answers", "pairs of models in one order"], rows)


def _people_table(summary: Mapping[str, Any]) -> str:
    shown = ("agreement", "tie_rate", "gold_accuracy", "self_consistency")
    rows: list[list[Cell | str | float]] = [
        [name, str(person["answers"]), *("–" if person[k] is None else share(person[k]) for k in shown)]
        for name, person in summary["people"].items()
    ]
    return html.plain_table(
        ["annotator", "answers", "agreement", "ties", "known answers right", "same on repeats"], rows
    )


def _power_table(summary: Mapping[str, Any]) -> str:
    total = sum(pair["win_rate"]["n"] for pair in summary["pairs"])
    ties = sum(pair["tie_rate"] * pair["win_rate"]["n"] for pair in summary["pairs"]) / total
    rows: list[list[Cell | str | float]] = [
        [share(0.5 + difference), str(judgements_needed(0.5 + difference, ties))]
        for difference in DIFFERENCES
        if ties <= 1 - 2 * difference
    ]
    return html.plain_table(["win rate", "judgements"], rows, f"Tie rate {share(ties)}.")
