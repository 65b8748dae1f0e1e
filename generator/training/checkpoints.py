"""Checkpoints of all trainers: by time, before an interruption, whole or not at all, and thinned out with care."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from generator.files.output_folder import Outputs, empty_own
from generator.output import InputError, allow_by_umask
from generator.training.engines import EngineTrainer
from generator.training.interruption import STOPPED, Interrupted, StopRequest, stoppable
from generator.training.optimizer_states import COUNTED, NAMED, load_optimizer

CHECKPOINT_FILES = (
    "trained.safetensors",
    "ema.safetensors",
    "best.safetensors",
    "extra_state.pt",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights_2.safetensors",
    "training.json",
    "model.safetensors",
    "pytorch_model.bin",
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "rng_state_#.pth",
    "trainer_state.json",
    "latest",
    "zero_to_fp32.py",
    "global_step#/*",
    "pytorch_model_fsdp.bin",
    "pytorch_model_fsdp_#/*",
    "optimizer_#/*",
)
"""Files of a checkpoint, those of DeepSpeed and FSDP included."""
LOG_FILES = ("runs/*/events.out.tfevents.*", "runs/*/*/events.out.tfevents.*")
TRAINER_FILES = (*(f"{PREFIX_CHECKPOINT_DIR}-#/{name}" for name in CHECKPOINT_FILES), *LOG_FILES)
"""Patterns of what `transformers.Trainer` leaves in an output folder; see `Outputs.files`."""
_CHECKPOINT = Outputs("checkpoint", CHECKPOINT_FILES)


def step_of(checkpoint: Path) -> int:
    """The optimiser step of a folder checkpoint-N; -1 for other names, such as those of copies that a user made."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", checkpoint.name)
    return int(found[1]) if found and checkpoint.is_dir() else -1


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders checkpoint-N in `folder`, whole or not, in the order of their steps."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) >= 0]
    return sorted(found, key=step_of)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`, or None.

    The trainer's state is the last file that is written into a checkpoint: one that lacks it, or in which it is
    cut off, was being written when its run was killed, and is passed over.
    """
    for checkpoint in reversed(checkpoints_in(folder)):
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def unfinished_checkpoint(folder: Path, result: str) -> str | None:
    """The newest checkpoint of a run that has not written its `result` (a file name) since; None where there is none.

    Those of the members of an ensemble lie one folder deeper.
    """
    runs = [folder, *sorted(path.parent for path in folder.glob(f"*/{PREFIX_CHECKPOINT_DIR}-*"))]
    newest = next((found for found in map(newest_checkpoint, runs) if found is not None), None)
    if newest is None or not (folder / result).is_file():
        return newest
    saved = (Path(newest) / TRAINER_STATE_NAME).stat().st_mtime
    return newest if saved > (folder / result).stat().st_mtime else None


class CheckpointSchedule(TrainerCallback):
    """Asks for a checkpoint every `minutes`, and for one last when the run is to stop.

    All processes decide together, since all take part in saving. Methods that learn from a rollout for several steps
    (`args.updates_per_rollout`) are saved between rollouts, where nothing of one need be remembered.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.request: StopRequest | None = None
        self.stopped = False
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % getattr(args, "updates_per_rollout", 1):
            return
        due = self.seconds > 0 and time.monotonic() - self._saved_at >= self.seconds
        stop, due = any_process([bool(self.request), due], args)
        if stop:
            self.stopped = True
            control.should_training_stop = True
        if stop or due:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Heeds what was asked while videos were made or judged, which may take minutes, before the next step."""
        if self.request is None or state.global_step % getattr(args, "updates_per_rollout", 1):
            return
        (stop,) = any_process([bool(self.request)], args)
        if stop:
            self.stopped = True
            control.should_training_stop = control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.stopped:  # the epoch did not end: it was left
            control.should_evaluate = control.should_save = control.should_log = False


def any_process(wishes: list[bool], args: Any) -> list[bool]:
    """Wishes that some process has; all of them must ask at the same time."""
    if args.world_size == 1 or not torch.distributed.is_initialized():
        return wishes
    wanted = torch.tensor(wishes, dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
    return [bool(value) for value in wanted.tolist()]


@contextmanager
def saved_before_stopping(schedule: CheckpointSchedule, output_dir: str | Path) -> Iterator[None]:
    """Lets signals inside the block stop a training whose callback `schedule` is, after a last checkpoint.

    Raises:
        Interrupted: somebody stopped it; a checkpoint of the last step is saved.
    """
    promise = "a checkpoint is saved at the end of this step or rollout, then training stops"
    with stoppable(promise) as schedule.request:
        try:
            yield
            code, folder = schedule.request.code, schedule.request.folder
        finally:
            schedule.request = None
    if schedule.stopped:
        schedule.stopped = False
        newest = newest_checkpoint(Path(output_dir))
        if folder is not None:
            (folder / STOPPED).write_text(newest or "", encoding="utf-8")
        raise Interrupted("training was stopped", code, Path(newest) if newest else None)


class CheckpointingTrainer(EngineTrainer):
    """`transformers.Trainer` that loses nothing: it saves by time and before an interruption.

    `args.save_minutes` says how often. A checkpoint that could not be finished is taken away, and `save_total_limit`
    deletes only what the trainer wrote into a folder checkpoint-N.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoint_schedule = CheckpointSchedule(getattr(self.args, "save_minutes", 0.0))
        self.add_callback(self.checkpoint_schedule)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains.

        Raises:
            Interrupted: somebody stopped it; a checkpoint of the last step is saved.
        """
        checkpoint = kwargs.get("resume_from_checkpoint") or (args[0] if args else None)
        if isinstance(checkpoint, str):
            require_engine(Path(checkpoint), self.is_deepspeed_enabled, self.args.world_size)
        with saved_before_stopping(self.checkpoint_schedule, str(self.args.output_dir)):
            return super().train(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        foreign = None if checkpoint is None else Path(checkpoint, COUNTED if self.is_fsdp_enabled else NAMED)
        if foreign is None or self.is_deepspeed_enabled or not foreign.is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        model: Any = self.model
        load_optimizer(foreign.parent, model, self.optimizer, self.is_fsdp_enabled)
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(foreign.with_name(SCHEDULER_NAME), weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The trainer's state, which is written next, says that the files of all processes are there.
        self.accelerator.wait_for_everyone()

    def _finalize_training(self, *args: Any) -> Any:
        # With a limit of 1, `Trainer` here deletes folders checkpoint-N whole, a user's own files in them too.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args)
        finally:
            self.args.save_total_limit = limit

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        known = checkpoint.exists()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                allow_by_umask(checkpoint)
        except BaseException:
            if self.args.should_save and not known:
                remove_checkpoint(checkpoint)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            thin_out(folder, limit, self.state.best_model_checkpoint)


def require_engine(checkpoint: Path, deepspeed: bool, processes: int) -> None:
    """Raises `InputError` where DeepSpeed has written a checkpoint and is not to read it, or the other way round, or
    has divided it among another number of processes."""
    parts = len(list(checkpoint.glob("global_step*/*optim_states.pt")))
    if parts and not deepspeed:
        raise InputError(
            f"The checkpoint {checkpoint} is divided among the {parts} processes of DeepSpeed that wrote it, but this "
            "run is without DeepSpeed: pass the --accelerate_config and --num_processes that it was started with."
        )
    if deepspeed and not parts and any((checkpoint / name).is_file() for name in (NAMED, COUNTED)):
        raise InputError(
            f"The checkpoint {checkpoint} was written without DeepSpeed, which cannot read it: pass the "
            "--accelerate_config that it was started with."
        )
    if parts not in (0, processes):
        raise InputError(
            f"The checkpoint {checkpoint} is divided among the {parts} processes of DeepSpeed that wrote it, but there "
            f"are {processes}: pass --num_processes {parts}."
        )


def thin_out(folder: Path, limit: int | None, best: str | None = None) -> None:
    """Deletes the oldest checkpoints until `limit` are left; the newest and `best` always stay."""
    if limit is None or limit <= 0:
        return
    found = checkpoints_in(folder)
    spare = [path for path in found[:-1] if best is None or path.resolve() != Path(best).resolve()]
    for path in spare[: max(len(found) - limit, 0)]:
        remove_checkpoint(path)


def remove_checkpoint(checkpoint: Path) -> None:
    """Deletes what a trainer wrote into a checkpoint; the folder stays if anything else lies in it."""
    if not checkpoint.is_dir() or checkpoint.is_symlink():
        return
    # The state goes first: without it, what a killed process leaves here is not taken for a whole checkpoint.
    (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
    empty_own(checkpoint, _CHECKPOINT, keep=())
    try:
        checkpoint.rmdir()
    except OSError:
        return
