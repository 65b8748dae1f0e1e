"""`WeightAverage`: a moving average of trained weights beside the live ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback


class WeightAverage:
    """Moving average of the trained weights of a module, which can take their place for a while.

    Args:
        module: whose parameters with gradients are averaged; the average starts as a copy of them.

    Attributes:
        live: the parameters themselves, by name.
        average: their averages, by name; they share no memory with the live ones.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Moves the average towards the live weights: decay × average + (1 − decay) × live."""
        for name, parameter in self.live.items():
            self.average[name] = average = self.average[name].to(parameter.device)
            average.lerp_(parameter.to(average.dtype), 1 - decay)  # an engine may have brought it to bfloat16

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the live weights are the average; afterwards they are what they were, bit for bit."""
        kept = {name: parameter.detach().clone() for name, parameter in self.live.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.live.items():
            parameter.copy_(values[name])


class AverageEachStep(TrainerCallback):
    """Updates an average after each optimiser step with the decay min(`decay`, (1 + step) / (10 + step))."""

    def __init__(self, weights: WeightAverage, decay: float) -> None:
        self.weights = weights
        self.decay = decay

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.weights.update(min(self.decay, (1 + state.global_step) / (10 + state.global_step)))
