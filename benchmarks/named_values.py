"""Settings as `name=value` words of a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


def named_values(words: Iterable[str]) -> dict[str, Any]:
    """Names and values of `name=value` words; values are YAML, numbers such as 1e-3 too."""
    found = {}
    for word in words:
        name, _, text = word.partition("=")
        value = yaml.safe_load(text)
        try:
            found[name] = float(value) if isinstance(value, str) else value
        except ValueError:
            found[name] = value
    return found
