"""Parameters of several modules as flat buffers.

Weights are computed with in `dtype` and kept in float32: gradients go to float32 masters, the optimiser changes those,
and a rounded copy goes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn


def hidden_matrices(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Weights of linear layers inside blocks (members of a `ModuleList`), sorted by shape.

    Embeddings, layers in front of and behind the blocks, and tables are not among them: Muon is not for these.
    """
    found: dict[nn.Parameter, None] = {}
    for module in modules:
        for blocks in module.modules():
            if isinstance(blocks, nn.ModuleList):
                for linear in blocks.modules():
                    if isinstance(linear, nn.Linear):
                        found[cast(nn.Parameter, linear.weight)] = None
    return sorted(found, key=lambda weight: tuple(weight.shape))


class MasterWeights:
    """Parameters of modules as flat buffers: float32 masters, and live weights and gradients in `dtype`.

    One buffer holds the matrices, which decay, and one the rest; with `hidden`, a third and first one the matrices
    inside blocks, by shape. Optimiser, clipping and averaging then take a few calls whatever the number of parameters,
    and gradients always lie at the same place, as CUDA graphs need.

    Args:
        modules: converted to `dtype` in place; their parameters become views of the flat buffers.
        dtype: of forward and backward passes.
        hidden: give the linear layers inside blocks a buffer of their own.
    """

    def __init__(
        self, modules: Iterable[nn.Module], dtype: torch.dtype = torch.float32, hidden: bool = False
    ) -> None:
        self.modules = list(modules)
        parameters = list(dict.fromkeys(p for module in self.modules for p in module.parameters()))
        inner = hidden_matrices(self.modules) if hidden else []
        rest = [p for p in parameters if not any(p is one for one in inner)]
        self.groups_of_parameters = [
            group
            for group in (inner, [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1])
            if group
        ]
        self.hidden_shapes = [(p.shape[0], p.shape[1]) for p in inner]
        self.masters = [
            nn.Parameter(torch.cat([p.detach().float().flatten() for p in group]))
            for group in self.groups_of_parameters
        ]
        self.decays = [bool(group[0].ndim > 1) for group in self.groups_of_parameters]
        for module in self.modules:
            module.to(dtype=dtype)
        self.live: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.places: list[tuple[nn.Parameter, Tensor]] = []
        for master, group in zip(self.masters, self.groups_of_parameters, strict=True):
            live, gradient = master.detach().to(dtype, copy=True), torch.zeros_like(master, dtype=dtype)
            offset = 0
            for p in group:
                place = slice(offset, offset + p.numel())
                p.data = live[place].view(p.shape)
                self.places.append((p, gradient[place].view(p.shape)))
                offset += p.numel()
            self.live.append(live)
            self.gradients.append(gradient)

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW, all but the hidden matrices: matrices decay; biases, norms and vectors do not."""
        first = 1 if self.hidden_shapes else 0
        return [
            {"params": [master], "weight_decay": weight_decay if decays else 0.0}
            for master, decays in zip(self.masters[first:], self.decays[first:], strict=True)
        ]

    def clear_gradients(self) -> None:
        """Forgets the gradients of the modules: the backward pass then need not add to them."""
        for p, _ in self.places:
            p.grad = None

    def collect_gradients(self) -> None:
        """Copies the gradients of the modules to the flat buffers, 0 where there is none."""
        found = [(place, p.grad) for p, place in self.places if p.grad is not None]
        if len(found) < len(self.places):
            for gradient in self.gradients:
                gradient.zero_()
        torch._foreach_copy_([place for place, _ in found], [grad for _, grad in found])

    def take_gradients(self) -> None:
        """Copies the flat gradients to the masters."""
        for master, gradient in zip(self.masters, self.gradients, strict=True):
            master.grad = gradient.float() if gradient.dtype != master.dtype else gradient.clone()

    @torch.no_grad()
    def give(self) -> None:
        """Copies the masters, rounded, into the modules."""
        for live, master in zip(self.live, self.masters, strict=True):
            live.copy_(master)

    @torch.no_grad()
    def finish(self, values: list[Tensor]) -> None:
        """Puts float32 `values`, shaped like the masters, into the modules, each parameter with its own storage."""
        for live, master, value in zip(self.live, self.masters, values, strict=True):
            master.copy_(value)
            live.copy_(value)
        for value, group in zip(values, self.groups_of_parameters, strict=True):
            start = 0
            for p in group:
                p.data = value[start : start + p.numel()].view(p.shape).float().clone()
                p.grad = None
                start += p.numel()
