"""Makes videos: models, families, sampling, the built-in video world, video files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.lazy_names import lazy_names

if TYPE_CHECKING:
    from generator.base import VideoGenerator
    from generator.loading import load_generator
    from generator.output import InputError

__all__ = ["InputError", "VideoGenerator", "load_generator"]

_HOMES = {
    "InputError": "generator.output",
    "VideoGenerator": "generator.base",
    "load_generator": "generator.loading",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
