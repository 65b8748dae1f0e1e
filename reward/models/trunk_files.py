"""Files beside a generator's folder that the trunk of a latent reward model was loaded from, kept with the model.

Adapters that were merged as the base are copied, as they are small; files of whole weights are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator.adapters.adapters import copy_adapter
from generator.adapters.loaded_from import WeightSources, sources_of
from generator.base import VideoGenerator
from generator.output import InputError, files_into
from reward.models.latent_config import LatentRewardConfig
from reward.models.storage import CONFIG_NAME, read_reward_config

ADAPTER_NAME = "trunk_adapter"
"""Folder of the adapter that the trunk was loaded with."""
BASE_NAME = "base_adapter"
"""Begins the names of the folders of adapters that were merged as the base: `base_adapter-0`."""


def keep_sources(config: LatentRewardConfig, generator: VideoGenerator, folder: Path) -> None:
    """Copies base adapters into the folder of a reward model, and has its configuration name all sources."""
    sources = sources_of(generator)
    for number, (path, _) in enumerate(sources.base_adapters):
        copied = folder / f"{BASE_NAME}-{number}"
        if path.resolve() != copied.resolve():
            with files_into(copied) as copy:
                copy_adapter(path, copy)
    config.base_adapter_weights = tuple(weight for _, weight in sources.base_adapters)
    config.weight_files = dict(sources.files)


def stored_sources(folder: Path, document: Mapping[str, Any]) -> WeightSources:
    """Sources of the trunk of the reward model in `folder`, by its stored configuration.

    Raises:
        InputError: a file of weights is not where it was.
    """
    files = {str(name): str(path) for name, path in dict(document.get("weight_files") or {}).items()}
    for name, path in files.items():
        if not Path(path).exists() and (name != "motion_adapter" or path.count("/") != 1):
            raise InputError(
                f"The trunk of the reward model {folder} has the weights of --{name} {path}, which is not there: put "
                "it back, or name its new place under weight_files in reward_config.json."
            )
    weights = document.get("base_adapter_weights") or ()
    bases = ((folder / f"{BASE_NAME}-{number}", float(weight)) for number, weight in enumerate(weights))
    return WeightSources(tuple(bases), files)


def shared_trunk(folder: Path) -> tuple[str, str] | None:
    """Key of the trunk of the latent reward model in `folder` where that is the bare generator, which models of one key
    can share; None where it is not, or there is no such model."""
    if not (folder / CONFIG_NAME).is_file() or (folder / ADAPTER_NAME).exists():
        return None
    stored = read_reward_config(folder)
    if "base_model" not in stored or stored.get("lora_rank") or stored.get("full_trunk"):
        return None
    return str(stored["base_model"]), str(stored.get("trunk", ""))
