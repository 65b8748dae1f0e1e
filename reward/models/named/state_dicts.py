"""Weights that other projects publish as plain state dictionaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from generator.output import InputError


def linear_layers(state: Mapping[str, Tensor], prefix: str, path: Path) -> nn.Sequential:
    """The linear layers `PREFIX.N.weight`, `PREFIX.N.bias` in the order of N, float32 and frozen; what lies between
    them in upstream's heads is dropout.

    Raises:
        InputError: there are none, other keys, or their sizes do not follow each other.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(weight|bias)", key)
        if match is None:
            raise InputError(
                f"{path} holds {key}, but only {prefix}.N.weight and .bias were expected: check the file."
            )
        found.setdefault(int(match[1]), {})[match[2]] = value.float()
    layers: list[nn.Linear] = []
    for number in sorted(found):
        weight = found[number]["weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        if layers and layers[-1].out_features != layer.in_features:
            raise InputError(
                f"The layers of {path} do not follow each other at {prefix}.{number}: check the file."
            )
        layer.load_state_dict(found[number])
        layers.append(layer)
    if not layers or layers[-1].out_features != 1:
        raise InputError(f"{path} holds no head {prefix}.N that ends in one number: check the file.")
    return nn.Sequential(*layers).requires_grad_(False).eval()


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], path: Path, unused: str = "") -> None:
    """Loads a converted state dictionary.

    Args:
        unused: pattern of keys of the model that the checkpoint has none for, and that are not used.

    Raises:
        InputError: another key is missing or unexpected, or a tensor has another size.
    """
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise InputError(f"The sizes in {path} do not fit ({' '.join(str(error).split())[:200]}).") from error
    missing = [key for key in missing if not (unused and re.match(unused, key))]
    if missing or unexpected:
        wrong = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is not known"
        raise InputError(f"{path} does not have the published layout: {wrong}.")
    model.requires_grad_(False).eval()
