"""Frozen weights that stay in the host's memory and visit the GPU one layer at a time.

Both passes copy a layer's weight to the GPU and forget it afterwards, so LoRA training, too, needs two layers of the
blocks there: the one that is computed with, and the next, which is copied meanwhile (`weight_copies`). A pass over the
blocks costs one copy of all their weights, as far as that takes longer than computing with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from generator.hardware.host_memory import HostMemory
from generator.hardware.weight_copies import CudaDevice, WeightCopies
from generator.output import InputError

_COPIES: dict[torch.device, WeightCopies] = {}


@contextmanager
def _weight_on(device: torch.device, weight: Tensor, backward: bool) -> Iterator[Tensor]:
    if device.type != "cuda":
        yield weight.to(device)
        return
    if device not in _COPIES:
        _COPIES[device] = WeightCopies(CudaDevice(device), weight.nbytes)
    with _COPIES[device].visit(weight, backward) as there:
        yield there


class _VisitingWeight(torch.autograd.Function):
    """x Wᵀ + b with a frozen W elsewhere; what is kept for the backward pass is W where it lives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        with _weight_on(x.device, weight, backward=False) as there:
            return nn.functional.linear(x, there.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0]
        with _weight_on(gradient.device, ctx.weight, backward=True) as there:
            return gradient @ there.to(gradient.dtype), None, None


class OffloadedLinear(nn.Linear):
    """A linear layer whose frozen weight is no parameter, so that `to` leaves it in the host's memory."""

    host_weight: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.host_weight

    def forward(self, input: Tensor) -> Tensor:
        x, kind = input, input.device.type  # `nn.Linear`'s name, which diffusers calls it by
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _VisitingWeight.apply(x, self.host_weight, bias)


def offload_linear_layers(blocks: list[nn.Module]) -> int:
    """Keeps the weights of all linear layers of `blocks` in the host's memory; returns how many numbers these are.

    The memory is page-locked where there is a GPU, for fast copies.

    Raises:
        InputError: the weights are quantised, or there is no linear layer.
    """
    layers = {id(m): m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}.values()
    for layer in layers:
        if type(layer) is not nn.Linear:
            raise InputError(
                f"The weights are of the kind {type(layer).__name__}, which cannot be offloaded: choose "
                "quantization or offload_weights, not both."
            )
    if not layers:
        raise InputError(
            "The model has no linear layers in its blocks to offload: leave offload_weights out."
        )
    host = _page_locked_memory(sum(layer.weight.nbytes for layer in layers))
    for layer in layers:
        weight = layer.weight.detach()
        del layer._parameters["weight"]
        layer.__class__ = OffloadedLinear
        vars(layer)["host_weight"] = weight.cpu() if host is None else host.place(weight)
    return sum(layer.weight.numel() for layer in layers)


def _page_locked_memory(total: int) -> HostMemory | None:
    """Memory for `total` bytes of weights where there is a GPU to copy them to."""
    return HostMemory(total) if torch.cuda.is_available() else None


def is_offloaded(module: nn.Module) -> bool:
    """Returns whether some of the module's weights are kept in the host's memory."""
    return any(isinstance(child, OffloadedLinear) for child in module.modules())
