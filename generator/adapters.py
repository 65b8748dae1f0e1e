"""LoRA adapters on disk and in memory: read, check, concatenate, merge into a transformer, write.

The file is diffusers' own (`pytorch_lora_weights.safetensors` with keys `transformer.<module>.lora_A.weight`
and the LoRA configuration as metadata), so `pipeline.load_lora_weights(folder)` loads it too. Beside it,
`training.json` says which model the adapter belongs to and how it was made.

A model of two transformers (Wan 2.2 A14B) has a second file for its second one, which `load_lora_weights` reads with
`weight_name="pytorch_lora_weights_2.safetensors", load_into_transformer_2=True`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from generator.base import VideoGenerator
from generator.files.built_in import ADAPTER_WEIGHTS_NAME as WEIGHTS_NAME
from generator.files.built_in import find_adapter
from generator.one_or_several import as_list
from generator.output import InputError, atomic_path, read_json, write_json

SECOND_WEIGHTS_NAME = "pytorch_lora_weights_2.safetensors"
TRAINING_NAME = "training.json"
ADAPTER_FILES = (WEIGHTS_NAME, SECOND_WEIGHTS_NAME, TRAINING_NAME)
METADATA_KEY = "lora_adapter_metadata"
DEFAULTS_KEY = "generation_defaults"
"""In `training.json`: fields of `GenerationDefaults` that the adapter changes."""
PREFIX = "transformer."
SECOND_PREFIX = "transformer_2."


@dataclass
class LoraAdapter:
    """Low-rank changes of linear layers.

    Attributes:
        pairs: for each module `(A [rank, in], B [out, rank])`, float32; the change of the weight is exactly
            `B @ A`, with every scaling factor already inside B.
        training: what `training.json` says, empty where there is none.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    training: dict[str, Any] = field(default_factory=dict)


