"""Keeps our packages together: they are imported from where `alignment` was, whatever else has their names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("generator", "reward", "labeling_app", "alignment")
_FOLDER = str(Path(__file__).resolve().parents[1])


class SiblingFinder(MetaPathFinder):
    """Finds the packages beside this one before the Python path is searched.

    A `reward.py` of the user on `PYTHONPATH`, or a folder `reward/` in the working directory of `python -m`, would
    otherwise be taken for ours.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [_FOLDER]) if fullname in PACKAGES else None


def keep_together() -> None:
    """Puts a `SiblingFinder` before the other finders of modules, once."""
    if not any(isinstance(finder, SiblingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SiblingFinder())
