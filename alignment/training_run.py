"""What every training command does around its trainer: output folder, generator, resuming, saving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from alignment.adapters import GeneratorArguments
from alignment.alignment_config import AlignmentConfig
from alignment.alignment_trainer import AlignmentTrainer
from alignment.latent_dataset import encode_files, file_hash
from alignment.rollout_config import RewardedSamplingConfig
from generator.base import VideoGenerator
from generator.output import InputError, prepare_output_dir, refuse_inputs_in
from generator.zero import outside_engine

if TYPE_CHECKING:
    from torch import Tensor

    from reward.models.base import RewardModel


def generator_inputs(arguments: GeneratorArguments) -> list[str]:
    """The files and folders that `load_generator_to_train` reads."""
    return [arguments.model, *(arguments.adapter or [])]


def load_generator_to_train(arguments: GeneratorArguments, config: AlignmentConfig) -> VideoGenerator:
    """The generator with the adapters to start from merged into its weights, on the training device."""
    from generator import load_generator

    with outside_engine():
        return load_generator(
            arguments.model, adapter=arguments.adapter, device=config.device, **arguments.options()
        )


def read_training_prompts(source: str, config: RewardedSamplingConfig) -> tuple[list[str], list[str]]:
    """Prompts to sample for and a negative prompt each, `config.negative_prompt` where a row has none."""
    from generator.prompts import read_prompts
    from reward.preferences import warn_of_few_prompts

    if not source:
        raise InputError("No prompts were given: pass --prompts FILE.")
    records = read_prompts(source)
    if config.process_index == 0:
        warn_of_few_prompts(
            (record.prompt for record in records),
            "the policy learns what the reward model likes of these alone",
        )
    return (
        [record.prompt for record in records],
        [record.negative_prompt or config.negative_prompt for record in records],
    )


def require_reward(given: RewardModel | Sequence[RewardModel] | None, names: Sequence[str]) -> None:
    """Raises `InputError` where there is nothing that judges videos."""
    if given is None and not names:
        raise InputError("No reward model was given: pass --reward FOLDER.")


def load_rewards(
    given: RewardModel | Sequence[RewardModel] | None, names: Sequence[str], config: AlignmentConfig
) -> list[RewardModel]:
    """The reward models that were given, or those that the names stand for."""
    from reward import load_reward

    if given is None:
        with outside_engine():
            return [load_reward(name, device=config.device) for name in names]
    return list(given) if isinstance(given, Sequence) else [given]


def encode_demonstrations(
    generator: VideoGenerator,
    config: AlignmentConfig,
    folder: str,
    num_frames: int | None,
    height: int | None,
    width: int | None,
) -> tuple[list[Tensor], list[str]]:
    """Latents `[C, F, H, W]` and prompts of a folder of demonstrations; see `encode_files`."""
    from generator.demonstrations import read_demonstrations

    demonstrations = read_demonstrations(folder)
    paths = [Path(demonstration.video) for demonstration in demonstrations]
    with config.main_process_first():
        latents = encode_files(generator, paths, num_frames, height, width, progress=not config.disable_tqdm)
    return latents, [demonstration.prompt for demonstration in demonstrations]


def checkpoint_to_resume(config: AlignmentConfig, inputs: Iterable[str | Path] = ()) -> str | None:
    """Checks the output folder; returns the checkpoint to go on from, or None for a fresh start.

    `resume_from_checkpoint` is a checkpoint folder, or `latest` (or `true`) for the newest one in the output
    folder; without a checkpoint there, `latest` starts afresh. What `overwrite` deletes goes when training starts, so
    that a mistake in the other arguments costs nothing.

    Args:
        inputs: files and folders that the command reads.

    Raises:
        InputError: the output folder is not empty, and neither `--overwrite` nor a resumption was asked for, or
            it holds one of `inputs`; or the checkpoint does not exist.
    """
    wanted, folder = config.resume_from_checkpoint, Path(str(config.output_dir))
    if wanted and str(wanted).lower() not in {"latest", "true"}:
        if not Path(wanted).is_dir():
            raise InputError(
                f"The checkpoint {wanted} does not exist: name a folder checkpoint-N or say `latest`."
            )
        return wanted
    if wanted and folder.is_dir():
        return newest_checkpoint(folder)
    if config.overwrite and folder.is_dir():
        refuse_inputs_in(folder, inputs)
    elif config.process_index == 0:
        prepare_output_dir(folder)
    return None


def newest_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`, or None.

    The trainer's state is the last file that is written into a checkpoint: one that lacks it, or in which it is
    cut off, was being written when its run was killed, and is passed over.
    """
    for checkpoint in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step_of, reverse=True):
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def _step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def train_and_save(trainer: AlignmentTrainer, checkpoint: str | None) -> None:
    """Trains, then writes the result and `trainer_state.json` (all logged metrics) into the output folder."""
    args = trainer.args
    if args.overwrite and not args.resume_from_checkpoint and args.process_index == 0:
        prepare_output_dir(str(args.output_dir), overwrite=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        what = "adapter is" if trainer.lora.use_peft else "trained weights are"
        print(f"The {what} in {Path(str(trainer.args.output_dir))}.")


def data_record(source: str | Path, files: Iterable[Path], texts: Iterable[str]) -> dict[str, Any]:
    """Where data came from and a SHA-256 of all its files and texts."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(files):
        digest.update(file_hash(path).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    return {"data": str(source), "data_sha256": digest.hexdigest()}