def model_fingerprint(transformer: torch.nn.Module) -> str:
    """Class and hash of the configuration; the same for every copy of a model, whatever its weights.

    Values that are the constructor's defaults do not count, so a field that a later version adds changes no
    fingerprint of a model that does not use it.
    """
    defaults = {
        name: json.dumps(parameter.default, default=str)
        for name, parameter in inspect.signature(type(transformer).__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    configuration = {
        name: text
        for name, value in dict(getattr(transformer, "config", {})).items()
        if not name.startswith("_") and (text := json.dumps(value, default=str)) != defaults.get(name)
    }
    text = json.dumps(configuration, sort_keys=True)
    return f"{type(transformer).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _scaling(module: str, rank: int, configuration: dict[str, Any]) -> float:
    alpha = configuration.get("lora_alpha", rank)
    for pattern, value in configuration.get("alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module) or fnmatch.fnmatch(module, pattern):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if configuration.get("use_rslora") else rank)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a readable LoRA file ({error}): give a folder that a training command wrote."
        ) from None
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return tensors, {name.removeprefix(PREFIX): value for name, value in metadata.items()}


def _read_pairs(file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    tensors, configuration = _read_file(file)
    pairs = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            if not name.endswith((".lora_B.weight", ".alpha")):
                raise InputError(
                    f"The adapter {file} holds {name!r}, but only plain LoRA of linear layers can be loaded: "
                    "train it without DoRA and without `modules_to_save`."
                )
            continue
        module = name.removesuffix(".lora_A.weight")
        up = tensors.get(f"{module}.lora_B.weight")
        if up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise InputError(
                f"The adapter {file} has no matching pair of matrices for {module!r}: it is damaged."
            )
        alpha = tensors.get(f"{module}.alpha")
        scaling = (
            alpha.item() / len(down) if alpha is not None else _scaling(module, len(down), configuration)
        )
        pairs[module] = (down.float(), up.float() * scaling)
    return pairs


def read_adapter(path: str | Path) -> LoraAdapter:
    """Reads a folder with `pytorch_lora_weights.safetensors`, or such a file.

    Args:
        path: folder or file, or the name of a built-in adapter (`nano-distilled`).

    Raises:
        InputError: it is missing, unreadable, or holds something other than LoRA of linear layers.
    """
    path = find_adapter(path)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    second = path / SECOND_WEIGHTS_NAME
    if not file.is_file() and not second.is_file():
        raise InputError(f"No adapter was found at {path}: give a folder that holds {WEIGHTS_NAME}.")
    pairs = _read_pairs(file) if file.is_file() else {}
    if second.is_file():
        pairs = {f"{PREFIX}{module}": pair for module, pair in pairs.items()}
        pairs |= {f"{SECOND_PREFIX}{module}": pair for module, pair in _read_pairs(second).items()}
    if not pairs:
        raise InputError(
            f"The adapter {path} holds no LoRA weights: give a folder that a training command wrote."
        )
    return LoraAdapter(pairs, _read_record(file.parent / TRAINING_NAME))


def _read_record(path: Path) -> dict[str, Any]:
    """Content of `training.json`; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
    except InputError:
        record = None
    if not isinstance(record, dict):
        raise InputError(
            f"{path} is damaged, but says which model the adapter belongs to: restore it, or delete it to load the "
            "adapter without that check."
        )
    return record


def concatenate_adapters(adapters: Sequence[LoraAdapter]) -> LoraAdapter:
    """One adapter whose change is exactly the sum of all changes: A = [A₁; A₂; …], B = [B₁, B₂, …]."""
    modules = dict.fromkeys(module for adapter in adapters for module in adapter.pairs)
    pairs = {}
    for module in modules:
        parts = [adapter.pairs[module] for adapter in adapters if module in adapter.pairs]
        pairs[module] = (torch.cat([down for down, _ in parts]), torch.cat([up for _, up in parts], dim=1))
    return LoraAdapter(pairs)


def write_adapter(folder: str | Path, adapter: LoraAdapter, training: dict[str, Any]) -> None:
    """Writes the adapter in diffusers' format, then `training.json`; each file appears whole or not at all.

    All modules get the highest rank among them (missing rows are zero), so one rank describes the file.
    """
    folder = Path(folder)
    pairs = adapter.pairs
    second = {name: pair for name, pair in pairs.items() if name.startswith(SECOND_PREFIX)}
    if second:
        pairs = {name: pair for name, pair in pairs.items() if name not in second}
        _write_pairs(folder / SECOND_WEIGHTS_NAME, _without_prefix(second, SECOND_PREFIX))
    if pairs:
        _write_pairs(folder / WEIGHTS_NAME, _without_prefix(pairs, PREFIX))
    write_json(folder / TRAINING_NAME, training)


def _without_prefix(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str) -> dict[str, tuple[Tensor, Tensor]]:
    return {name.removeprefix(prefix): pair for name, pair in pairs.items()}


def _write_pairs(file: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    rank = max(len(down) for down, _ in pairs.values())
    tensors = {}
    for module, (down, up) in pairs.items():
        missing = rank - len(down)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.nn.functional.pad(
            down, (0, 0, 0, missing)
        ).contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing)).contiguous()
    configuration = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(pairs)).to_dict()
    metadata = {
        f"{PREFIX}{name}": sorted(value) if isinstance(value, set) else value
        for name, value in configuration.items()
    }
    with atomic_path(file) as temporary:
        save_file(
            tensors, temporary, metadata={"format": "pt", METADATA_KEY: json.dumps(metadata, default=str)}
        )


def copy_adapter(source: str | Path, folder: Path) -> None:
    """Copies the files of an adapter, a folder or a file as `read_adapter` takes, into `folder`; nothing else."""
    source = find_adapter(source)
    if source.is_file():
        shutil.copyfile(source, folder / WEIGHTS_NAME)
        source = source.parent
        names: tuple[str, ...] = (TRAINING_NAME,)
    else:
        names = ADAPTER_FILES
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _check_model(generator: VideoGenerator, adapter: LoraAdapter, path: str | Path) -> None:
    fingerprint = model_fingerprint(generator.transformer)
    made_for = adapter.training.get("model_fingerprint", fingerprint)
    if made_for != fingerprint:
        raise InputError(
            f"The adapter {path} was trained for {adapter.training.get('base_model', 'another model')} ({made_for}), "
            f"but the model is {generator.name} ({fingerprint}): load it on the model that it was trained for."
        )
    modules = dict(generator.transformer.named_modules())
    for name, (down, up) in adapter.pairs.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            found = "no such layer" if weight is None else f"a layer of shape {tuple(weight.shape)}"
            raise InputError(
                f"The adapter {path} changes the layer {name!r} of shape {(up.shape[0], down.shape[1])}, but "
                f"{generator.name} has {found} there: load it on the model that it was trained for."
            )


def _for_experts(generator: VideoGenerator, adapter: LoraAdapter) -> LoraAdapter:
    """An adapter of one file is that of the first of two transformers."""
    names = {name.split(".")[0] + "." for name, _ in generator.transformer.named_children()}
    if not {PREFIX, SECOND_PREFIX} <= names or any(
        name.startswith((PREFIX, SECOND_PREFIX)) for name in adapter.pairs
    ):
        return adapter
    return LoraAdapter({f"{PREFIX}{name}": pair for name, pair in adapter.pairs.items()}, adapter.training)


def merged_adapter(generator: VideoGenerator) -> LoraAdapter | None:
    """Everything that `load_adapters` has added to the generator's weights, or None."""
    return vars(generator).get("_merged_adapter")


def check_adapters(generator: VideoGenerator, paths: str | Path | Sequence[str | Path]) -> list[LoraAdapter]:
    """Reads adapters without adding them to the model.

    Raises:
        InputError: an adapter is missing or belongs to another model.
    """
    adapters = []
    for path in as_list(paths):
        adapter = _for_experts(generator, read_adapter(path))
        _check_model(generator, adapter, path)
        adapters.append(adapter)
    return adapters


@torch.no_grad()
def load_adapters(generator: VideoGenerator, paths: str | Path | Sequence[str | Path]) -> LoraAdapter:
    """Adds adapters to the weights of the transformer in memory, so that sampling costs what the base costs.

    Several adapters add up. The generator remembers them: training that starts here saves one adapter that
    contains them, and its reference policy is the model as it is now.

    Raises:
        InputError: an adapter is missing or belongs to another model; the model is then unchanged.
    """
    adapters = check_adapters(generator, paths)
    total = concatenate_adapters(adapters)
    modules = dict(generator.transformer.named_modules())
    for name, (down, up) in total.pairs.items():
        weight: Tensor = modules[name].weight
        if not weight.is_floating_point():
            raise InputError(
                f"Adapters cannot be merged into the quantised weights of {generator.name}: load it without "
                "quantization."
            )
        change = up.to(weight.device) @ down.to(weight.device)
        weight.copy_(weight.float() + change)
    before = merged_adapter(generator)
    vars(generator)["_merged_adapter"] = total if before is None else concatenate_adapters([before, total])
    for adapter in adapters:
        _take_defaults(generator, adapter)
    return total


def _take_defaults(generator: VideoGenerator, adapter: LoraAdapter) -> None:
    """Lets an adapter say how the model is sampled with it: one whose guidance is distilled needs none."""
    asked = adapter.training.get(DEFAULTS_KEY)
    if not isinstance(asked, dict):
        return
    names = {item.name for item in dataclasses.fields(generator.defaults)}
    known = {name: value for name, value in asked.items() if name in names}
    generator.defaults = dataclasses.replace(generator.defaults, **known)
    vars(generator)["_adapter_defaults"] = {**adapter_defaults(generator), **known}


def adapter_defaults(generator: VideoGenerator) -> dict[str, Any]:
    """Sampling settings that loaded adapters ask for, which adapters trained on top of them ask for too."""
    return dict(vars(generator).get("_adapter_defaults", {}))
