"""Activations that wait for the backward pass in the host's memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from alignment.trainers.base_config import AlignmentConfig

SMALLEST = 2**20
"""Bytes of a tensor that is worth a copy."""


def activation_offloading(model: nn.Module, args: AlignmentConfig) -> AbstractContextManager[Any]:
    """Context of each training step, forward and backward; without effect on a CPU, whose memory the host's is.

    Args:
        model: what is trained, whose weights stay where they are.
    """
    if not args.activation_offloading or args.device.type == "cpu":
        return nullcontext()
    from trl.models.activation_offloading import OffloadActivations

    context = OffloadActivations(min_offload_size=SMALLEST)
    context.update_model_params(model)
    return context
