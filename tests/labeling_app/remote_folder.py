"""A folder of candidates in a storage that fsspec knows, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec


def put(url: str, candidates: Path) -> None:
    """Writes two prompts of two videos each to a URL."""
    names = [f"secret-model-{prompt:03d}-{index}.mp4" for prompt in (0, 1) for index in (0, 1)]
    for name in names:
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write((candidates / name).read_bytes())
    rows = [{"file_name": name, "prompt": f"prompt {name[13:16]}"} for name in names]
    with fsspec.open(f"{url}/metadata.jsonl", "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
