"""Weights that other projects publish as plain state dictionaries."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from generator.output import InputError


def read_state_dict(path: Path, name: str, inside: str = "") -> dict[str, Tensor]:
    """The state dictionary of a `.pt`, `.pth` or `.safetensors` file, on the CPU; nothing in it is executed.

    Args:
        name: what the weights are of, for messages.
        inside: key under which the weights may lie in the file.

    Raises:
        InputError: the file is damaged, or holds more than tensors.
        OSError: it cannot be opened.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # large files are read as they are needed
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (MemoryError, OSError):  # the machine's trouble, not the file's
        raise
    except Exception as error:  # of a damaged file the unpickler raises whatever it stumbles over
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as weights of {name} ({reason}): fetch it again."
        ) from error
    if isinstance(found, dict):
        found = found.get(inside, found)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds more than weights by name, but {name} reads a dictionary of tensors.")
    return found
