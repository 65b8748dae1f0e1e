"""States of optimisers in checkpoints: FSDP's name the weights, those of other engines count them.

Both hold whole tensors, so that a checkpoint goes on with FSDP or without, whatever wrote it, and on any number of
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

from generator.output import InputError

COUNTED, NAMED = "optimizer.pt", "optimizer.bin"
"""Files of a checkpoint, without and with FSDP."""


def load_optimizer(folder: Path, model: nn.Module, optimizer: Any, divided: bool) -> None:
    """Loads the optimiser's state of a checkpoint, whether FSDP wrote it or not.

    Args:
        folder: the checkpoint.
        model: whose weights are optimised.
        divided: whether FSDP divides them now.

    Raises:
        InputError: the state is of other weights.
    """
    names = names_by_group(model, optimizer)
    named = (folder / NAMED).is_file()
    state = torch.load(folder / (NAMED if named else COUNTED), map_location="cpu", weights_only=True)
    kept = sum(len(group["params"]) for group in state["param_groups"])
    if kept != sum(map(len, names)):
        raise InputError(
            f"The optimiser of the checkpoint {folder} has {kept} weights, but this run trains "
            f"{sum(map(len, names))}: resume with the settings that it was started with."
        )
    if divided:
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(
            model, optimizer, state if named else with_names(state, names), options=options
        )
    else:
        optimizer.load_state_dict(with_numbers(state, names) if named else state)


def names_by_group(model: nn.Module, optimizer: Any) -> list[list[str]]:
    """Names of the optimised weights of each group, in the optimiser's order."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def with_names(state: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """An optimiser's state with the weights' names in place of their numbers, which count through all groups."""
    flat = [name for group in names for name in group]
    return {
        "state": {flat[number]: value for number, value in state["state"].items()},
        "param_groups": [
            {**group, "params": list(own)} for group, own in zip(state["param_groups"], names, strict=True)
        ],
    }


def with_numbers(state: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """An optimiser's state with the weights' numbers in the order of `names`, in place of their names."""
    numbers = {name: number for number, name in enumerate(name for group in names for name in group)}
    return {
        "state": {numbers[name]: value for name, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in own]}
            for group, own in zip(state["param_groups"], names, strict=True)
        ],
    }
