"""Adapters that make a base (lightx2v, CausVid, Lightning): merged before training, never part of what is saved."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from generator.adapters.adapters import check_adapters, merge, take_defaults
from generator.adapters.loaded_from import remember_base_adapter
from generator.base import VideoGenerator
from generator.files.adapter_paths import find_adapter_files, offsets_beside
from generator.files.built_in import find_adapter
from generator.one_or_several import as_list
from generator.output import InputError
from generator.provenance import file_hash


def split_weight(text: str | Path) -> tuple[Path, float]:
    """Path and weight of `FILE[:weight]`; the weight is 1 where none is given.

    Raises:
        InputError: the weight is no finite number.
    """
    whole = find_adapter(text)
    path, colon, number = str(text).rpartition(":")
    if whole.exists() or not colon or not find_adapter(path).exists():
        return whole, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(
            f"The weight of the base adapter {text} is {number!r}, but must be a number: FILE:0.5."
        )
    return find_adapter(path), weight


def adapter_hash(path: Path) -> str:
    """SHA-256 of a LoRA file; of several in a folder, over the hashes of all."""
    files = find_adapter_files(path)
    hashes = [file_hash(each) for each in (*(file.path for file in files), *offsets_beside(files))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def merge_base_adapters(generator: VideoGenerator, adapters: str | Path | Sequence[str | Path]) -> None:
    """Adds adapters `FILE[:weight]` to the weights one after another, and remembers name, hash and weight.

    Raises:
        InputError: one is missing or does not fit.
    """
    for text in as_list(adapters):
        path, weight = split_weight(text)
        adapter = check_adapters(generator, path)[0]
        merge(generator, [adapter], weight)
        take_defaults(generator, adapter)
        record = {"name": path.name, "sha256": adapter_hash(path), "weight": weight}
        remember_base_adapter(generator, path, weight, record)
