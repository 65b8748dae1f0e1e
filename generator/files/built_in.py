"""The models and adapters that ship with the package."""

from __future__ import annotations

from pathlib import Path

PRETRAINED = Path(__file__).parents[1] / "pretrained"
ADAPTER_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def is_built_in(model: str) -> bool:
    """Returns whether a name is that of a shipped model."""
    return "/" not in model and (PRETRAINED / model / "model_index.json").is_file()


def find_adapter(name_or_path: str | Path) -> Path:
    """The folder of a built-in adapter for its name; any other path as it is."""
    built_in = PRETRAINED / str(name_or_path)
    return built_in if (built_in / ADAPTER_WEIGHTS_NAME).is_file() else Path(name_or_path)
