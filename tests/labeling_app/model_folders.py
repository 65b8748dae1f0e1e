"""Small folders of videos of several models, without their pixels where nobody looks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def write_model(
    folder: Path,
    shade: int,
    prompts: Sequence[str],
    seeds: Sequence[int | None] = (0,),
    size: int = 64,
    models: Sequence[str] = (),
) -> Path:
    """A folder as `generate` writes it, or, with `models`, as `evaluate` does: two frames of one shade a video."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for model in models or [""]:
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                name = f"{model or folder.name}-{number}-{seed}.mp4"
                _write_clip(folder / name, shade + 20 * (len(rows) % 5), size, number)
                row: dict[str, object] = {"file_name": name, "prompt": prompt}
                rows.append(
                    row | ({"seed": seed} if seed is not None else {}) | ({"model": model} if model else {})
                )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _write_clip(path: Path, shade: int, size: int, mark: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        picture = np.full((size, size, 3), shade, dtype=np.uint8)
        picture[: 1 + mark % size] = 255 - shade
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
