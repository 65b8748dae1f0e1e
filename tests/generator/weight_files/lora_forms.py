"""Adapters of tiny models in the forms of other tools, and what they do to weights by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from safetensors.torch import save_file
from torch import Tensor

from generator.base import VideoGenerator
from generator.families.wan import WanGenerator, WanImageToVideoGenerator
from generator.testing.pipelines import build_tiny_pipeline

WAN = {
    "self_attn.q": "attn1.to_q", "self_attn.k": "attn1.to_k", "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q", "cross_attn.k": "attn2.to_k", "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
}  # fmt: skip
"""Layers of a block in the release and in diffusers, typed here once more."""

Pairs = dict[str, tuple[Tensor, Tensor]]


def random_pairs(shapes: dict[str, tuple[int, int]], seed: int = 0) -> Pairs:
    """`(A, B)` of ranks 2, 3, 4, 2, … for layers `{name: (out, in)}`."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(2 + i % 3, columns, generator=random),
            0.2 * torch.randn(rows, 2 + i % 3, generator=random),
        )
        for i, (name, (rows, columns)) in enumerate(shapes.items())
    }


def shapes_of(transformer: Any, layers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Shapes of layers of a transformer by the ends of their names."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(layers))
    }


def wan_release(name: str) -> str:
    """Name of a layer of a block in the release."""
    block, number, rest = name.split(".", 2)
    return f"{block}.{number}.{next(theirs for theirs, ours in WAN.items() if ours == rest)}"


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def ab(pairs: Pairs, prefix: str, name: Any = lambda name: name, middle: str = "") -> dict[str, Tensor]:
    """`lora_A`, `lora_B`, without alpha."""
    found = {}
    for layer, (down, up) in pairs.items():
        found[f"{prefix}{name(layer)}.lora_A{middle}.weight"] = down
        found[f"{prefix}{name(layer)}.lora_B{middle}.weight"] = up
    return found


def down_up(
    pairs: Pairs, prefix: str, name: Any, alpha: float | None, halved: bool = False
) -> dict[str, Tensor]:
    """`lora_down`, `lora_up`; with alpha, B is given so that the change is that of `pairs`."""
    found = {}
    for layer, (down, up) in pairs.items():
        rank = len(down)
        found[f"{prefix}{name(layer)}.lora_down.weight"] = down
        found[f"{prefix}{name(layer)}.lora_up.weight"] = up if alpha is None else up * rank / alpha
        if alpha is not None:
            found[f"{prefix}{name(layer)}.alpha"] = torch.tensor(alpha)
    return found


def merged_by_hand(
    transformer: Any, pairs: Pairs, offsets: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Weights of the transformer with the changes."""
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}
    for layer, (down, up) in pairs.items():
        weights[f"{layer}.weight"] += up @ down
    for name, change in (offsets or {}).items():
        weights[name] += change.view_as(weights[name])
    return weights


def generator_of(family: str) -> VideoGenerator:
    """A tiny generator; the same weights at each call."""
    pipeline = build_tiny_pipeline(family)
    kind = WanImageToVideoGenerator if "i2v" in family else WanGenerator
    return kind(pipeline, family)


def assert_weights(transformer: Any, expected: dict[str, Any]) -> None:
    for name, value in transformer.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def stock_weights(path: Path, transformer: str = "transformer", **more: Any) -> dict[str, Any]:
    """Weights of a stock pipeline that loaded and fused the file."""
    pipeline: WanPipeline = build_tiny_pipeline(
        "wan2.2-a14b" if transformer == "transformer_2" or more else "wan"
    )
    pipeline.load_lora_weights(path.parent, weight_name=path.name, **more)
    fused = getattr(pipeline, transformer)
    fused.fuse_lora()
    fused.unload_lora()
    return fused.state_dict()
