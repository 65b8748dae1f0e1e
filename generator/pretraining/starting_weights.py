"""Pipelines that a pretraining starts from: their weights, and the record of how they were trained."""

from __future__ import annotations

import json
from pathlib import Path

from generator.families.native import NativeGenerator
from generator.loading import find_pipeline, load_generator
from generator.native.pipeline import NativeVideoPipeline
from generator.output import InputError
from generator.pretraining.config import PretrainConfig


def pipeline_folder(name: str) -> Path:
    """Folder of a pipeline, or of an autoencoder alone, by its name or path."""
    return Path(name) if (Path(name) / "vae").is_dir() else find_pipeline(name)


def start_from(pipeline: NativeVideoPipeline, name: str) -> None:
    """Puts the transformer's and the text encoder's weights of another built-in pipeline into this one.

    Raises:
        InputError: `name` is no built-in pipeline, or one of another architecture.
    """
    source = load_generator(name, device="cpu")
    if not isinstance(source, NativeGenerator):
        raise InputError(f"weights_from is {name}, but must be a pipeline that `vidalign pretrain` made.")
    for part in ("transformer", "text_encoder"):
        mine = getattr(pipeline, part)
        weights = {key: value.float() for key, value in getattr(source.pipeline, part).state_dict().items()}
        shapes = {key: value.shape for key, value in mine.state_dict().items()}
        if different := sorted(
            key
            for key in shapes.keys() | weights
            if shapes.get(key) != getattr(weights.get(key), "shape", None)
        ):
            raise InputError(
                f"The {part} of {name} is of another architecture ({different[0]} differs): give the same num_layers, "
                "hidden_size, patch_size, conditioning, attention and long_skips as it was trained with."
            )
        mine.load_state_dict(weights)


def earlier_history(config: PretrainConfig) -> dict[str, list[dict[str, float]]]:
    """Recorded history of what a run starts from: of the autoencoder, and of the earlier runs in order."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, phase in ((config.autoencoder_from, "autoencoder"), (config.weights_from, "transformer")):
        path = None if name is None else pipeline_folder(name) / "metrics.json"
        if path is None or not path.is_file():
            continue
        history = json.loads(path.read_text(encoding="utf-8")).get("history", {})
        rows = [of for key, of in history.items() if key.startswith(phase)]
        if phase == "autoencoder":
            found |= {"autoencoder": rows[-1]} if rows else {}
        else:
            found |= {f"transformer, run {number}": of for number, of in enumerate(rows, start=1)}
    return found
