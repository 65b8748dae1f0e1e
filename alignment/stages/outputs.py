"""What the commands that train a generator write, and where they may begin or go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from alignment.invocation import command_that_goes_on, typed
from generator.adapters import ADAPTER_FILES, TRAINING_NAME
from generator.files.output_folder import Outputs, check_output_dir, require_own, why_kept
from generator.files.pipeline_files import PIPELINE_FILES
from generator.output import InputError
from generator.training.checkpoints import (
    LOG_FILES,
    TRAINER_FILES,
    checkpoints_in,
    newest_checkpoint,
    unfinished_checkpoint,
)

TRAINING_FILES = (*ADAPTER_FILES, *PIPELINE_FILES, TRAINER_STATE_NAME, *TRAINER_FILES)


def training_outputs(command: str) -> Outputs:
    """What `sft`, `dpo`, `ppo`, `rwr`, `nft`, `backprop` and `online_dpo` write."""
    return Outputs(
        command, TRAINING_FILES, early=LOG_FILES, is_record=lambda folder: _made_by(folder, command)
    )


def command_of(name: str) -> str:
    """The command of a trainer or a configuration by the name of its class: `online_dpo` of `OnlineDPOTrainer`."""
    stem = name.removesuffix("Trainer").removesuffix("Config")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", stem).lower()


def _made_by(folder: Path, command: str) -> bool:
    """Whether the records of a folder without a mark name the trainer of this command."""
    checkpoints = checkpoints_in(folder)
    for record in (folder / TRAINING_NAME, *(checkpoint / TRAINING_NAME for checkpoint in checkpoints)):
        try:
            return command_of(str(json.loads(record.read_text(encoding="utf-8"))["trainer"])) == command
        except (OSError, ValueError, KeyError, TypeError):
            continue
    # Checkpoints of all weights say nothing of their trainer.
    return any((checkpoint / "trained.safetensors").is_file() for checkpoint in checkpoints)


def advice_to_go_on(folder: Path, overwrite: str) -> str:
    """What the refusal of a folder in use advises where it holds a checkpoint; empty where it holds none.

    Args:
        overwrite: the flags that delete it.
    """
    newest = newest_checkpoint(folder)
    if newest is None:
        return ""
    how = command_that_goes_on(resume=True) if typed() else "--resume_from_checkpoint latest"
    name = Path(newest).name
    return f"go on from its {name} with\n    {how}\nor name another one ({overwrite} deletes what it holds)"


def check_training_dir(
    config: TrainingArguments,
    outputs: Outputs,
    result: str,
    overwrite: bool,
    inputs: Iterable[str | Path] = (),
) -> str | None:
    """Checks the output folder of a training; returns the checkpoint to go on from, or None for a fresh start.

    `resume_from_checkpoint` is a checkpoint folder, or `latest` (or `true`) for the newest one in the output
    folder; without a checkpoint there, `latest` starts afresh. Nothing is changed yet.

    Args:
        result: the file that a finished training leaves.
        overwrite: whether what the command wrote there before may be deleted.
        inputs: files and folders that the command reads.

    Raises:
        InputError: the output folder is not empty, and neither `overwrite` nor a resumption was asked for; it holds
            what the command did not write, one of `inputs`, or a checkpoint of an unfinished run which was not given
            up by `discard_checkpoints`; or the checkpoint does not exist.
    """
    wanted, folder = str(config.resume_from_checkpoint or ""), Path(str(config.output_dir))
    if wanted and wanted.lower() not in {"latest", "true"}:
        if not Path(wanted).is_dir():
            raise InputError(
                f"The checkpoint {wanted} does not exist: name a folder checkpoint-N or say `latest`."
            )
        if Path(wanted).resolve().is_relative_to(folder.resolve()):
            require_own(folder, outputs)
        else:
            check_output_dir(folder, outputs, overwrite, inputs)
        return wanted
    if wanted:
        require_own(folder, outputs)
        newest = newest_checkpoint(folder)
        if newest is None and (folder / result).is_file():
            raise InputError(
                f"{folder} holds a finished training without checkpoints, so there is nothing to go on from: name "
                "another folder, or pass --overwrite without --resume_from_checkpoint."
            )
        return newest
    unfinished = unfinished_checkpoint(folder, result)
    discard = bool(getattr(config, "discard_checkpoints", False))
    flags = "--overwrite" if unfinished is None else "--overwrite --discard_checkpoints true"
    advice = advice_to_go_on(folder, flags) if folder.is_dir() and why_kept(folder, outputs) is None else ""
    check_output_dir(folder, outputs, overwrite, inputs, advice)
    if unfinished is not None and not discard:
        raise InputError(
            f"{folder} holds {Path(unfinished).name} of an unfinished training, which --overwrite alone does not "
            f"delete: {advice}."
        )
    return None


def goes_on_inside(config: TrainingArguments, checkpoint: str | None) -> bool:
    """Whether a training that was told to resume keeps what its output folder holds."""
    if not config.resume_from_checkpoint:
        return False
    return checkpoint is None or Path(checkpoint).resolve().is_relative_to(
        Path(str(config.output_dir)).resolve()
    )
