"""Parts of the table that is shown before the first step of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def format_table(title: str, rows: Mapping[str, str]) -> str:
    """A title and aligned rows `name  value`, for a terminal."""
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def trained_share(network: torch.nn.Module) -> str:
    """Number of the weights that are trained, and of all."""
    # Under ZeRO-3 a parameter is empty here and knows its own number of values.
    counted = [(int(getattr(p, "ds_numel", p.numel())), p.requires_grad) for p in network.parameters()]
    trained = sum(number for number, requires_grad in counted if requires_grad)
    return f"{millions(trained)} of {millions(sum(number for number, _ in counted))} weights"


def describe_device(args: Any, dtype: torch.dtype) -> str:
    """Device, precision and number of processes."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else str(dtype).removeprefix("torch.")
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    shared = getattr(args, "context_parallel", 1)
    processes += f", of which {shared} share the tokens of a video" if shared > 1 else ""
    return f"{args.device}, {precision}{processes}"


def millions(count: int) -> str:
    """A number of weights in millions."""
    return f"{count / 1e6:.3g} M"
