"""Forecasts of memory for models of random weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from alignment.memory.forecast import forecast
from alignment.memory.work import Work
from benchmarks.alignment.random_wan import build_generator


def write_configurations(architecture: str, folder: Path) -> Path:
    """The pipeline's configurations alone, as a download without weights has them."""
    pipeline = build_generator(architecture, torch.device("meta"), torch.bfloat16).pipeline
    names = [
        name
        for name in ("transformer", "transformer_2", "vae", "scheduler")
        if getattr(pipeline, name, None) is not None
    ]
    for name in names:
        getattr(pipeline, name).save_config(folder / name)
    index: dict[str, Any] = {name: ["diffusers", type(getattr(pipeline, name)).__name__] for name in names}
    index |= {"_class_name": "WanPipeline", "text_encoder": [None, None], "tokenizer": [None, None]}
    index["boundary_ratio"] = pipeline.config.boundary_ratio
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def forecast_gb(architecture: str, work: Work) -> float:
    """Forecast of the peak in GB of work on `ARCHITECTURES[architecture]`."""
    with tempfile.TemporaryDirectory() as folder:
        return forecast(write_configurations(architecture, Path(folder)), work).peak / 1e9
