"""Files that the stages which train a generator write."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from alignment.trainers.base_config import EXPORTS
from alignment.trainers.samples import EARLY_SAMPLE_FILES, SAMPLE_FILES, SAMPLES
from generator.adapters.adapters import ADAPTER_FILES, TRAINING_NAME
from generator.files.output_folder import Outputs
from generator.files.pipeline_files import PIPELINE_FILES
from generator.training.checkpoints import LOG_FILES, TRAINER_FILES, checkpoints_in

EXPORTED_FILES = tuple(f"{form}/*.safetensors" for form in EXPORTS)
TRAINING_FILES = (
    *ADAPTER_FILES,
    *EXPORTED_FILES,
    *PIPELINE_FILES,
    TRAINER_STATE_NAME,
    *TRAINER_FILES,
    *(f"{SAMPLES}/{pattern}" for pattern in SAMPLE_FILES),
)


def training_outputs(command: str) -> Outputs:
    """Files that `sft`, `dpo`, `ppo`, `rwr`, `nft`, `backprop` and `online_dpo` write."""
    return Outputs(
        command,
        TRAINING_FILES,
        early=(*LOG_FILES, *(f"{SAMPLES}/{pattern}" for pattern in EARLY_SAMPLE_FILES)),
        is_record=lambda folder: _made_by(folder, command),
    )


def command_of(name: str) -> str:
    """The command of a trainer or a configuration by the name of its class: `online_dpo` of `OnlineDPOTrainer`."""
    # Rankings and pairs had a trainer each before; records of both stay known as those of `dpo`.
    stem = name.removeprefix("Ranking").removesuffix("Trainer").removesuffix("Config")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", stem).lower()


def _made_by(folder: Path, command: str) -> bool:
    """Returns whether the records of a folder without a mark name the trainer of this command."""
    checkpoints = checkpoints_in(folder)
    for record in (folder / TRAINING_NAME, *(checkpoint / TRAINING_NAME for checkpoint in checkpoints)):
        try:
            return command_of(str(json.loads(record.read_text(encoding="utf-8"))["trainer"])) == command
        except (OSError, ValueError, KeyError, TypeError):
            continue
    # Checkpoints of all weights say nothing of their trainer.
    return any((checkpoint / "trained.safetensors").is_file() for checkpoint in checkpoints)
