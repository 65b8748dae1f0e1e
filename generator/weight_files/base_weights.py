"""A transformer from a file of weights: names of the release or of diffusers, fp8 with and without scales, GGUF."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from generator.output import InputError
from generator.provenance import file_hash
from generator.weight_files.gguf_files import gguf_tensors
from generator.weight_files.release_names import LayerNames
from generator.weight_files.skeleton import empty_transformer

_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_OTHER_PARTS = ("vae.", "text_encoders.", "text_encoder.", "first_stage_model.", "cond_stage_model.")
_CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")
"""Of LTX-2's text encoder, though its files have them under the transformer's prefix."""
_MARKERS = ("scaled_fp8",)
_SCALES = (".scale_weight", ".weight_scale")
_UNUSED_SCALES = (".scale_input", ".input_scale")
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_LEAVES = {".weight": ".weight", ".bias": ".bias", ".scale": ".weight"}


def weight_file_names(path: Path) -> list[Path]:
    """The files of weights that `path` is, or the shards in the folder.

    Raises:
        InputError: there is none.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"No weights were found at {path}: give a .safetensors or .gguf file, or a folder of shards."
        )
    return files


def weights_hash(path: Path) -> str:
    """SHA-256 of a file of weights; of several shards, over the hashes of all."""
    hashes = [file_hash(file) for file in weight_file_names(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_transformer(folder: Path, component: str, path: Path, dtype: torch.dtype) -> nn.Module:
    """A transformer with the configuration in `folder` and the weights of a file.

    Modules that the class keeps in float32 are read in the precision of the file, all others as `dtype`.

    Args:
        component: `transformer`, or `transformer_2` for the second of two.

    Raises:
        InputError: the pipeline has no such transformer, or the file is unreadable, quantised in a way that cannot be
            undone, or of another model.
    """
    transformer = empty_transformer(folder, component)
    if transformer is None:
        raise InputError(f"The model {folder} has no {component}: leave --{component} out.")
    in_float32 = set(getattr(transformer, "_keep_in_fp32_modules", None) or [])
    names = LayerNames.of(transformer)
    values: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in _weights(path):
        targets = _targets(names, key)
        if targets is None:
            unknown.append(key)
            continue
        for name, piece in _pieces(names, targets, tensor, path, key, folder):
            kept = in_float32 & set(name.split("."))
            # A copy, as the pieces of a joined layer share the memory of all.
            values[name] = piece.to(torch.float32 if kept else dtype, copy=True).contiguous()
    missing = [name for name in names.shapes if name not in values]
    if missing or unknown:
        raise _other_model(path, folder, component, missing, unknown)
    for name, value in values.items():
        layer, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(layer), leaf, nn.Parameter(value, requires_grad=False))
    return transformer.eval()


def _targets(names: LayerNames, key: str) -> tuple[tuple[str, ...], bool] | None:
    """Diffusers' names of what a key holds, and whether its halves are swapped."""
    whole = names.find(key)
    if whole is not None and all(part in names.shapes for part in whole.parts):
        return whole.parts, whole.swaps_halves
    for leaf, ours in _LEAVES.items():
        layer = names.find(key.removesuffix(leaf)) if key.endswith(leaf) else None
        if layer is not None and all(f"{part}{ours}" in names.shapes for part in layer.parts):
            return tuple(f"{part}{ours}" for part in layer.parts), layer.swaps_halves
    return None


def _pieces(
    names: LayerNames,
    targets: tuple[tuple[str, ...], bool],
    tensor: Tensor,
    path: Path,
    key: str,
    folder: Path,
) -> Iterator[tuple[str, Tensor]]:
    """The tensor of a file, cut into those of diffusers' layers."""
    parts, swapped = targets
    shapes = [names.shapes[part] for part in parts]
    rows = [shape[0] for shape in shapes]
    expected = (sum(rows), *shapes[0][1:])
    is_gguf = path.suffix == ".gguf"  # which has at most four dimensions
    if tuple(tensor.shape) != expected and not (is_gguf and tensor.numel() == math.prod(expected)):
        what = ""
        if len(expected) == 5 and len(tensor.shape) == 5:
            what = f", so it takes {tensor.shape[1]} channels where the model takes {expected[1]}"
        raise InputError(
            f"The weights {path} have {key!r} of shape {tuple(tensor.shape)}, but {folder} is a model whose shape "
            f"there is {expected}{what}: give the weights of that model, or the folder of the model that they are of."
        )
    tensor = tensor.view(expected)
    if swapped:
        tensor = tensor.roll(rows[0] // 2, 0)
    yield from zip(parts, tensor.split(rows), strict=True)


def _other_model(
    path: Path, folder: Path, component: str, missing: list[str], unknown: list[str]
) -> InputError:
    said = []
    if missing:
        said.append(f"lack {len(missing)} of the model's weights, such as {missing[0]!r}")
    if unknown:
        said.append(f"hold {len(unknown)} that it does not have, such as {unknown[0]!r}")
    return InputError(
        f"The weights {path} are not those of the {component} of {folder}, as they {' and '.join(said)}: give the "
        "weights of that model, or the folder of the model that they are of."
    )


def _weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names without prefixes, and tensors that are floating-point numbers without scales."""
    if path.is_file() and path.suffix == ".gguf":
        yield from _own(list(gguf_tensors(path)), path)
        return
    for file in weight_file_names(path):
        try:
            with safe_open(file, framework="pt") as opened:
                _refuse_comfy_quant(file, opened.metadata() or {})
                keys = list(opened.keys())
                read = opened.get_tensor
                yield from _own([(key, _Later(read, key)) for key in keys], path)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file} is not a readable file of weights ({error}): give a .safetensors or .gguf file."
            ) from None


class _Later:
    """A tensor of an open file that is read when it is asked for."""

    def __init__(self, read: Any, key: str) -> None:
        self.read, self.key = read, key

    def __call__(self) -> Tensor:
        return self.read(self.key)


def _own(entries: list[tuple[str, Any]], path: Path) -> Iterator[tuple[str, Tensor]]:
    """The transformer's entries of a file, its scales multiplied in."""
    prefix = next((prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key, _ in entries)), "")
    own = {
        key.removeprefix(prefix): read
        for key, read in entries
        if (key.startswith(prefix) if prefix == _PREFIXES[0] else not key.startswith(_OTHER_PARTS))
        and not key.removeprefix(prefix).startswith(_CONNECTORS)
    }
    for key in own:
        if key.endswith(".comfy_quant"):
            raise _refused(path, f"comfy_quant ({key!r})")
    scales = {}
    for key in list(own):
        ending = next((ending for ending in _SCALES if key.endswith(ending)), None)
        if ending is not None:
            scales[key.removesuffix(ending)] = own.pop(key)
        elif key in _MARKERS or key.endswith(_UNUSED_SCALES):
            own.pop(key)
    for key, read in own.items():
        tensor = read()
        if not tensor.is_floating_point():
            raise _refused(path, f"{str(tensor.dtype).removeprefix('torch.')} ({key!r})")
        scale = scales.pop(key.removesuffix(".weight"), None) if key.endswith(".weight") else None
        if tensor.dtype in _FLOAT8:
            tensor = tensor.float()
        yield key, tensor if scale is None else _scaled(path, key, tensor, scale())
    if scales:
        raise InputError(
            f"The weights {path} have a scale of {next(iter(scales))!r}, but no weight of that name: the file is "
            "damaged."
        )


def _scaled(path: Path, key: str, tensor: Tensor, scale: Tensor) -> Tensor:
    if scale.numel() not in (1, len(tensor)):
        raise _refused(
            path, f"scales of shape {tuple(scale.shape)} for {key!r} of shape {tuple(tensor.shape)}"
        )
    shape = (-1, *[1] * (tensor.ndim - 1))
    return tensor.float() * scale.float().reshape(shape if scale.numel() > 1 else ())


def _refused(path: Path, kind: str) -> InputError:
    return InputError(
        f"The weights {path} are quantised as {kind}, which cannot be undone here: give bf16, fp16, fp8 or GGUF "
        "weights."
    )


def _refuse_comfy_quant(path: Path, metadata: dict[str, str]) -> None:
    written = metadata.get("_quantization_metadata")
    if written is None:
        return
    formats: set[str] = set()
    with suppress(ValueError, AttributeError, TypeError):
        formats = {str(layer.get("format")) for layer in json.loads(written).get("layers", {}).values()}
    raise _refused(path, f"comfy_quant ({', '.join(sorted(formats)) or 'of an unknown format'})")
