"""Files of adapters in folders, found by their names, without importing torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generator.files.built_in import ADAPTER_WEIGHTS_NAME as WEIGHTS_NAME
from generator.output import InputError

SECOND_WEIGHTS_NAME = "pytorch_lora_weights_2.safetensors"
OFFSETS_NAME = "offsets.safetensors"
PEFT_NAME = "adapter_model.safetensors"


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
