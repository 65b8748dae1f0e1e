"""Files that `vidalign reward` writes into its output folder."""

from __future__ import annotations

import json
from pathlib import Path

from generator.adapters.adapters import ADAPTER_FILES
from generator.files.output_folder import Outputs
from generator.training.checkpoints import LOG_FILES, TRAINER_FILES, checkpoints_in
from reward.models.ensemble import MEMBER
from reward.models.latent import ADAPTER_NAME
from reward.models.storage import CONFIG_NAME, WEIGHTS_NAME
from reward.models.trunk_files import BASE_NAME

TRUNK_FILES = tuple(
    f"{folder}/{name}"
    for folder in (ADAPTER_NAME, f"{BASE_NAME}-#")
    for name in (*ADAPTER_FILES, "trainer_state.json")
)
MODEL_FILES = (WEIGHTS_NAME, CONFIG_NAME, *TRUNK_FILES)
REWARD_FILES = (*MODEL_FILES, "metrics.json", "training.json", *TRAINER_FILES)


def _is_reward_model(folder: Path) -> bool:
    """Returns whether a folder without a mark is that of a reward model or of its training."""
    if (folder / CONFIG_NAME).is_file():
        return True
    try:
        return "preferences" in json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        # Checkpoints before the mark say nothing of their trainer, but these files are of no other command.
        return any((checkpoint / "model.safetensors").is_file() for checkpoint in checkpoints_in(folder))


OUTPUTS = Outputs(
    "reward",
    (*REWARD_FILES, *(f"{MEMBER}-#/{name}" for name in REWARD_FILES)),
    early=(*LOG_FILES, *(f"{MEMBER}-#/{name}" for name in LOG_FILES)),
    is_record=_is_reward_model,
)
