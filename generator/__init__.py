"""Makes videos: models, families, sampling, the built-in video world, video files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    # torch and diffusers take seconds to import, so `vidalign --help` must not pay for them.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'generator' has no attribute {name!r}")
