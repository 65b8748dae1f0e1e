"""Checks of LoRA: an adapter saved here in the stock pipeline, and exported files read back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from alignment.lora import ADAPTER_NAME, LoraArguments, add_lora, trained_adapter
from alignment.proof.result import Result
from alignment.proof.subject import relative_distance
from generator.adapters.adapters import LoraAdapter, read_adapter, write_adapter
from generator.adapters.export import export_adapter, layer_names
from generator.base import VideoGenerator
from generator.output import InputError
from generator.weight_files.skeleton import model_skeleton

RANK, ALPHA = 4, 12
"""Alpha is not the rank: a scale that is lost shows."""
SHARE_OF_WEIGHT = 0.5
"""Norm of a layer's change to that of its weight: rounding to bfloat16 would hide a smaller one's effect."""
EFFECT = {torch.float32: 1e-2, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Largest error as a share of the adapter's effect on the latents: a scale of 3 that is lost makes it 0.67, an adapter
that is not loaded 1."""
FORMATS = ("comfyui", "kohya", "diffusers")


def add_random_adapter(generator: VideoGenerator) -> LoraAdapter:
    """Adds LoRA as training could have left it, each layer's change half of its weight; returns the adapter."""
    add_lora(generator, LoraArguments(lora_r=RANK, lora_alpha=ALPHA), seed=0)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in generator.transformer.modules():
            if not isinstance(module, LoraLayer):
                continue
            layer: Any = module
            down, up = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
            up.copy_(torch.randn(up.shape, generator=random))
            change = norm_of_product(up.float(), down.float()) * ALPHA / RANK
            weight = float(layer.get_base_layer().weight.detach().float().norm())
            up.mul_(SHARE_OF_WEIGHT * weight / change)
    return trained_adapter(generator)


def norm_of_product(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of `up @ down`, by way of two matrices of the rank: ‖BA‖² = tr(BᵀB AAᵀ)."""
    return math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T)).sum())))


def effect_result(stock: Sequence[Tensor], ours: Sequence[Tensor], dtype: torch.dtype) -> Result:
    """Distance of what the adapter changes in the stock pipeline's latents from what it changes in ours, as a share of
    the latter. Changes are compared, and not latents, as what rounding makes of the model itself is no fault of the
    adapter.

    Args:
        stock, ours: latents without the adapter, and with it.
        dtype: of the weights.
    """
    what = "an adapter saved here changes the stock pipeline as ours, error as a share of its effect"
    theirs, change = (with_it.double().cpu() - without.double().cpu() for without, with_it in (stock, ours))
    effect = relative_distance(ours[1], ours[0])
    none = not 1e-5 < effect < float("inf")
    note = f"the adapter moves our latents by {effect:.1e} of their norm"
    return Result("adapter", what, relative_distance(theirs, change), EFFECT[dtype], note, failed=none)


def check_export(folder: Path, model: Path, adapter: LoraAdapter) -> list[Result]:
    """Each format that vidalign writes, read back; the change of every layer must be the same.

    Args:
        folder: an empty one, for the files.
        model: the pipeline's folder.
    """
    write_adapter(folder / "own", adapter, {})
    what = "an adapter read back is the one that was written"
    results = [Result("export", what, _difference(read_adapter(folder / "own"), adapter), 1e-6)]
    for form in FORMATS:
        try:
            transformer = model_skeleton(model)
            names = layer_names(transformer, form)
        except InputError:
            results.append(_not_available(form, "for this family"))
            continue
        export_adapter(folder / form, adapter, names, form, "proof", torch.float32)
        found = read_adapter(folder / form, transformer, str(model))
        what = f"an adapter exported for {form} is read back"
        results.append(Result("export", what, _difference(found, adapter), 1e-5))
    return results


def _not_available(form: str, where: str) -> Result:
    return Result("export", f"an adapter exported for {form} is read back", note=f"not available {where}")


def _difference(found: LoraAdapter, expected: LoraAdapter) -> float:
    """Largest relative difference of a layer's change; infinite where a layer is missing or too many."""
    if found.pairs.keys() != expected.pairs.keys():
        return float("inf")
    worst = 0.0
    for name, (down, up) in expected.pairs.items():
        other_down, other_up = found.pairs[name]
        # B A − B' A' as one product of twice the rank.
        apart = norm_of_product(torch.cat([up, -other_up], dim=1), torch.cat([down, other_down]))
        worst = max(worst, apart / max(norm_of_product(up, down), 1e-30))
    return worst
