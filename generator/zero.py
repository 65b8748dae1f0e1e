"""Weights under DeepSpeed ZeRO-3, which divides them among the processes: loaded whole, and whole again for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


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
