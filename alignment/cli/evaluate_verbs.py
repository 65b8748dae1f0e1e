"""The verbs of `vidalign evaluate`: `compare`, the joint report of several evaluations, `vbench`, VBench's aggregation,
and `human`, models compared by people."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from alignment.cli import Verb
from alignment.cli.evaluate_human import HumanArguments, run_human
from alignment.cli.show_report import OPEN_HELP, print_summary
from generator.one_or_several import as_list


@dataclass
class CompareArguments:
    """Arguments of `vidalign evaluate compare`."""

    runs: list[str] = field(
        metadata={"help": "Output folders of vidalign evaluate; NAME=FOLDER names one in the report."}
    )
    output_dir: str = field(metadata={"help": "Folder for report.html and report.json."})
    reference: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the models that the others are compared with; the first one by default."},
    )
    title: str = field(default="Comparison of evaluations", metadata={"help": "Title of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})
    open: bool = field(default=False, metadata={"help": OPEN_HELP})

    def __post_init__(self) -> None:
        self.runs, self.reference = as_list(self.runs), as_list(self.reference)


@dataclass
class VBenchArguments:
    """Arguments of `vidalign evaluate vbench`."""

    results: list[str] = field(
        metadata={
            "help": "VBench's *_eval_results.json files, or folders of them, with all sixteen dimensions."
        }
    )
    output: str = field(default="", metadata={"help": "JSON file for the aggregated scores."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing file."})


def run_compare(arguments: CompareArguments) -> None:
    """Writes the joint report of several evaluations and prints the means with their intervals."""
    from reward.reports.runs import compare_runs, name_runs

    runs = name_runs(arguments.runs)
    summary = compare_runs(
        runs, arguments.output_dir, arguments.reference, arguments.overwrite, arguments.title
    )
    print_summary(summary, arguments.output_dir, arguments.open)


def run_vbench(arguments: VBenchArguments) -> None:
    """Prints quality, semantic and total score of VBench's results."""
    from generator.output import check_output_file, write_json
    from reward.adherence.vbench import aggregate, read_results

    target = Path(arguments.output) if arguments.output else None
    if target is not None:
        check_output_file(target, arguments.overwrite, _is_aggregate, "a file of aggregated scores")
    scores = read_results(arguments.results)
    result = aggregate(scores)
    if target is not None:
        write_json(target, {"scores": scores, **result})
    for name in ("quality", "semantic", "total"):
        print(f"{name:10s} {100 * result[name]:.2f}")


def _is_aggregate(path: Path) -> bool:
    try:
        return {"scores", "total"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


VERBS = {
    "compare": Verb(
        "Compare several evaluations with each other, with intervals and a report.",
        (CompareArguments,),
        run_compare,
        "vidalign evaluate compare runs/evaluation runs/other --output_dir runs/comparison",
        positional="runs",
    ),
    "vbench": Verb(
        "Aggregate VBench's sixteen dimensions to quality, semantic and total score.",
        (VBenchArguments,),
        run_vbench,
        "vidalign evaluate vbench evaluation_results --output vbench.json",
        positional="results",
    ),
    "human": Verb(
        "Win rates and strengths of models from the answers of people, with intervals and a report.",
        (HumanArguments,),
        run_human,
        "vidalign evaluate human --db labels.db --campaign duel --output_dir runs/human --stop_width 0.1",
    ),
}
