"""Compares finished evaluations with each other: runs of `vidalign evaluate`, whose videos were judged already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from generator.files.output_folder import Outputs, check_output_dir, open_output_dir
from generator.one_or_several import as_list
from generator.output import InputError, read_json
from reward.adherence.evaluate import Sample, summarise
from reward.reports.adherence import write_report
from reward.reports.clips import read_shown
from reward.reports.comparison import read_samples, repeatable
from reward.reports.evaluation_folder import METADATA_NAME, REPORT_NAME, SHEET_NAME

_SIZES = (
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "solver",
)
_BEFORE = {"solver": "euler"}
"""Values that evaluations used which are older than a setting."""


def name_runs(runs: Sequence[str]) -> dict[str, Path]:
    """`{name in the report: folder}` from `NAME=FOLDER` or `FOLDER`, whose last part then is the name.

    Raises:
        InputError: there is only one, two would have one name, or a folder holds no finished evaluation.
    """
    runs = as_list(runs)
    named: dict[str, Path] = {}
    for text in runs:
        name, separator, path = text.partition("=")
        folder = Path(path if separator else text)
        name = name if separator else folder.resolve().name
        if not (folder / REPORT_NAME).is_file() or not (folder / METADATA_NAME).is_file():
            raise InputError(
                f"{folder} holds no finished evaluation ({REPORT_NAME} or {METADATA_NAME} is missing): give output "
                "folders of vidalign evaluate."
            )
        if name in named:
            raise InputError(f"Two runs would be called {name!r} in the report: name one with NAME={folder}.")
        named[name] = folder
    if len(named) < 2:
        raise InputError("One run cannot be compared: give at least two output folders of vidalign evaluate.")
    return named


def _samples_of_run(name: str, folder: Path, output_dir: Path) -> list[Sample]:
    """Samples with the run in their model's name, and with paths from `output_dir`."""
    samples = read_samples(folder / METADATA_NAME)
    several = len({sample.model for sample in samples}) > 1
    return [
        replace(
            sample,
            model=f"{name}/{sample.model}" if several else name,
            file_name=os.path.relpath(folder / sample.file_name, output_dir) if sample.file_name else "",
        )
        for sample in samples
    ]


def _settings_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / REPORT_NAME).get("settings", {})


def differing_settings(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the sizes and sampling settings in which the runs differ.

    Raises:
        InputError: they were judged by different verifiers or questions, whose scores mean different things.
    """
    for judge in ("verifier", "questions"):
        found = {name: str(values.get(judge)) for name, values in settings.items()}
        if len(set(found.values())) > 1:
            said = ", ".join(f"{name}: {value}" for name, value in found.items())
            raise InputError(
                f"The runs were judged by different {judge} ({said}): evaluate them with the same."
            )
    return [
        name
        for name in _SIZES
        if len({json.dumps(values.get(name, _BEFORE.get(name))) for values in settings.values()}) > 1
    ]


def _is_comparison(folder: Path) -> bool:
    try:
        return "runs" in json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


COMPARISON_OUTPUTS = Outputs(
    "evaluate compare", (REPORT_NAME, "report.html", SHEET_NAME), is_record=_is_comparison
)


def compare_runs(
    runs: Mapping[str, Path],
    output_dir: str | Path,
    references: Sequence[str] = (),
    overwrite: bool = False,
    title: str = "Comparison of evaluations",
) -> dict[str, Any]:
    """Compares the models of several finished evaluations on the prompts and seeds that they share.

    A model is called by its run where that has one model, else `RUN/MODEL`. Only prompts and seeds that all models
    have are compared; `settings.left_out` says how many samples that leaves out.

    Args:
        runs: `{name: output folder of an evaluation}`.
        output_dir: gets `report.html` and `report.json`.
        references: models that the others are compared with; the first one by default.

    Returns:
        The summary of `reward.adherence.evaluate.summarise`.

    Raises:
        InputError: the runs share no prompt and seed, were judged differently, a reference is unknown, or the output
            folder is in use.
    """
    settings = {name: _settings_of(folder) for name, folder in runs.items()}
    differing = differing_settings(settings)
    target = Path(output_dir)
    check_output_dir(target, COMPARISON_OUTPUTS, overwrite, runs.values())
    samples = [s for name, folder in runs.items() for s in _samples_of_run(name, folder, target)]
    models = list(dict.fromkeys(sample.model for sample in samples))
    keys = [{(s.prompt, s.seed) for s in samples if s.model == model} for model in models]
    shared = set.intersection(*keys)
    if not shared:
        raise InputError(
            "The runs have no prompt and seed in common: evaluate them with the same prompts and seed."
        )
    references = as_list(references) or models[:1]
    unknown = [name for name in references if name not in models]
    if unknown:
        raise InputError(f"The reference {unknown[0]!r} is not among the models {', '.join(models)}.")
    kept = [sample for sample in samples if (sample.prompt, sample.seed) in shared]
    summary = summarise(kept, references)
    facts = {
        "runs": {name: str(path) for name, path in runs.items()},
        "left_out": len(samples) - len(kept),
        "differing_settings": differing,
        "bootstrap": repeatable(target)["bootstrap"],
        "settings_of_runs": settings,
        "subtitle": _subtitle(len(samples) - len(kept), differing),
    }
    folder = open_output_dir(target, COMPARISON_OUTPUTS, overwrite, rewrites=True)
    write_report(folder, kept, summary, facts, lambda s: read_shown(folder / s.file_name), references, title)
    return summary


def _subtitle(left_out: int, differing: Sequence[str]) -> str:
    said = []
    if left_out:
        said.append(f"{left_out} videos of prompts and seeds that not every model has are left out.")
    if differing:
        said.append(f"The runs differ in {', '.join(differing)}.")
    return " ".join(said)
