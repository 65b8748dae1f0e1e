"""Rewards that a compared model was trained on: as measures of it they are no evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from generator.adapters.adapters import ADAPTER_FILES, TRAINING_NAME
from generator.output import InputError, read_json
from reward.models.named import registry


def rewards_of_training(adapter: str | Path) -> list[str]:
    """Names of the rewards that the training of an adapter (a folder or its file) optimised, behind a service those
    that it served; none where its record says none."""
    path = Path(adapter)
    record = (path.parent if path.name in ADAPTER_FILES else path) / TRAINING_NAME
    try:
        found: Any = read_json(record) if record.is_file() else {}
    except (OSError, InputError):
        return []
    rewards = found.get("rewards") if isinstance(found, dict) else None
    if not isinstance(rewards, list):
        return []
    return [str(each.get("service", each).get("name", "")) for each in rewards if isinstance(each, dict)]


def known_measures(
    trained_on: Mapping[str, Iterable[str]], verifier: str, measures: Iterable[str] = ()
) -> list[str]:
    """A sentence for each model that was trained on what it is measured with.

    Args:
        trained_on: names of the rewards of each model's training.
        verifier, measures: names of what judges now. Names of the registry are the same reward whatever their
            dimension, options and place.
    """
    judges = {_root(name): name for name in (*measures, verifier)}
    sentences = []
    for model, rewards in trained_on.items():
        shared = [judges[_root(name)] for name in rewards if _root(name) in judges]
        if shared:
            sentences.append(
                f"{model} was trained on {', '.join(dict.fromkeys(shared))}: that is no evidence of better "
                "videos."
            )
    return sentences


def _root(name: str) -> str:
    entry = registry.find(name)
    return name if entry is None else entry.name
