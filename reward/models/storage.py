"""Trained reward models on disk: a configuration that says of what kind they are, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from generator.output import InputError, atomic_path, read_json, write_json

CONFIG_NAME = "reward_config.json"
WEIGHTS_NAME = "reward_model.safetensors"
PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the reward models that come with the package."""
Config = TypeVar("Config")


def built_in_rewards() -> list[str]:
    """Names of the trained reward models that come with the package."""
    return sorted(config.parent.name for config in PRETRAINED.glob(f"*/{CONFIG_NAME}"))


def reward_folder(name: str | Path) -> Path:
    """The folder of a trained reward model: that of a built-in name such as `nano-v1-reward`; another text, and every
    `Path`, is the folder itself."""
    return PRETRAINED / name if isinstance(name, str) and name in built_in_rewards() else Path(name)


def write_reward_model(folder: Path, model_type: str, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Writes weights and the configuration (a dataclass) into `folder`, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in weights.items()}, temporary)
    write_json(folder / CONFIG_NAME, {"model_type": model_type, **asdict(config)})


def read_reward_config(path: Path) -> dict[str, Any]:
    """The stored configuration of the reward model in the folder `path`.

    Raises:
        InputError: there is none.
    """
    if not (path / CONFIG_NAME).is_file():
        raise InputError(
            f"{path} holds no reward model ({CONFIG_NAME} is missing): "
            "give the output folder of `vidalign reward`, `world`, or module:function."
        )
    return read_json(path / CONFIG_NAME)


def config_from(document: Mapping[str, Any], kind: type[Config]) -> Config:
    """The configuration of this dataclass in a stored document; what the dataclass does not know is left out."""
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in document.items() if name in known})
