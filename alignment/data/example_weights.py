"""Equal weight for every example, whatever it is batched with.

Batches are filled up so that all have one shape and every process gets equally many. What fills them up does not
count, and neither does it matter how many examples share a batch or a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Filler(int):
    """The index of an example that only fills up a batch."""


def as_fillers(batch: Sequence[Any]) -> list[Any]:
    """A batch of indices, or of tuples of indices, that does not count."""
    return [
        tuple(map(Filler, item)) if isinstance(item, tuple) else Filler(item)  # a packed row is a tuple
        for item in batch
    ]


def whole_rounds(batches: Sequence[list[Any]], processes: int) -> list[list[Any]]:
    """The batches, and after them as many that do not count as it takes for every process to have equally many."""
    missing = -len(batches) % processes
    return [*batches, *(as_fillers(batches[i % len(batches)]) for i in range(missing))]


def example_share(num_examples: int, num_batches: int, processes: int = 1, accumulation: int = 1) -> float:
    """The factor of an example's loss in that of its micro-batch with which an epoch's steps have, on average, the
    gradient of the mean loss of all examples.

    Engines average over `processes` and over the `accumulation` micro-batches of a step.

    Args:
        num_batches: micro-batches of an epoch on all processes together.
    """
    steps = math.ceil(num_batches / processes / accumulation)
    return steps * processes * accumulation / num_examples


def batch_loss(losses: Tensor, weights: Tensor, share: float | None) -> Tensor:
    """The loss of a batch from those of its examples `[batch]` and their weights, 1 or 0 for fillers; without a
    `share`, their mean."""
    total = (losses * weights.to(losses)).sum()
    return total / weights.sum().clamp(min=1).to(losses) if share is None else share * total


def counted(weights: Tensor) -> Tensor:
    """Mask `[batch]` of the examples that are no fillers."""
    return torch.nonzero(weights > 0).flatten()
