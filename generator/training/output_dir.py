"""Output folders in which a training may begin or go on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments

from generator.files.output_folder import Outputs, check_output_dir, require_own, why_kept
from generator.output import InputError
from generator.training.checkpoints import newest_checkpoint, unfinished_checkpoint
from generator.training.invocation import command_that_goes_on, typed


def advice_to_go_on(folder: Path, overwrite: str) -> str:
    """Advice in the refusal of a folder in use that holds a checkpoint; empty where it holds none.

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
    """Returns whether a training that was told to resume keeps what its output folder holds."""
    if not config.resume_from_checkpoint:
        return False
    return checkpoint is None or Path(checkpoint).resolve().is_relative_to(
        Path(str(config.output_dir)).resolve()
    )
