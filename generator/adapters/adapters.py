"""LoRA adapters on disk and in memory: read, check, concatenate, merge into a transformer, write.

The file that is written is diffusers' own (`pytorch_lora_weights.safetensors` with keys
`transformer.<module>.lora_A.weight` and the LoRA configuration as metadata), so `pipeline.load_lora_weights(folder)`
loads it too. Beside it, `training.json` says which model the adapter belongs to and how it was made. Files of other
tools are read by `generator.weight_files`.

A model of two transformers (Wan 2.2 A14B) has a second file for its second one, which `load_lora_weights` reads with
`weight_name="pytorch_lora_weights_2.safetensors", load_into_transformer_2=True`. What no LoRA layer can hold (offsets
of norms, biases and tables, from distilled models) is in `offsets.safetensors`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from generator.adapters.loaded_from import check_base_weights, check_loaded_from, merging
from generator.base import VideoGenerator
from generator.files.adapter_paths import (
    OFFSETS_NAME,
    SECOND_WEIGHTS_NAME,
    WEIGHTS_NAME,
    AdapterFile,
    find_adapter_files,
    offsets_beside,
)
from generator.files.built_in import find_adapter
from generator.one_or_several import as_list
from generator.output import InputError, atomic_path, read_json, write_json
from generator.provenance import tensors_fingerprint
from generator.weight_files.adapter_files import EXPERT_NAMES, METADATA_KEY, PEFT_CONFIG_NAME, read_file
from generator.weight_files.lora_reader import LoraContent, read_content
from generator.weight_files.release_names import LayerNames

logger = logging.getLogger(__name__)

TRAINING_NAME = "training.json"
ADAPTER_FILES = (WEIGHTS_NAME, SECOND_WEIGHTS_NAME, OFFSETS_NAME, PEFT_CONFIG_NAME, TRAINING_NAME)
DEFAULTS_KEY = "generation_defaults"
"""In `training.json`: fields of `GenerationDefaults` that the adapter changes."""
PREFIX = "transformer."
SECOND_PREFIX = "transformer_2."
PREFIXES = (PREFIX, SECOND_PREFIX)


@dataclass
class LoraAdapter:
    """Low-rank changes of linear layers.

    Attributes:
        pairs: for each module `(A [rank, in], B [out, rank])`, float32; the change of the weight is exactly
            `B @ A`, with every scaling factor already inside B.
        training: what `training.json` says, empty where there is none.
        offsets: what is added to weights, biases and tables, by their names, float32.
        component: name of the pipeline's component that is changed, by which diffusers finds the layers.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    training: dict[str, Any] = field(default_factory=dict)
    offsets: dict[str, Tensor] = field(default_factory=dict)
    component: str = "transformer"


def component_of(transformer: nn.Module | None) -> str:
    """Name of a pipeline's component of this class: `unet` or `transformer`."""
    return "unet" if "UNet" in type(transformer).__name__ else "transformer"


