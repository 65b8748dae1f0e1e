"""Trained part of a reward model's trunk: a LoRA (injected, and switched off where the bare trunk is needed) or its
own weights, found by what the features depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from generator.one_or_several import as_list

ADAPTER = "reward"


def inject_lora(transformer: nn.Module, rank: int, targets: Sequence[str]) -> dict[str, nn.Parameter]:
    """Injects a LoRA into the layers called `targets`; returns its parameters by name, none of which is trained yet."""
    targets = as_list(targets)
    from peft import LoraConfig, inject_adapter_in_model

    before = {name for name, _ in transformer.named_parameters()}
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), transformer, adapter_name=ADAPTER
    )
    transformer.requires_grad_(False)
    return {
        name: parameter
        for name, parameter in transformer.named_parameters()
        if name not in before and f".{ADAPTER}." in name
    }


def reached_parameters(parameters: dict[str, nn.Parameter], features: Callable[[], Tensor]) -> list[str]:
    """Names of those parameters that the features depend on, the others being of later blocks."""
    if not parameters:
        return []
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        total = features().sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return [name for name, gradient in zip(parameters, gradients) if gradient is not None]


def trained_weights(parameters: dict[str, nn.Parameter], features: Callable[[], Tensor]) -> nn.ParameterDict:
    """Those parameters that the features depend on, to be trained; a `/` stands for each `.` of their names."""
    names = reached_parameters(parameters, features)
    return nn.ParameterDict({name.replace(".", "/"): parameters[name].requires_grad_(True) for name in names})


@contextmanager
def without_lora(transformer: nn.Module) -> Iterator[None]:
    """Switches the reward model's LoRA off; other adapters stay as they are."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    before = [list(layer.active_adapters) for layer in layers]
    for layer, names in zip(layers, before):
        layer._active_adapter = [name for name in names if name != ADAPTER]
    try:
        yield
    finally:
        for layer, names in zip(layers, before):
            layer._active_adapter = names
