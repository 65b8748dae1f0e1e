"""Order of the test modules: the dearest come first, so that no worker ends with a long one while the others wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DEAREST = (
    "alignment/trainers/test_distributed.py",
    "alignment/memory/test_forecast.py",
    "alignment/trainers/test_context_parallel.py",
    "alignment/memory/test_training_size.py",
    "alignment/trainers/test_engine_precision.py",
    "labeling_app/web/test_browser.py",
    "labeling_app/web/test_page_browser.py",
    "generator/families/test_family_stages.py",
    "labeling_app/web/test_server.py",
    "alignment/demo/test_demo.py",
    "test_data_safety.py",
    "alignment/trainers/test_image_rollouts.py",
    "generator/families/test_families.py",
    "generator/families/test_family_adapters.py",
    "generator/world/test_verify.py",
    "labeling_app/web/test_oversight_browser.py",
    "labeling_app/web/test_lead_api.py",
    "alignment/cli/test_shared_commands.py",
    "generator/families/test_image_to_video.py",
    "alignment/cli/test_command_line.py",
    "test_distribution.py",
)
"""Modules of about 20 seconds and more on one core, with the processes and browsers that they start, about from the
longest down: those that launch two processes are apart, as each takes both cores."""


def dearest_first(paths: Iterable[Path]) -> list[int]:
    """Numbers of the paths in the order in which they run: those of `DEAREST`, then the others as they were."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(DEAREST)}
    places = [rank.get(path, len(DEAREST)) for path in paths]
    return sorted(range(len(places)), key=places.__getitem__)
