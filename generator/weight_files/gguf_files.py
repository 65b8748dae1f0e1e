"""Tensors of a GGUF file, dequantised."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.output import InputError


def gguf_tensors(path: Path) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Names of the tensors of a file, and functions that give them in float32.

    Raises:
        InputError: the package `gguf` is missing, or the file cannot be read.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{path} needs the package gguf, which is not installed: pip install 'vidalign[gguf]'."
        )
    from gguf import GGUFReader

    try:
        tensors: list[Any] = GGUFReader(path).tensors
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable GGUF file ({error}): download it again.") from None
    for tensor in tensors:
        yield tensor.name, _Dequantised(path, tensor)


class _Dequantised:
    """A tensor that is dequantised when it is asked for."""

    def __init__(self, path: Path, tensor: Any) -> None:
        self.path, self.tensor = path, tensor

    def __call__(self) -> Tensor:
        from gguf.quants import dequantize

        tensor = self.tensor
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise InputError(
                f"{self.path} is quantised as {tensor.tensor_type.name}, which cannot be undone here: give a "
                "Q8_0, K-quant or bf16 file."
            ) from None
        return torch.from_numpy(values.copy()).float()
