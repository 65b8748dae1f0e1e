"""Copies of weights from the host's memory to a GPU, the next one while the GPU computes with this one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

BUFFERS = 2


class Device(Protocol):
    """Streams and memory of a GPU."""

    copying: Any
    """A stream for copies alone."""

    def computing(self) -> Any:
        """Returns the stream on which the caller computes."""

    def make(self, size: int) -> Tensor:
        """Returns `size` bytes of memory."""

    def copy(self, memory: Tensor, weight: Tensor) -> Tensor:
        """Copies a weight into memory, on the stream for copies; returns it there."""


class CudaDevice:
    """Streams and memory of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copying = torch.cuda.Stream(device)

    def computing(self) -> Any:
        """Returns the current stream."""
        return torch.cuda.current_stream(self.device)

    def make(self, size: int) -> Tensor:
        """Returns memory that outlives its stream: no kernel uses what it replaces any more."""
        torch.cuda.synchronize(self.device)
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def copy(self, memory: Tensor, weight: Tensor) -> Tensor:
        """Copies a page-locked weight without waiting for it."""
        there = memory[: weight.nbytes].view(weight.dtype).view(weight.shape)
        with torch.cuda.stream(self.copying):
            return there.copy_(weight, non_blocking=True)


class WeightCopies:
    """Two places in a GPU's memory for weights that are in the host's.

    While the GPU computes with the weight in one, that which is expected next is copied to the other, behind an event
    that says that its last use is over. Expected is what came next the last time; another one is copied when it is
    asked for.

    Args:
        device: where the weights are needed.
        size: bytes of the largest weight; the places grow if a larger one comes.

    Attributes:
        expected, unexpected: numbers of visits whose weight was there, or on its way, and of others.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.device = device
        self.expected = self.unexpected = 0
        self._lock = threading.RLock()  # a backward pass runs in a thread of its own
        self._followers: dict[tuple[int, bool, bool], weakref.ref[Tensor]] = {}
        self._last: tuple[int, bool, bool] | None = None
        self._place = 0
        self._grow(size)

    def _grow(self, size: int) -> None:
        self._size = size
        self._memory = [self.device.make(size) for _ in range(BUFFERS)]
        self._held: list[tuple[weakref.ref[Tensor], int] | None] = [None] * BUFFERS
        self._copies: list[Any] = [None] * BUFFERS
        self._copied: list[Any] = [None] * BUFFERS
        self._used: list[Any] = [None] * BUFFERS

    @contextmanager
    def visit(self, weight: Tensor, backward: bool) -> Iterator[Tensor]:
        """Yields the weight on the GPU, for work that is queued inside the block.

        Args:
            weight: in page-locked memory of the host. Changes in place are seen, those through `.data` are not.
            backward: whether a gradient is computed with it, which follows other weights than a forward pass.
        """
        with self._lock:
            if weight.nbytes > self._size:
                self._grow(weight.nbytes)
            place = self._arrive(weight)
            computing = self.device.computing()
            computing.wait_event(self._copied[place])
            visit = (id(weight), backward, _in_backward_pass())
            if self._last is not None:
                self._followers[self._last] = weakref.ref(weight)
            self._last = visit
            follower = self._followers.get(visit, _nothing)()
            if follower is not None and follower is not weight:
                self._copy(follower, 1 - place)
            try:
                yield self._copies[place]
            finally:
                self._used[place] = computing.record_event()

    def _arrive(self, weight: Tensor) -> int:
        """The place that has the weight, or will when what is queued for copying is done."""
        for place in range(BUFFERS):
            if self._holds(place, weight):
                self.expected += 1
                self._place = place
                return place
        self.unexpected += 1
        self._place = 1 - self._place
        self._copy(weight, self._place)
        return self._place

    def _copy(self, weight: Tensor, place: int) -> None:
        if self._holds(place, weight):
            return
        if self._used[place] is not None:
            self.device.copying.wait_event(self._used[place])
        self._copies[place] = self.device.copy(self._memory[place], weight)
        self._copied[place] = self.device.copying.record_event()
        self._held[place] = weakref.ref(weight), weight._version

    def _holds(self, place: int, weight: Tensor) -> bool:
        """Returns whether the place has the weight as it is now."""
        held = self._held[place]
        return held is not None and held[0]() is weight and held[1] == weight._version


def _nothing() -> None:
    """Stands for a weight that is not known, or no more."""


def _in_backward_pass() -> bool:
    """Returns whether autograd runs, where checkpointed blocks compute forward again and other weights follow."""
    return bool(torch._C._current_graph_task_id() != -1)
