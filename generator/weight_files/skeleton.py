"""A model's transformers without weights, built from the configurations in its folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn

from generator.output import InputError, read_json

COMPONENTS = ("transformer", "transformer_2")


def transformer_class(folder: Path, component: str = "transformer") -> Any:
    """Class of a transformer by the `model_index.json` of its folder; None where the pipeline has none.

    Raises:
        InputError: it is no class of diffusers.
    """
    library, name = (read_json(folder / "model_index.json").get(component) or [None, None])[:2]
    if name is None:
        return None
    found = getattr(importlib.import_module("diffusers"), name, None) if library == "diffusers" else None
    if found is None:
        raise InputError(
            f"The transformer of {folder} is {library}.{name}, of which no other tool has files: leave such files out."
        )
    return found


def empty_transformer(folder: Path, component: str = "transformer") -> Any:
    """A transformer whose parameters are on the device `meta`, its buffers as they are; None where the pipeline has
    none of that name."""
    kind = transformer_class(folder, component)
    if kind is None:
        return None
    configuration = folder / component / "config.json"
    if not configuration.is_file():
        raise InputError(f"{configuration} is missing, which says how the transformer is built: restore it.")
    with init_empty_weights(include_buffers=False):
        return kind.from_config(kind.load_config(folder / component)).eval()


def model_skeleton(folder: Path) -> nn.Module:
    """The transformer of a folder without weights; of a model of two transformers, a module that has both."""
    first, second = (empty_transformer(folder, component) for component in COMPONENTS)
    first = first or empty_transformer(folder, "unet")
    if first is None:
        raise InputError(f"{folder} has no transformer: give the folder of a text-to-video model.")
    if second is None:
        return first
    return nn.ModuleDict({"transformer": first, "transformer_2": second})
