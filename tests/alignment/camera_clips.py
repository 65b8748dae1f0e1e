"""Camera clips for tests: those that gradio's wheel holds, up to 209 frames of 1920x1080 and 901 of 480x270."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

NAMES = ["a.mp4", "b.mp4", "world.mp4"]


def copy_camera_clips(folder: Path) -> Path:
    """Copies the clips into a folder, as demonstrations with captions; returns the folder."""
    specification = find_spec("gradio")
    assert specification is not None
    assert specification.origin is not None
    source = Path(specification.origin).parent / "media_assets" / "videos"
    for name in NAMES:
        shutil.copy(source / name, folder / name)
    lines = [json.dumps({"file_name": name, "prompt": f"a clip called {name}"}) for name in NAMES]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
