"""Files of an adapter: which lie in a folder, what they say of themselves, and which transformer they change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from generator.files.built_in import ADAPTER_WEIGHTS_NAME as WEIGHTS_NAME
from generator.output import InputError, read_json

SECOND_WEIGHTS_NAME = "pytorch_lora_weights_2.safetensors"
OFFSETS_NAME = "offsets.safetensors"
PEFT_NAME = "adapter_model.safetensors"
PEFT_CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
FACTS_KEY = "vidalign"
"""Metadata of exported files: facts of `training.json`, as JSON."""
EXPERT_NAMES = ("high_noise", "low_noise")
"""Ends of the names of files that change the first, and the second, of two transformers."""


@dataclass(frozen=True)
class AdapterFile:
    """LoRA file.

    Attributes:
        path: of the file.
        expert: 0 or 1 where its name says which of two transformers it changes; None where it does not.
    """

    path: Path
    expert: int | None


def expert_of(name: str) -> int | None:
    """Number of the transformer that a file changes by its name: 0 of high, 1 of low noise, None where not said."""
    if name in (WEIGHTS_NAME, SECOND_WEIGHTS_NAME):
        return (WEIGHTS_NAME, SECOND_WEIGHTS_NAME).index(name)
    words = re.split(r"[^a-z0-9]+", Path(name).stem.lower())
    said = [
        bool({"high", "highnoise"} & set(words)),
        bool({"low", "lownoise"} & set(words)),
    ]
    return said.index(True) if sum(said) == 1 else None


def find_adapter_files(path: Path) -> list[AdapterFile]:
    """The LoRA file that `path` is, or those that lie in the folder.

    Raises:
        InputError: there is none, or several that cannot be told apart.
    """
    if path.is_file():
        return [AdapterFile(path, expert_of(path.name))]
    own = [path / name for name in (WEIGHTS_NAME, SECOND_WEIGHTS_NAME) if (path / name).is_file()]
    if own:
        return [AdapterFile(file, expert_of(file.name)) for file in own]
    if (path / PEFT_NAME).is_file():
        return [AdapterFile(path / PEFT_NAME, None)]
    files = sorted(
        file
        for file in (path.glob("*.safetensors") if path.is_dir() else [])
        if not file.name.startswith(".") and file.name != OFFSETS_NAME
    )
    if not files:
        raise InputError(
            f"No adapter was found at {path}: give a LoRA file, or a folder that holds {WEIGHTS_NAME}."
        )
    found = [AdapterFile(file, expert_of(file.name)) for file in files]
    if len(found) > 1 and sorted(str(file.expert) for file in found) != ["0", "1"]:
        raise InputError(
            f"The folder {path} holds {len(files)} LoRA files ({', '.join(file.name for file in files[:3])}…), of "
            "which one is needed, or one of high and one of low noise by their names: name the file."
        )
    return sorted(found, key=lambda file: file.expert or 0)


def offsets_beside(files: Sequence[AdapterFile]) -> list[Path]:
    """The file of offsets beside an adapter that a training wrote, if there is one."""
    own = files[0].path.name in (WEIGHTS_NAME, SECOND_WEIGHTS_NAME)
    path = files[0].path.parent / OFFSETS_NAME
    return [path] if own and path.is_file() else []


@dataclass(frozen=True)
class FileContent:
    """Content of a LoRA file: its tensors, PEFT's configuration of both transformers, facts of its training."""

    tensors: dict[str, Tensor]
    configurations: tuple[dict[str, Any], dict[str, Any]]
    facts: dict[str, Any]


def read_file(path: Path) -> FileContent:
    """Reads a LoRA file, with the configuration of PEFT beside it or in it.

    Raises:
        InputError: it cannot be read, or holds nothing.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        written = json.loads(metadata.get(METADATA_KEY, "{}"))
        facts = json.loads(metadata.get(FACTS_KEY, "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a readable LoRA file ({error}): give a folder that a training command wrote, or a "
            ".safetensors file."
        ) from None
    if not tensors:
        raise InputError(
            f"The adapter {path} holds no LoRA weights: give a folder that a training command wrote."
        )
    first = {name.removeprefix("transformer."): value for name, value in written.items()}
    second = {
        name.removeprefix("transformer_2."): value
        for name, value in written.items()
        if name.startswith("transformer_2.")
    }
    beside = path.parent / PEFT_CONFIG_NAME
    if not first and path.name in (PEFT_NAME, WEIGHTS_NAME) and beside.is_file():
        first = _peft_configuration(beside)
    return FileContent(tensors, (first, second), facts)


def _peft_configuration(path: Path) -> dict[str, Any]:
    configuration = read_json(path)
    if not isinstance(configuration, Mapping):
        raise InputError(f"{path} is damaged, but says how strong the adapter is: restore it.")
    patterns = ("alpha_pattern", "rank_pattern")
    return {
        name: {key.removeprefix("base_model.model."): each for key, each in (value or {}).items()}
        if name in patterns
        else value
        for name, value in configuration.items()
    }
