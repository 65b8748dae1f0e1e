"""Gradients that the processes add up once an optimiser step, not once a micro-batch, under DeepSpeed.

DDP and FSDP wait by themselves for the last micro-batch. ZeRO-2 and ZeRO-3 reduce each one's gradients, so that no
process ever holds those of all weights; of an adapter these are few.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from accelerate.utils.deepspeed import DeepSpeedEngineWrapper
from torch.nn import Parameter

FEW = 0.1
"""Share of the weights up to which the gradients of all trained ones are kept between micro-batches."""
FEW_BYTES = 2**29
"""Memory up to which they are kept in any case."""


def are_few(parameters: Iterable[Parameter]) -> bool:
    """Returns whether the trained weights are few or small; those that ZeRO-3 divides count whole."""
    trained = total = memory = 0
    for parameter in parameters:
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        total += size
        if parameter.requires_grad:
            trained += size
            memory += size * parameter.element_size()
    return trained <= FEW * total or memory <= FEW_BYTES


class ReducingOnce(DeepSpeedEngineWrapper):
    """DeepSpeed's engine for `Accelerator.backward`, whose gradients stay with their process until the last micro-batch
    of a step.

    Every `backward` but those of steps of one micro-batch runs within the engine's `coalesce_grad_reduction`, which
    DeepSpeed has from 0.19 on; an older one goes on to reduce each micro-batch.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self._collecting: AbstractContextManager[Any] | None = None

    def backward(self, loss: Any, sync_gradients: bool = True, **kwargs: Any) -> None:
        """Computes gradients, and with `sync_gradients` reduces those of all micro-batches and takes a step."""
        if self._collecting is None and sync_gradients:
            super().backward(loss, sync_gradients=True, **kwargs)
            return
        if self._collecting is None:
            self._collecting = self.engine.coalesce_grad_reduction()
            self._collecting.__enter__()
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss, **kwargs)
        if sync_gradients:
            collecting, self._collecting = self._collecting, None
            collecting.__exit__(None, None, None)
            self.engine.set_gradient_accumulation_boundary(is_boundary=True)
            self.engine.step()


def reduce_once(accelerator: Any, parameters: Iterable[Parameter]) -> None:
    """Lets an accelerator with DeepSpeed reduce gradients once a step, where few weights are trained."""
    wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
    engine = getattr(wrapped, "engine", None)
    if engine is None or isinstance(wrapped, ReducingOnce) or not hasattr(engine, "coalesce_grad_reduction"):
        return
    if engine.zero_optimization_stage() in (1, 2, 3) and are_few(parameters):
        accelerator.deepspeed_engine_wrapped = ReducingOnce(engine)
