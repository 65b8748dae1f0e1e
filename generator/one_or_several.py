"""Arguments that take several texts or files, and one of them alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


def as_list(values: Item | Iterable[Item]) -> list[Item]:
    """A list of `values`; one text or path is a list of one, not of its letters."""
    if isinstance(values, str | Path):
        return [values]  # type: ignore[list-item]
    return list(values)  # type: ignore[arg-type]
