"""Conversion of frames from one pixel format or size to another."""

from __future__ import annotations

from typing import Any

import av

SMALL_SIDE = 256
"""Side of the largest square for which threads cost more time than they save, in encoding and in conversion."""

_HAS_THREADS = int(av.__version__.partition(".")[0]) >= 17
"""PyAV converts a frame in several threads, one a core unless it is told otherwise."""


def reformatted(frame: Any, **how: Any) -> Any:
    """Converts a `VideoFrame`, a small one in one thread.

    Args:
        how: arguments of `VideoFrame.reformat`.
    """
    width, height = how.get("width") or frame.width, how.get("height") or frame.height
    if _HAS_THREADS and max(width * height, frame.width * frame.height) <= SMALL_SIDE**2:
        how["threads"] = 1
    return frame.reformat(**how)
