"""Arguments that take several texts or files, and one of them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def as_list(values: Any) -> list[Any]:
    """A list of `values`; one text or path is a list of one, not of its letters."""
    if isinstance(values, str | Path):
        return [values]
    return list(values)
