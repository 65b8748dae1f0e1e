"""`vidalign evaluate human`: win rates of models from the answers of people, with a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli.next_command import new_folder, show_next
from alignment.cli.show_report import OPEN_HELP, show_report
from generator.output import InputError, refuse_unwritable

if TYPE_CHECKING:
    from labeling_app.store.store import Store


@dataclass
class HumanArguments:
    """Campaign whose models are compared, and the report."""

    db: str = field(metadata={"help": "Database of the labeling app: a path such as labels.db, or a URL."})
    output_dir: str = field(metadata={"help": "Folder for report.html and report.json."})
    campaign: str = field(
        default="default",
        metadata={"help": "Campaign whose videos came from `vidalign label import --compare`."},
    )
    dimension: str | None = field(
        default=None,
        metadata={"help": "Dimension that counts; overall, or the campaign's first, if not given."},
    )
    evaluation: str | None = field(
        default=None,
        metadata={
            "help": "Folder of `vidalign evaluate` with the same videos, whose scores are compared with people."
        },
    )
    stop_width: float | None = field(
        default=None,
        metadata={
            "help": "Width of the intervals of the win rates at which judging may end, such as 0.1; says whether it "
            "may, and forecasts the judgements that are missing."
        },
    )
    title: str = field(default="Models compared by people", metadata={"help": "Title of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})
    open: bool = field(default=False, metadata={"help": OPEN_HELP})

    def __post_init__(self) -> None:
        if self.stop_width is not None and not 0 < self.stop_width < 1:
            raise InputError(
                f"stop_width is {self.stop_width}: give the width of an interval of win rates between 0 and 1, such as "
                "0.1."
            )


def run_human(arguments: HumanArguments) -> None:
    """Writes the report, prints the figures and what to do next."""
    from generator.files.output_folder import check_output_dir
    from labeling_app.store.database import existing_database
    from labeling_app.store.store import Store
    from reward.reports.human import OUTPUTS, write_human_report

    refuse_unwritable(arguments.output_dir)
    check_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite)
    with Store(existing_database(arguments.db)) as store:
        judged, summary = _summary(store, arguments)
    settings = {
        name: value
        for name in ("campaign", "evaluation", "stop_width")
        if (value := getattr(arguments, name)) is not None
    }
    write_human_report(
        arguments.output_dir, judged, summary, settings, arguments.title, overwrite=arguments.overwrite
    )
    print_human_summary(summary)
    show_report(Path(arguments.output_dir) / "report.html", arguments.open)
    stopping = summary["stopping"]
    if stopping is None or stopping["stop"]:
        file = new_folder(arguments.output_dir, "rankings") + ".jsonl"
        show_next(
            "label", "export", "--db", arguments.db, "--campaign", arguments.campaign, "--output_file", file
        )
    else:
        show_next("label", "serve", "--db", arguments.db, "--campaign", arguments.campaign)


def _summary(store: Store, arguments: HumanArguments) -> tuple[list[Any], dict[str, Any]]:
    """The answers that count, and all figures.

    Raises:
        InputError: the campaign compares no models, has no answers, or its videos were not evaluated.
    """
    from labeling_app.campaigns.overview import campaign_overview
    from labeling_app.quality.agreement import agreement
    from labeling_app.quality.compared_models import compared_dimension, judged_pairs
    from labeling_app.quality.hidden_checks import hidden_checks
    from reward.human.evaluation import read_scores, summarise_judgements

    row = store.campaign(arguments.campaign)
    dimension = compared_dimension(store, row.name, arguments.dimension)
    judged = judged_pairs(store, row.name, dimension)
    if not judged:
        compares = any(video.model for task in store.tasks(row.name) for video in task.videos)
        raise InputError(
            f"The campaign {row.name!r} has no answers yet: let annotators compare its videos first."
            if compares
            else f"The campaign {row.name!r} compares no models: import videos with vidalign label import --compare."
        )
    scores = read_scores(arguments.evaluation, judged) if arguments.evaluation else None
    found = agreement(store, row.name, dimension)
    checks = hidden_checks(store, row.name)
    counts = campaign_overview(store, row)
    right = sum(each.gold_right for each in checks.values())
    pairs = sum(each.gold_pairs for each in checks.values())
    people = {
        person.name: {
            "answers": person.judgements,
            "agreement": _known(person.agreement),
            "tie_rate": _known(person.tie_rate),
            "gold_accuracy": _known(checks[person.name].gold_accuracy) if person.name in checks else None,
            "self_consistency": _known(checks[person.name].self_consistency)
            if person.name in checks
            else None,
        }
        for person in found.annotators
    }
    summary = {
        **summarise_judgements(judged, scores, arguments.stop_width),
        "dimension": dimension,
        "answers_left": max(0, counts["answers_wanted"] - counts["answers"]),
        "agreement": {
            "alpha": _known(found.alpha),
            "alpha_low": _known(found.alpha_low),
            "alpha_high": _known(found.alpha_high),
            "pairwise": _known(found.pairwise),
        },
        "gold": {"right": right, "pairs": pairs, "accuracy": right / pairs if pairs else None},
        "people": people,
    }
    return judged, summary


def print_human_summary(summary: dict[str, Any]) -> None:
    """Win rates, strengths, agreement, and whether to go on judging."""
    from reward.reports.human_sentences import agreement_text, pair_text, stopping_text, strength_text

    for pair in summary["pairs"]:
        print(pair_text(pair))
    print(strength_text(summary))
    for line in agreement_text(summary):
        print(line)
    if summary["stopping"] is not None:
        print(stopping_text(summary))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
