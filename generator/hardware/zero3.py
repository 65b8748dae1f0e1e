"""Weights under DeepSpeed ZeRO-3, which divides them among the processes: loaded whole, and whole again for a while."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


def zero_stage(arguments: Any) -> int:
    """The ZeRO stage that training arguments ask for, by their own configuration or by the launcher's; 0 without
    DeepSpeed."""
    plugin = getattr(arguments, "deepspeed_plugin", None)
    return 0 if plugin is None else int(plugin.zero_stage)


@contextmanager
def outside_engine() -> Iterator[None]:
    """Inside, models load whole under DeepSpeed ZeRO-3 too.

    transformers otherwise partitions every model that it loads while a ZeRO-3 configuration is alive, which no
    engine would gather again: text encoders and reward models belong to no engine, and the transformer that is
    trained is partitioned by its engine later.
    """
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


def gather_as_one(module: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Makes ZeRO-3 gather each of the blocks in `module` at once, instead of every layer in it.

    Otherwise each small layer, such as the two of a LoRA, has four hooks and messages of its own in every pass. It is
    for losses that call each block once: of two calls in one graph, DeepSpeed would take the first one's gradients
    for all.

    Raises:
        RuntimeError: later, where a block is called again, with gradients, before its backward pass.
    """
    from deepspeed.utils import set_z3_leaf_modules

    blocks = list(blocks)
    if not blocks:
        return
    set_z3_leaf_modules(module, sorted({type(block) for block in blocks}, key=lambda kind: kind.__name__))
    called: set[nn.Module] = set()
    for block in blocks:
        signature = inspect.signature(block.forward)
        block.register_forward_pre_hook(partial(_with_gradient, signature, called), with_kwargs=True)
        block.register_full_backward_hook(lambda block, *_: called.discard(block))


def _with_gradient(
    signature: inspect.Signature,
    called: set[nn.Module],
    block: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs as DeepSpeed must see them, which takes a block's gradients when those of its inputs are there: by
    position, and one at least with a gradient."""
    bound = signature.bind(*inputs, **named)
    if torch.is_grad_enabled():
        if block in called:
            raise RuntimeError("A block that ZeRO-3 gathers as one was called twice in one loss.")
        called.add(block)
        first = bound.args[0]
        if not first.requires_grad:
            first.requires_grad_()
    return bound.args, bound.kwargs


@contextmanager
def whole_weights(parameters: Iterable[nn.Parameter], changed: bool = False) -> Iterator[None]:
    """Inside, the parameters are whole on every process; without ZeRO-3 they always are.

    All processes must enter together.

    Args:
        changed: what the first process writes into them inside becomes the value on all.
    """
    divided = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not divided:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(divided, modifier_rank=0 if changed else None):
        yield