def model_fingerprint(transformer: torch.nn.Module, kind: type | None = None) -> str:
    """Class and hash of the configuration; the same for every copy of a model, whatever its weights.

    Values that are the constructor's defaults do not count, so a field that a later version adds changes no
    fingerprint of a model that does not use it.

    Args:
        kind: class whose fingerprint is asked for, where the transformer holds all layers of one of that class.
    """
    named: Any = kind or type(transformer)
    parameters = inspect.signature(named.__init__).parameters
    defaults = {
        name: json.dumps(parameter.default, default=str)
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    configuration = {
        name: text
        for name, value in dict(getattr(transformer, "config", {})).items()
        if not name.startswith("_")
        and (kind is None or name in parameters)
        and (text := json.dumps(value, default=str)) != defaults.get(name)
    }
    text = json.dumps(configuration, sort_keys=True)
    return f"{named.__name__}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def image_model_fingerprint(transformer: torch.nn.Module) -> str | None:
    """Fingerprint of the image model whose layers a video model holds (Video LDM), whose adapters fit it; else None."""
    kind = getattr(transformer, "image_model_class", None)
    return None if kind is None else model_fingerprint(transformer, kind)


def experts_of(transformer: nn.Module) -> tuple[nn.Module, ...]:
    """The two transformers of a model that has two, of high noise first; else the one."""
    children: dict[str, nn.Module] = dict(transformer.named_children())
    names = [prefix.removesuffix(".") for prefix in PREFIXES]
    return tuple(children[name] for name in names) if set(names) <= children.keys() else (transformer,)


def read_adapter(
    path: str | Path, transformer: nn.Module | None = None, model: str = "the model"
) -> LoraAdapter:
    """Reads a LoRA file of any tool, or a folder with one, or with one for each of two transformers.

    Args:
        transformer: what the adapter is for. Where not given, the file must have diffusers' names.
        model: its name, for messages.

    Args:
        path: folder or file, or the name of a built-in adapter (`nano-distilled`).

    Raises:
        InputError: it is missing, unreadable, or holds something that the transformer cannot take.
    """
    path = find_adapter(path)
    files = find_adapter_files(path)
    experts = (None,) if transformer is None else experts_of(transformer)
    adapter = LoraAdapter({}, adapter_record(path, files), component=component_of(transformer))
    two = len(experts) == 2 or (transformer is None and (path / SECOND_WEIGHTS_NAME).is_file())
    if len(files) > 1 and not two:
        raise InputError(
            f"The adapter {path} has a file for high and one for low noise, but {model} has one transformer: load it "
            "on the model that it was trained for, or name one of the files."
        )
    names = [None if each is None else LayerNames.of(each) for each in experts]
    for file in files:
        _read_into(adapter, file, names, two, model)
    for offsets in offsets_beside(files):
        adapter.offsets |= _read_offsets(offsets, names, model)
    if not adapter.pairs and not adapter.offsets:
        raise InputError(
            f"The adapter {path} changes nothing in {model}: load it on the model that it was trained for."
        )
    return adapter


def _read_into(
    adapter: LoraAdapter, file: AdapterFile, names: Sequence[LayerNames | None], two: bool, model: str
) -> None:
    """Adds what one file changes to the adapter."""
    read = read_file(file.path)
    if names[0] is None and any(key.startswith("unet.") for key in read.tensors):
        adapter.component = "unet"
    expert = (file.expert or 0) if two else 0
    layers = names[min(expert, len(names) - 1)]
    contents = list(read_content(file.path, read.tensors, layers, read.configurations, model))
    if contents[1].pairs and not two:
        raise InputError(
            f"The adapter {file.path} changes a second transformer, but {model} has one: load it on the model that it "
            "was trained for."
        )
    if two and file.expert is None and not contents[1].pairs:
        raise InputError(
            f"{model} has a transformer for high and one for low noise, and the name of {file.path} does not say which "
            f"one it changes: let it end in {' or '.join(EXPERT_NAMES)}."
        )
    if expert == 1:
        contents.reverse()
    for prefix, content in zip(PREFIXES if two else ("",), contents, strict=False):
        _warn_of_ignored(file.path, content)
        adapter.pairs |= {f"{prefix}{name}": pair for name, pair in content.pairs.items()}
        adapter.offsets |= {f"{prefix}{name}": change for name, change in content.offsets.items()}
    adapter.training = adapter.training or read.facts


def _read_offsets(path: Path, names: Sequence[LayerNames | None], model: str) -> dict[str, Tensor]:
    """Offsets that a training wrote beside its adapter, each of a weight that the model has."""
    offsets = read_file(path).tensors
    prefixes = PREFIXES if len(names) == 2 else ("",)
    known = {
        f"{prefix}{name}": shape
        for prefix, layers in zip(prefixes, names, strict=True)
        for name, shape in (layers.shapes.items() if layers else ())
    }
    wrong = [name for name, change in offsets.items() if known and known.get(name) != tuple(change.shape)]
    if wrong:
        raise InputError(
            f"{path} changes {wrong[0]!r} of shape {tuple(offsets[wrong[0]].shape)}, but {model} has "
            f"{known.get(wrong[0], 'no weight')} there: load it on the model that it was trained for."
        )
    return offsets


def _warn_of_ignored(path: Path, content: LoraContent) -> None:
    for reason, count in Counter(content.ignored.values()).items():
        example = next(key for key, why in content.ignored.items() if why == reason)
        logger.warning("%d tensors of %s, such as %s, have no effect: %s.", count, path, example, reason)


def adapter_record(path: str | Path, files: Sequence[AdapterFile] | None = None) -> dict[str, Any]:
    """Content of `training.json` beside an adapter that a training wrote; empty where there is none."""
    first = (find_adapter_files(find_adapter(path)) if files is None else files)[0].path
    if first.name not in (WEIGHTS_NAME, SECOND_WEIGHTS_NAME):
        return {}
    return _read_record(first.parent / TRAINING_NAME)


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
    offsets: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, change in adapter.offsets.items():
            offsets[name] = offsets[name] + change if name in offsets else change
    return LoraAdapter(pairs, offsets=offsets, component=adapters[0].component)


def write_adapter(folder: str | Path, adapter: LoraAdapter, training: dict[str, Any]) -> None:
    """Writes the adapter in diffusers' format, then `training.json`; each file appears whole or not at all.

    All modules get the highest rank among them (missing rows are zero), so one rank describes the file.
    """
    folder = Path(folder)
    pairs = adapter.pairs
    second = {name: pair for name, pair in pairs.items() if name.startswith(SECOND_PREFIX)}
    if second:
        pairs = {name: pair for name, pair in pairs.items() if name not in second}
        _write_pairs(folder / SECOND_WEIGHTS_NAME, _without_prefix(second, SECOND_PREFIX), PREFIX)
    if pairs:
        _write_pairs(folder / WEIGHTS_NAME, _without_prefix(pairs, PREFIX), f"{adapter.component}.")
    if adapter.offsets:
        with atomic_path(folder / OFFSETS_NAME) as temporary:
            save_file({name: change.contiguous() for name, change in adapter.offsets.items()}, temporary)
    write_json(folder / TRAINING_NAME, training)


def _without_prefix(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str) -> dict[str, tuple[Tensor, Tensor]]:
    return {name.removeprefix(prefix): pair for name, pair in pairs.items()}


def _write_pairs(file: Path, pairs: dict[str, tuple[Tensor, Tensor]], prefix: str) -> None:
    rank = max(len(down) for down, _ in pairs.values())
    tensors = {}
    for module, (down, up) in pairs.items():
        missing = rank - len(down)
        tensors[f"{prefix}{module}.lora_A.weight"] = torch.nn.functional.pad(
            down, (0, 0, 0, missing)
        ).contiguous()
        tensors[f"{prefix}{module}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing)).contiguous()
    configuration = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(pairs)).to_dict()
    metadata = {
        f"{prefix}{name}": sorted(value) if isinstance(value, set) else value
        for name, value in configuration.items()
    }
    with atomic_path(file) as temporary:
        save_file(
            tensors, temporary, metadata={"format": "pt", METADATA_KEY: json.dumps(metadata, default=str)}
        )


def copy_adapter(source: str | Path, folder: Path) -> None:
    """Copies the files of an adapter, a folder or a file as `read_adapter` takes, into `folder`; nothing else."""
    source = find_adapter(source)
    files = find_adapter_files(source)
    for file in files:
        shutil.copyfile(file.path, folder / (SECOND_WEIGHTS_NAME if file.expert == 1 else WEIGHTS_NAME))
    beside = files[0].path.parent
    own = files[0].path.name in (WEIGHTS_NAME, SECOND_WEIGHTS_NAME)
    names = [
        *([TRAINING_NAME, OFFSETS_NAME] if own else []),
        *([] if source.is_file() else [PEFT_CONFIG_NAME]),
    ]
    for name in names:
        if (beside / name).is_file():
            shutil.copyfile(beside / name, folder / name)


def _check_fingerprint(generator: VideoGenerator, record: dict[str, Any], path: str | Path) -> None:
    fingerprint = model_fingerprint(generator.transformer)
    made_for = record.get("model_fingerprint", fingerprint)
    if made_for not in (fingerprint, image_model_fingerprint(generator.transformer)):
        raise InputError(
            f"The adapter {path} was trained for {record.get('base_model', 'another model')} ({made_for}), "
            f"but the model is {generator.name} ({fingerprint}): load it on the model that it was trained for."
        )


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
        _check_fingerprint(generator, adapter_record(path), path)
        adapter = read_adapter(path, generator.transformer, generator.name)
        _check_fingerprint(generator, adapter.training, path)
        check_loaded_from(generator, adapter.training, path)
        # An image model's adapter on its video model has other weights by intent.
        if adapter.training.get("model_fingerprint") == model_fingerprint(generator.transformer):
            check_base_weights(generator, adapter.training, path)
        adapters.append(adapter)
    return adapters


def _fingerprint(adapter: LoraAdapter, weight: float) -> str:
    """Fingerprint of the change that an adapter makes at a weight."""
    tensors = dict(adapter.offsets)
    for name, (down, up) in adapter.pairs.items():
        tensors |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
    return f"{tensors_fingerprint(tensors.items())}:{weight:g}"


@torch.no_grad()
def merge(generator: VideoGenerator, adapters: Sequence[LoraAdapter], weight: float = 1.0) -> LoraAdapter:
    """Adds `weight` times what adapters change to the weights of the transformer in memory; returns their sum.

    Raises:
        InputError: the weights are quantised; none is changed then.
    """
    adapter = concatenate_adapters(adapters)
    modules: dict[str, Any] = dict(generator.transformer.named_modules())
    targets = {f"{name}.weight": pair for name, pair in adapter.pairs.items()}
    values: dict[str, Tensor] = {}
    for name in (*targets, *adapter.offsets):
        layer, _, leaf = name.rpartition(".")
        values[name] = getattr(modules[layer], leaf)
        if not values[name].is_floating_point():
            raise InputError(
                f"Adapters cannot be merged into the quantised weights of {generator.name}: load it without "
                "quantization."
            )
    with merging(generator, [_fingerprint(each, weight) for each in adapters]):
        for name, (down, up) in targets.items():
            value = values[name]
            change = up.to(value.device) @ down.to(value.device)
            value.copy_(value.float() + weight * change)
        for name, change in adapter.offsets.items():
            value = values[name]
            value.copy_(value.float() + weight * change.to(value.device))
    return adapter


def load_adapters(generator: VideoGenerator, paths: str | Path | Sequence[str | Path]) -> LoraAdapter:
    """Adds adapters to the weights of the transformer in memory, so that sampling costs what the base costs.

    Several adapters add up. The generator remembers them: training that starts here saves one adapter that
    contains them, and its reference policy is the model as it is now.

    Raises:
        InputError: an adapter is missing or belongs to another model; the model is then unchanged.
    """
    adapters = check_adapters(generator, paths)
    total = merge(generator, adapters)
    before = merged_adapter(generator)
    vars(generator)["_merged_adapter"] = total if before is None else concatenate_adapters([before, total])
    for adapter in adapters:
        take_defaults(generator, adapter)
    return total


def take_defaults(generator: VideoGenerator, adapter: LoraAdapter) -> None:
    """Lets an adapter say how the model is sampled with it: one whose guidance is distilled needs none."""
    asked = adapter.training.get(DEFAULTS_KEY)
    if not isinstance(asked, dict):
        return
    names = {item.name for item in dataclasses.fields(generator.defaults)}
    known = {name: value for name, value in asked.items() if name in names}
    generator.defaults = generator.defaults.replaced(known)
    vars(generator)["_adapter_defaults"] = {**adapter_defaults(generator), **known}


def adapter_defaults(generator: VideoGenerator) -> dict[str, Any]:
    """Sampling settings that loaded adapters ask for, which adapters trained on top of them ask for too."""
    return dict(vars(generator).get("_adapter_defaults", {}))
