"""Low-rank changes and offsets of diffusers' layers to LoRA files under the names that other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generator.weight_files.release_names import Layer, LayerNames, flat, layer_of

FORMATS = ("comfyui", "diffusers", "kohya")
COMFYUI_PREFIX = "diffusion_model."
KOHYA_PREFIX = "lora_unet_"

Pair = tuple[Tensor, Tensor]


def trimmed(pair: Pair) -> Pair:
    """`(A, B)` without the rows of A and columns of B that change nothing."""
    down, up = pair
    used = (down != 0).any(1) & (up != 0).any(0)
    return pair if bool(used.all()) or not bool(used.any()) else (down[used], up[:, used])


def joined(layer: Layer, pairs: Mapping[str, Pair], names: LayerNames) -> Pair | None:
    """The change of a layer of the release: A of its parts below each other, B block by block; None where no part
    changes."""
    own = [pairs.get(part) for part in layer.parts]
    found = [trimmed(pair) for pair in own if pair is not None]
    if not found:
        return None
    if len(layer.parts) == 1:
        down, up = found[0]
    else:
        down = torch.cat([pair[0] for pair in found])
        up = torch.zeros(sum(names.rows(part) for part in layer.parts), len(down))
        row = column = 0
        for part, pair in zip(layer.parts, own, strict=True):
            rows = names.rows(part)
            if pair is not None:
                piece = trimmed(pair)[1]
                up[row : row + rows, column : column + piece.shape[1]] = piece
                column += piece.shape[1]
            row += rows
    if layer.swaps_halves:
        up = up.roll(len(up) // 2, 0)
    return down, up


def _joined_offsets(layer: Layer, offsets: Mapping[str, Tensor], names: LayerNames) -> dict[str, Tensor]:
    """`.diff` and `.diff_b` of a layer of the release, parts that do not change with zeros."""
    found = {}
    for kind, targets in (
        ("diff", [names.weight_of(part) for part in layer.parts]),
        ("diff_b", [f"{part}.bias" for part in layer.parts]),
    ):
        if not any(target in offsets for target in targets):
            continue
        pieces = [offsets.get(target, torch.zeros(names.shapes[target])) for target in targets]
        change = torch.cat(pieces)
        found[kind] = change.roll(len(change) // 2, 0) if layer.swaps_halves else change
    return found


def release_tensors(
    form: str,
    pairs: Mapping[str, Pair],
    offsets: Mapping[str, Tensor],
    names: LayerNames,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Content of a file for ComfyUI or for kohya's trainers.

    Args:
        form: `comfyui` (`diffusion_model.…`, no alpha, as ComfyUI takes the scale for 1 without) or `kohya`
            (`lora_unet_…`, with alpha).
        pairs: as in `LoraContent`, of one transformer.
        offsets: as in `LoraContent`.
        names: layers of that transformer.
        dtype: of the matrices.
    """
    tensors: dict[str, Tensor] = {}
    layers = names.comfyui if form == "comfyui" else names.kohya
    for layer in layers:
        stem = f"{COMFYUI_PREFIX}{layer.name}" if form == "comfyui" else f"{KOHYA_PREFIX}{flat(layer.name)}"
        pair = joined(layer, pairs, names)
        if pair is not None:
            down, up = (tensor.to(dtype).contiguous() for tensor in pair)
            if form == "comfyui":
                tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
            else:
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
                tensors[f"{stem}.alpha"] = torch.tensor(float(len(down)))
        for kind, change in _joined_offsets(layer, offsets, names).items():
            tensors[f"{stem}.{kind}"] = change.to(dtype).contiguous()
    return tensors


def unwritten(pairs: Mapping[str, Any], offsets: Mapping[str, Any], names: LayerNames) -> list[str]:
    """Layers that the transformer does not have."""
    known = {layer_of(name) for name in names.shapes}
    return [name for name in (*pairs, *map(layer_of, offsets)) if layer_of(name) not in known]
