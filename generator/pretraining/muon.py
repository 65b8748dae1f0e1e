"""Muon on many matrices at once: the optimiser of `vidalign pretrain --optimizer muon`.

`torch.optim.Muon` takes one matrix after the other, which for a transformer of small matrices is mostly the launching
of kernels. Here all matrices of one shape lie side by side in a flat buffer and are orthogonalised together; the rule
is the same (`tests/generator/pretraining/test_muon.py` compares the two).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton–Schulz iteration (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon/)."""
STEPS = 5
MOMENTUM = 0.95


def orthogonalise(matrices: Tensor) -> Tensor:
    """U Vᵀ of the singular value decompositions of `matrices` `[n, rows, columns]`, roughly, in bfloat16.

    Five Newton–Schulz iterations bring every singular value that is not tiny to between about 0.7 and 1.2, which is
    exact enough for an update and takes matrix products only.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon (K. Jordan, 2024) of matrices in one flat buffer, with Nesterov momentum and decoupled weight decay.

    Updates have the root mean square that AdamW's typically have, 0.2 times the learning rate (Moonlight,
    https://arxiv.org/abs/2502.16982, section 2.2), so that both take the same rate and decay.

    Args:
        buffer: `[sum of rows x columns]`, the matrices one after the other.
        shapes: rows and columns of each, equal ones side by side.
        lr: learning rate.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self, buffer: nn.Parameter, shapes: Sequence[tuple[int, int]], lr: float, weight_decay: float
    ) -> None:
        super().__init__([buffer], {"lr": lr, "weight_decay": weight_decay})
        self.runs: list[tuple[int, int, int, int]] = []
        """Offset, number, rows and columns of each run of matrices of one shape."""
        offset = 0
        for rows, columns in shapes:
            if self.runs and self.runs[-1][2:] == (rows, columns):
                start, number, *_ = self.runs.pop()
                self.runs.append((start, number + 1, rows, columns))
            else:
                self.runs.append((offset, 1, rows, columns))
            offset += rows * columns
        if offset != buffer.numel():
            raise ValueError(f"The shapes have {offset} elements, but the buffer has {buffer.numel()}.")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every matrix by its orthogonalised momentum."""
        (group,) = self.param_groups
        (buffer,) = group["params"]
        state = self.state[buffer]
        if not state:
            state["momentum"] = torch.zeros_like(buffer)
        momentum = state["momentum"].lerp_(buffer.grad, 1 - MOMENTUM)
        update = buffer.grad.lerp(momentum, MOMENTUM)
        buffer.mul_(1 - group["lr"] * group["weight_decay"])
        for offset, number, rows, columns in self.runs:
            place = slice(offset, offset + number * rows * columns)
            ortho = orthogonalise(update[place].view(number, rows, columns))
            scale = 0.2 * math.sqrt(max(rows, columns))
            buffer[place].view(number, rows, columns).sub_(ortho, alpha=group["lr"] * scale)
