"""Losses of pretraining, computed as they are or from recorded CUDA graphs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from generator.pretraining.master_weights import MasterWeights


class Loss(Protocol):
    """A loss whose random part and whose arithmetic are apart, so that the arithmetic can be recorded and replayed."""

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Hashable, dict[str, Tensor]]:
        """Inputs of the arithmetic: a key that fixes shapes and control flow, and tensors on the device."""
        ...

    def compute(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of prepared inputs; no random numbers, no copies from the CPU."""
        ...


class GraphedLoss:
    """Forward and backward pass, recorded as a CUDA graph for every key that comes often.

    A small transformer spends most of a step on launching kernels; a graph launches them all at once.

    Args:
        loss: the loss.
        weights: whose gradients are computed.
        graphs: record graphs; else every call runs as it is.
        after: calls with one key before its graph is recorded.
    """

    def __init__(self, loss: Loss, weights: MasterWeights, graphs: bool, after: int = 2) -> None:
        self.loss = loss
        self.weights = weights
        self.graphs = graphs
        self.after = after
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, tuple[Any, dict[str, Tensor], Any]] = {}
        self.memory = torch.cuda.graph_pool_handle() if graphs else None

    def __call__(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Leaves the gradients of `batch` in the weights' flat buffers and returns the loss and its metrics."""
        key, inputs = self.loss.prepare(batch, generator)
        if key in self.recorded:
            graph, places, outputs = self.recorded[key]
            for name, place in places.items():
                place.copy_(inputs[name])
            graph.replay()
            return outputs
        self.calls[key] = self.calls.get(key, 0) + 1
        if not self.graphs or self.calls[key] <= self.after:
            return self._run(key, inputs)
        places = {name: value.clone() for name, value in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # `torch.cuda.graph` would also empty the cache, every time; and other threads, NCCL's, may go on meanwhile.
        graph.capture_begin(pool=self.memory, capture_error_mode="thread_local")
        outputs = self._run(key, places)
        graph.capture_end()
        self.recorded[key] = (graph, places, outputs)
        graph.replay()
        return outputs

    def _run(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.weights.clear_gradients()
        value, metrics = self.loss.compute(key, inputs)
        value.backward()
        self.weights.collect_gradients()
        return value.detach(), {name: metric.detach() for name, metric in metrics.items()}
