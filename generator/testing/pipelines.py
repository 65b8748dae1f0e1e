"""Tiny random pipelines of diffusers' own classes, saved and loaded as the real ones are.

They have the layers, layouts and conventions of the models on the hub at 16 to 50 thousand transformer parameters
(HunyuanVideo 1.5: 4 million), so a trainer, a reward or a new family is tested in seconds without a download:

    folder = save_tiny_pipeline("wan", tmp_path)
    generator = load_generator(folder)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from generator.loading import DEFAULTS_NAME
from generator.output import InputError, write_json
from generator.testing.image_pipelines import TINY_IMAGE_PIPELINES
from generator.testing.text_pipelines import TINY_PIPELINES, TinyPipeline


def build_tiny_pipeline(family: str, seed: int = 0) -> Any:
    """The tiny pipeline of `family`, one of `all_tiny_pipelines`, with random weights from `seed`.

    Raises:
        InputError: there is no such family.
    """
    known = all_tiny_pipelines()
    if family not in known:
        raise InputError(f"There is no tiny pipeline {family!r}: choose one of {', '.join(known)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = known[family][0]()
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            # A text encoder built from a configuration is in training mode, and T5's dropout would make it random.
            component.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def all_tiny_pipelines() -> dict[str, TinyPipeline]:
    """`TINY_PIPELINES` and, for models that need an image, `image_pipelines.TINY_IMAGE_PIPELINES`."""
    return {**TINY_PIPELINES, **TINY_IMAGE_PIPELINES}


def save_tiny_pipeline(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Saves the tiny pipeline of `family` with the defaults of a tiny video; returns the folder."""
    folder = Path(folder)
    build_tiny_pipeline(family, seed).save_pretrained(folder)
    num_frames, height, width = all_tiny_pipelines()[family][1]
    write_json(
        folder / DEFAULTS_NAME,
        {"num_frames": num_frames, "height": height, "width": width, "num_inference_steps": 4},
    )
    return folder
