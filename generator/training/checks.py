"""The check of one value of a configuration."""

from __future__ import annotations

from generator.output import InputError


def check(condition: bool, name: str, value: object, expected: str) -> None:
    """Raises `InputError` that says the value found and the one expected."""
    if not condition:
        raise InputError(f"{name} is {value}, but must be {expected}.")
