"""Values and inputs that are refused before torch is imported.

The checks are those of the arguments themselves, `__post_init__`, `check_together` and `check_inputs`, as the sources
of their classes say (`alignment.cli.command_source`). What needs more than the sources is checked once the command is
imported.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import partial
from typing import Any

from alignment.cli.command_source import SourceReader
from generator.output import InputError

logger = logging.getLogger(__name__)

CHECKS = ("__post_init__", "check_inputs")


def check_early(dataclass_types: Iterable[type], values: Namespace, checks: Iterable[str] = CHECKS) -> None:
    """Lets arguments that were read from the sources check their values, and then what they name.

    Args:
        values: of the fields, by name.
        checks: methods that are called, on all arguments one method after another, where there are such methods; on
            those of the generator last, as the hub may be asked for it.

    Raises:
        InputError: a dataclass refuses its values.
    """
    made = [_filled(dataclass_type, values) for dataclass_type in dataclass_types]
    made.sort(key=lambda arguments: hasattr(arguments, "model"))
    for check in checks:
        if check == "check_inputs":
            _check_together(made)
        for arguments in made:
            _as_far_as_it_goes(getattr(arguments, check, _nothing), f"{type(arguments).__name__}.{check}")


def _check_together(made: list[Any]) -> None:
    """Lets arguments that depend on others of the command see these (`check_together`)."""
    for arguments in made:
        if hasattr(arguments, "check_together"):
            others = [each for each in made if each is not arguments]
            _as_far_as_it_goes(
                partial(arguments.check_together, others), f"{type(arguments).__name__}.check_together"
            )


def check_training_folder(dataclass_types: Iterable[type], values: Namespace) -> None:
    """Lets the stages' source check the output folder of a training of a generator; other arguments pass.

    Raises:
        InputError: the folder is in use, or holds nothing to go on from.
    """
    for dataclass_type in dataclass_types:
        if dataclass_type.__module__.startswith("alignment.trainers."):
            stage = SourceReader().module("alignment.stages.stage")
            config = _filled(dataclass_type, values)
            _as_far_as_it_goes(partial(stage.checkpoint_to_resume, config), "checkpoint_to_resume")


def _as_far_as_it_goes(check: Callable[[], Any], name: str) -> None:
    """Calls a check that was read from the sources.

    Half a class, without the libraries that it needs, can fail in any way; the command itself, which is asked next,
    then tells what is wrong, if anything is.
    """
    try:
        check()
    except InputError:
        raise
    except Exception as error:
        logger.info("%s is left to the command itself (%s: %s).", name, type(error).__name__, error)


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
