"""Values and inputs that are refused before torch is imported.

The checks are those of the arguments themselves, `__post_init__` and `check_inputs`, as the sources of their classes
say (`alignment.cli.command_source`). What needs more than the sources is checked once the command is imported.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

from generator.output import InputError

CHECKS = ("__post_init__", "check_inputs")


def check_early(dataclass_types: Iterable[type], values: Namespace, checks: Iterable[str] = CHECKS) -> None:
    """Lets arguments that were read from the sources check their values, and then what they name.

    Args:
        values: of the fields, by name.
        checks: methods that are called, on all arguments one method after another, where there are such methods.

    Raises:
        InputError: a dataclass refuses its values.
    """
    made = [_filled(dataclass_type, values) for dataclass_type in dataclass_types]
    for check in checks:
        for arguments in made:
            try:
                getattr(arguments, check, _nothing)()
            except InputError:
                raise
            except Exception:  # the command itself tells what is wrong, if anything is
                continue


def _filled(dataclass_type: type, values: Namespace) -> Any:
    """An instance with these values, or their defaults, and nothing checked yet."""
    arguments: Any = object.__new__(dataclass_type)
    for each in fields(dataclass_type):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        with suppress(AttributeError):  # a property of that name
            setattr(arguments, each.name, getattr(values, each.name, default))
    return arguments


def _nothing() -> None:
    """Stands for a check that a dataclass does not have."""
