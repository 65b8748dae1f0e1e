"""The output folder of `vidalign evaluate`: what lies in it, and whether an evaluation may begin or go on there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator.files.output_folder import Outputs, check_output_dir, named_videos, require_own
from generator.output import InputError, read_record

SETTINGS_NAME = "settings.json"
METADATA_NAME = "metadata.jsonl"
REPORT_NAME = "report.json"
DEFAULTS_NAME = "defaults.json"
SHEET_NAME = "samples.gif"
PART = "metadata-#.jsonl"
"""Samples that a process other than the first has judged, until all are put together."""


def video_name(model: str, number: int, seed: int) -> str:
    """Path in the output folder of the video of a model, a number of a prompt and a seed."""
    return f"videos/{model}/{number:04d}-{seed}.mp4"


def holds_unfinished(output_dir: str | Path, overwrite: bool) -> bool:
    """Returns whether the output folder holds an unfinished evaluation, which is not to be overwritten.

    Raises:
        InputError: it holds a finished report or foreign files, and `overwrite` is not set or may not delete them.
    """
    folder = Path(output_dir)
    if overwrite or not (folder / SETTINGS_NAME).is_file() or (folder / REPORT_NAME).is_file():
        check_output_dir(folder, OUTPUTS, overwrite)
        return False
    return True


def check_evaluation(output_dir: str | Path, settings: Mapping[str, Any], overwrite: bool) -> bool:
    """Returns whether the output folder is that of an interrupted run with the same settings, to go on with.

    Raises:
        InputError: it holds a finished report, a run with other settings or foreign files, and `overwrite` is not set
            or may not delete them.
    """
    folder = Path(output_dir)
    wanted = json.loads(json.dumps(settings))
    if not holds_unfinished(folder, overwrite):
        return False
    require_own(folder, OUTPUTS)
    found = _stored_settings(folder)
    if found == wanted:
        return True
    changed = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    raise InputError(
        f"{folder} holds an unfinished evaluation with other settings ({', '.join(changed)} differ): "
        "give the same settings to go on with it, name another folder, or pass --overwrite."
    )


def _stored_settings(folder: Path) -> dict[str, Any]:
    return read_record(folder / SETTINGS_NAME)


def _video_names(folder: Path) -> list[str]:
    """The videos that the settings and the metadata of an evaluation's folder tell of."""
    found = _stored_settings(folder)
    try:
        each, seed = int(found["num_videos_per_prompt"]), int(found["seed"])
        return [
            *named_videos(folder, METADATA_NAME),
            *(
                video_name(str(model), number, seed + number * each + copy)
                for model in found["models"]
                for number in range(int(found["prompts"]))
                for copy in range(each)
            ),
        ]
    except (KeyError, TypeError, ValueError):
        return named_videos(folder, METADATA_NAME)


OUTPUTS = Outputs(
    "evaluate",
    (SETTINGS_NAME, DEFAULTS_NAME, METADATA_NAME, PART, REPORT_NAME, "report.html", SHEET_NAME),
    early=(SETTINGS_NAME, DEFAULTS_NAME),
    is_record=lambda folder: {"models", "num_videos_per_prompt"} <= _stored_settings(folder).keys(),
    listed=_video_names,
)
