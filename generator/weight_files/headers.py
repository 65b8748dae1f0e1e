"""Sizes of weights by the headers of their files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from generator.output import InputError

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
"""Floating-point types of safetensors, whose weights take the precision that a model is loaded in."""
OTHER_BITS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8}


def weight_bytes(
    path: Path,
    precision: torch.dtype | None = None,
    counts: Callable[[str], bool] = lambda name: True,
) -> int:
    """Memory of the tensors in a safetensors file, of which only the header is read.

    Args:
        precision: in which floating-point weights are loaded; as stored where None.
        counts: whether the tensor of a name counts; all by default.

    Raises:
        InputError: the file is missing or damaged.
    """
    total = 0
    try:
        with safe_open(path, framework="pt") as file:
            for name in filter(counts, file.keys()):
                header = file.get_slice(name)
                kind = header.get_dtype()
                stored = BITS.get(kind) or OTHER_BITS.get(kind, 8)
                bits = 8 * precision.itemsize if precision is not None and kind in BITS else stored
                total += math.prod(header.get_shape()) * bits // 8
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable file of weights ({error}): restore it or download it again."
        ) from error
    return total
