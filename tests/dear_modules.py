"""Order of the test modules: the dearest come first, so that no worker ends with a long one while the others wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DEAREST = (
    "alignment/trainers/test_distributed.py",
    "alignment/trainers/test_engine_precision.py",
    "alignment/memory/test_training_size.py",
    "generator/families/test_family_stages.py",
    "test_data_safety.py",
    "alignment/demo/test_demo.py",
    "generator/families/test_families.py",
    "generator/families/test_family_adapters.py",
    "generator/families/test_image_to_video.py",
    "alignment/cli/test_shared_commands.py",
    "alignment/cli/test_command_line.py",
    "test_distribution.py",
)
"""Modules of more than 20 seconds on one core, from the longest down."""


def dearest_first(paths: Iterable[Path]) -> list[int]:
    """Numbers of the paths in the order in which they run: those of `DEAREST`, then the others as they were."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(DEAREST)}
    places = [rank.get(path, len(DEAREST)) for path in paths]
    return sorted(range(len(places)), key=places.__getitem__)
