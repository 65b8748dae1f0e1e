"""LoRA files for other tools from adapters: ComfyUI, diffusers, kohya's trainers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from generator.adapters.adapters import PREFIXES, LoraAdapter, experts_of, write_adapter
from generator.adapters.loaded_from import BASE_ADAPTERS, BASE_WEIGHTS, WEIGHT_FILES
from generator.output import InputError, atomic_path
from generator.weight_files.adapter_files import EXPERT_NAMES, FACTS_KEY
from generator.weight_files.lora_writer import FORMATS, release_tensors, unwritten
from generator.weight_files.release_names import LayerNames

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FACTS = (
    *("trainer", "base_model", "model_fingerprint", BASE_WEIGHTS, "global_step"),
    *(BASE_ADAPTERS, WEIGHT_FILES),
)
"""Fields of `training.json` that the metadata of exported files has too, which other tools ignore."""


def layer_names(transformer: nn.Module, form: str) -> list[LayerNames]:
    """Names of the layers of one or two transformers under which a format knows them.

    Raises:
        InputError: there is no such format, or the family has no names in it.
    """
    if form not in FORMATS:
        raise InputError(f"The format is {form!r}: choose one of {', '.join(FORMATS)}.")
    names = [LayerNames.of(expert) for expert in experts_of(transformer)]
    forms = names[0].forms
    if form != "diffusers" and not forms:
        raise InputError(
            f"A {names[0].kind} has no names of layers but diffusers' own, which all tools read for it: export with "
            "--format diffusers."
        )
    if form != "diffusers" and form not in forms:
        raise InputError(
            f"A {names[0].kind} has no names of layers for {form}: export with --format {' or '.join(forms)}, or "
            "diffusers."
        )
    return names


def export_files(names: list[LayerNames], form: str, stem: str) -> list[str]:
    """Names of the files of one or two transformers, the high-noise one first."""
    if len(names) == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}_{expert}.safetensors" for expert in EXPERT_NAMES]


def export_adapter(
    folder: str | Path,
    adapter: LoraAdapter,
    names: list[LayerNames],
    form: str,
    stem: str,
    dtype: torch.dtype = torch.bfloat16,
) -> list[Path]:
    """Writes an adapter for another tool; returns the files.

    Args:
        folder: is made where it does not exist.
        names: from `layer_names`.
        form: one of `FORMATS`; `diffusers` writes `pytorch_lora_weights.safetensors` and, for the second of two
            transformers, `pytorch_lora_weights_2.safetensors`.
        stem: name of the files without ending; with two transformers, `_high_noise` and `_low_noise` follow.
        dtype: of the matrices.

    Raises:
        InputError: the adapter does not fit the model, or holds what the format cannot express.
    """
    folder = Path(folder)
    prefixes = PREFIXES if len(names) == 2 else ("",)
    parts = [
        (_of(adapter.pairs, prefix), _of(adapter.offsets, prefix), layers)
        for prefix, layers in zip(prefixes, names, strict=True)
    ]
    for pairs, offsets, layers in parts:
        lost = unwritten(pairs, offsets, layers)
        if lost:
            raise InputError(
                f"The adapter changes the layer {lost[0]!r}, which the model does not have: name the model that it was "
                "trained for with --model."
            )
    if form == "diffusers":
        return _export_diffusers(folder, adapter, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {name: adapter.training[name] for name in FACTS if name in adapter.training}
    written = []
    for (pairs, offsets, layers), name in zip(parts, export_files(names, form, stem), strict=True):
        tensors = release_tensors(form, pairs, offsets, layers, dtype)
        if tensors:
            with atomic_path(folder / name) as temporary:
                save_file(
                    tensors, temporary, metadata={"format": "pt", FACTS_KEY: json.dumps(facts, default=str)}
                )
            written.append(folder / name)
    return written


def _of(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _export_diffusers(folder: Path, adapter: LoraAdapter, dtype: torch.dtype) -> list[Path]:
    if adapter.offsets:
        raise InputError(
            f"The adapter holds {len(adapter.offsets)} offsets of norms, biases or tables, which diffusers does not "
            "load: export with --format comfyui."
        )
    pairs = {name: (down.to(dtype), up.to(dtype)) for name, (down, up) in adapter.pairs.items()}
    before = set(folder.glob("*")) if folder.is_dir() else set()
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder, LoraAdapter(pairs, component=adapter.component), adapter.training)
    return sorted(set(folder.glob("*.safetensors")) - before)
