"""LoRA files of any tool to low-rank changes and offsets of diffusers' layers, with every key accounted for."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.output import InputError
from generator.weight_files.lora_keys import Key, parse_key, refused_kind
from generator.weight_files.release_names import Layer, LayerNames

_IMAGE_LAYERS = re.compile(
    r"blocks[._]\d+[._](cross_attn[._](k_img|v_img|norm_k_img)|attn2[._](add_[kv]_proj|norm_added_k))"
    r"|img_emb[._].*|condition_embedder[._]image_embedder[._].*"
)
_NO_IMAGE = "the model has no layers that see an image"
_TEXT_LAYERS = re.compile(r"(lora_te[12]?_|text_encoder(_2)?\.).+")
_TEXT = "adapters change the U-Net alone here, not the text encoder"
_OTHER_INPUT = "the model's input has another number of channels"
_INPUT_LAYERS = ("patch_embedding",)

Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass
class LoraContent:
    """Changes of a file.

    Attributes:
        pairs: for each of diffusers' layers `(A [rank, in], B [out, rank])`, float32, with the scale inside B.
        offsets: what is added to weights, biases and tables, by diffusers' name, float32.
        ignored: keys that have no effect on this model, and why.
    """

    pairs: Pairs = field(default_factory=dict)
    offsets: dict[str, Tensor] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


@dataclass
class _LayerTensors:
    """Tensors of one layer of the file."""

    keys: dict[str, Key] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def scaling_of(module: str, rank: int, configuration: Mapping[str, Any]) -> float:
    """Scale of a layer by PEFT's configuration: alpha / rank, alpha / √rank for rank-stabilised LoRA; 1 without
    any."""
    alpha = configuration.get("lora_alpha", rank)
    for pattern, value in (configuration.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module) or fnmatch.fnmatch(module, pattern):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if configuration.get("use_rslora") else rank)


def _by_layer(path: Path, tensors: Mapping[str, Tensor]) -> dict[tuple[bool, str], _LayerTensors]:
    """Tensors of each layer, by whether it is said to be the second transformer's, and the layer's name."""
    layers: dict[tuple[bool, str], _LayerTensors] = {}
    for text, tensor in tensors.items():
        refused = refused_kind(text)
        if refused is not None:
            raise InputError(
                f"The adapter {path} holds {refused} ({text!r}), but plain LoRA and offsets can be loaded: train or "
                "convert it to plain LoRA."
            )
        key = parse_key(text)
        if key is None:
            raise InputError(
                f"The adapter {path} holds {text!r}, but only plain LoRA of linear layers can be loaded: "
                "train it without DoRA and without `modules_to_save`."
            )
        layer = layers.setdefault((key.second, key.layer), _LayerTensors())
        if key.kind in layer.keys:
            raise InputError(
                f"The adapter {path} holds {text!r} and {layer.keys[key.kind].text!r}, which are the same for one "
                "layer: it is damaged."
            )
        layer.keys[key.kind], layer.tensors[key.kind] = key, tensor
    return layers


def read_content(
    path: Path,
    tensors: Mapping[str, Tensor],
    names: LayerNames | None,
    configurations: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    model: str = "the model",
) -> tuple[LoraContent, LoraContent]:
    """Changes of the first transformer, and those that the file itself says are of the second of two.

    Args:
        path: of the file, for messages.
        tensors: what it holds.
        names: layers of the transformer; where not given, they are taken to be diffusers' own names.
        configurations: PEFT's of both, for the scale of layers that have no `alpha`.
        model: name for messages.

    Raises:
        InputError: a key is none of LoRA, belongs to no layer, or does not fit it.
    """
    first, second = LoraContent(), LoraContent()
    lost: list[str] = []
    for (is_second, name), entry in _by_layer(path, tensors).items():
        content = second if is_second else first
        _check_entry(path, name, entry)
        layer = _find(names, name)
        if layer is None and set(entry.keys) == {"diff_m"} and _modulation(names, name):
            _add_offsets(path, content, names, Layer(name, (name,)), entry, model)
            continue
        if layer is None:
            texts = [key.text for key in entry.keys.values()]
            if _TEXT_LAYERS.fullmatch(name) and names is not None and names.kind == "UNetMotionModel":
                content.ignored |= dict.fromkeys(texts, _TEXT)
            elif _IMAGE_LAYERS.search(name) and names is not None and names.kind.startswith("Wan"):
                content.ignored |= dict.fromkeys(texts, _NO_IMAGE)
            else:
                lost.extend(texts)
            continue
        _add_pair(path, content, names, layer, entry, configurations[is_second], name, model)
        _add_offsets(path, content, names, layer, entry, model)
    if lost:
        raise InputError(
            f"The adapter {path} changes the layer {lost[0]!r}"
            + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
            + f", but {model} has no such layer there: load it on the model that it was trained for."
        )
    return first, second


def _check_entry(path: Path, name: str, entry: _LayerTensors) -> None:
    kinds = set(entry.keys)
    down, up = entry.tensors.get("down"), entry.tensors.get("up")
    if ("alpha" in kinds or "down" in kinds or "up" in kinds) and (
        down is None or up is None or up.shape[1] != down.shape[0]
    ):
        raise InputError(f"The adapter {path} has no matching pair of matrices for {name!r}: it is damaged.")


def _find(names: LayerNames | None, name: str) -> Layer | None:
    return Layer(name, (name,)) if names is None else names.find(name)


def _modulation(names: LayerNames | None, name: str) -> Layer | None:
    """The table of modulations of a block, which a file may name in place of the table."""
    if names is None:
        return None
    return names.find(f"{name}.modulation") or names.find(f"{name}_modulation")


def _scaled(
    entry: _LayerTensors, configuration: Mapping[str, Any], name: str
) -> tuple[Tensor, Tensor] | None:
    down, up, alpha = (entry.tensors.get(kind) for kind in ("down", "up", "alpha"))
    if down is None or up is None:
        return None
    rank = len(down)
    scale = float(alpha) / rank if alpha is not None else scaling_of(name, rank, configuration)
    return down.float(), up.float() * scale


def _add_pair(
    path: Path,
    content: LoraContent,
    names: LayerNames | None,
    layer: Layer,
    entry: _LayerTensors,
    configuration: Mapping[str, Any],
    name: str,
    model: str,
) -> None:
    """Adds the low-rank change of a layer of the file to those of diffusers' layers."""
    pair = _scaled(entry, configuration, name)
    if pair is None:
        return
    down, up = pair
    if names is None:
        content.pairs[layer.parts[0]] = pair
        return
    if len(layer.parts) == 1 and len(names.shapes[names.weight_of(layer.parts[0])]) != 2:
        _add_convolution(path, content, names, layer, entry, pair, model)
        return
    if down.ndim != 2 or up.ndim != 2:
        raise InputError(f"The adapter {path} has no matching pair of matrices for {name!r}: it is damaged.")
    rows = [names.rows(part) for part in layer.parts]
    width = names.shapes[names.weight_of(layer.parts[0])][1]
    if (len(up), down.shape[1]) != (sum(rows), width):
        raise _wrong_shape(path, entry.keys["down"].text, (len(up), down.shape[1]), (sum(rows), width), model)
    if layer.swaps_halves:
        up = up.roll(len(up) // 2, 0)
    if len(layer.parts) == 1:
        content.pairs[layer.parts[0]] = down, up
        return
    for part, piece in zip(layer.parts, up.split(rows), strict=True):
        used = (piece != 0).any(0)
        if used.any():  # rows of A that other parts alone use, and parts that do not change, stay out
            content.pairs[part] = down[used].contiguous(), piece[:, used].contiguous()


def _add_convolution(
    path: Path,
    content: LoraContent,
    names: LayerNames,
    layer: Layer,
    entry: _LayerTensors,
    pair: tuple[Tensor, Tensor],
    model: str,
) -> None:
    """Adds what matrices change in a weight that is no matrix as an offset, as no LoRA layer holds it."""
    weight = names.weight_of(layer.parts[0])
    down, up = pair
    change = up.flatten(1) @ down.flatten(1)
    shape = names.shapes[weight]
    if len(change) != shape[0] or change.numel() != math.prod(shape):
        _mismatch(path, content, entry, ("down", "up", "alpha"), layer, tuple(change.shape), shape, model)
        return
    _add(content.offsets, weight, change.view(shape))


def _add_offsets(
    path: Path,
    content: LoraContent,
    names: LayerNames | None,
    layer: Layer,
    entry: _LayerTensors,
    model: str,
) -> None:
    """Adds `.diff`, `.diff_b` and `.diff_m` of a layer of the file."""
    for kind in ("diff", "diff_b", "diff_m"):
        if kind not in entry.tensors:
            continue
        text, change = entry.keys[kind].text, entry.tensors[kind].float()
        if names is None:
            raise InputError(f"The adapter {path} holds {text!r}: say with --model which model it changes.")
        whole = layer
        if kind == "diff_m":
            table = _modulation(names, layer.name)
            if table is None:
                raise _no_target(path, text, model)
            whole = table
        targets = [f"{part}.bias" if kind == "diff_b" else names.weight_of(part) for part in whole.parts]
        if any(target not in names.shapes for target in targets):
            raise _no_target(path, text, model)
        shapes = [names.shapes[target] for target in targets]
        rows = [shape[0] for shape in shapes]
        expected = (sum(rows), *shapes[0][1:])
        if change.numel() != math.prod(expected):
            _mismatch(path, content, entry, (kind,), whole, tuple(change.shape), expected, model)
            continue
        change = change.view(expected)
        if whole.swaps_halves:
            change = change.roll(len(change) // 2, 0)
        for target, piece in zip(targets, change.split(rows), strict=True):
            _add(content.offsets, target, piece)


def _add(offsets: dict[str, Tensor], name: str, change: Tensor) -> None:
    offsets[name] = offsets[name] + change if name in offsets else change


def _mismatch(
    path: Path,
    content: LoraContent,
    entry: _LayerTensors,
    kinds: tuple[str, ...],
    layer: Layer,
    found: tuple[int, ...],
    expected: tuple[int, ...],
    model: str,
) -> None:
    """An input layer of a model with more or fewer channels has no effect, as in ComfyUI; all else is refused."""
    texts = [entry.keys[kind].text for kind in kinds if kind in entry.keys]
    if layer.parts[0] in _INPUT_LAYERS:
        content.ignored |= dict.fromkeys(texts, _OTHER_INPUT)
        return
    raise _wrong_shape(path, texts[0], found, expected, model)


def _wrong_shape(
    path: Path, text: str, found: tuple[int, ...], expected: tuple[int, ...], model: str
) -> InputError:
    return InputError(
        f"The adapter {path} changes the layer {text!r} of shape {found}, but {model} has a layer of shape "
        f"{expected} there: load it on the model that it was trained for."
    )


def _no_target(path: Path, text: str, model: str) -> InputError:
    return InputError(
        f"The adapter {path} holds {text!r}, but {model} has nothing there that it could change: load it on the model "
        "that it was trained for."
    )
