"""Files of an adapter: which lie in a folder, what they say of themselves, and which transformer they change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from generator.files.adapter_paths import PEFT_NAME, WEIGHTS_NAME
from generator.output import InputError, read_json

PEFT_CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
FACTS_KEY = "vidalign"
"""Metadata of exported files: facts of `training.json`, as JSON."""
EXPERT_NAMES = ("high_noise", "low_noise")
"""Ends of the names of files that change the first, and the second, of two transformers."""


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
    first = {
        name.removeprefix("transformer.").removeprefix("unet."): value for name, value in written.items()
    }
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
