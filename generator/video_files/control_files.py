"""`ControlFiles`: files that steer a video."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ControlFiles(NamedTuple):
    """A control video and its mask, in the place of a first and a last image."""

    control_video: str | Path
    mask: str | Path | None
