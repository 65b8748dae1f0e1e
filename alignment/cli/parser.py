"""Dataclasses to command-line arguments: TRL's parser with checked YAML, nearest names and readable help."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import TrlParser

from alignment.cli.command_help import command_help
from alignment.cli.config_files import find_config
from alignment.cli.config_values import DEFAULT, converted, environment_values, read_config
from alignment.cli.launcher import LaunchArguments
from generator.output import InputError

NEAR = 0.6
"""Similarity, from 0 to 1, from which a name is taken for a slip of another."""


class CommandParser(TrlParser):
    """Parses flags and `--config FILE.yaml` into dataclasses.

    Flags win over the file, the file over the defaults. A mistake is an `InputError` of one sentence; an unknown
    key names the nearest known one.

    Args:
        dataclass_types: the arguments, every field documented by `metadata={"help": ...}`.
        prog: how the command is called, for example `vidalign ppo`.
        summary: what it does, in one line.
        example: a command line.
    """

    def __init__(
        self, dataclass_types: Sequence[type], prog: str, summary: str = "", example: str = ""
    ) -> None:
        # The parser of transformers reduces the types of the fields to what argparse knows.
        self.hints = {name: hint for dtype in dataclass_types for name, hint in get_type_hints(dtype).items()}
        super().__init__(list[Any](dataclass_types), prog=prog, allow_abbrev=False, add_help=False)
        self.summary, self.example = summary, example

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        if getattr(kwargs.get("type"), "__name__", "") == "float":
            kwargs["type"] = _number(kwargs["type"])
        # argparse takes a lone % for a format; in our help texts it means per cent.
        if isinstance(kwargs.get("help"), str):
            kwargs["help"] = re.sub(r"(?<!%)%(?![%(])", "%%", kwargs["help"])
        return super().add_argument(*args, **kwargs)

    def check(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of all flags and of the file, without building a dataclass.

        Raises:
            InputError: unknown, missing or ill-typed arguments, or an unusable file.
        """
        flags, config_path = _split_config(arguments)
        for flag in flags:
            name = flag.split("=")[0]
            if name.startswith("--") and len(name) > 2 and name not in self._option_string_actions:
                raise InputError(f"There is no argument {name}; {self._advice(name[2:], '--')}.")
        if config_path is not None:
            self._apply_config(config_path)
        namespace, rest = self.parse_known_args(flags)
        if rest:
            raise InputError(f"{rest[0]!r} is not expected: arguments are written --name value.")
        for name, value in vars(namespace).items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, int) and not isinstance(each, bool):
                    check_integer(name, each)
        return namespace

    def build(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """One instance a dataclass, in their order.

        Raises:
            InputError: as `check`, or a dataclass refuses its values.
        """
        self.check(arguments)
        flags, _ = _split_config(arguments)
        try:
            return self.parse_args_into_dataclasses(args=flags, look_for_args_file=False)
        except InputError:
            raise
        except (ValueError, ImportError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"argument (--\w+)(/--[\w-]+)?:", r"\1:", message)
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)
        raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

    def format_help(self) -> str:
        """Arguments with help and default, group by group; those of transformers that few need by name only."""
        return command_help(
            self.prog, self.summary, self.example, list(self.dataclass_types), LaunchArguments
        )

    def _advice(self, name: str, prefix: str = "") -> str:
        """Advice about an unknown argument: the nearest one, or where it belongs."""
        name = name.replace("-", "_")
        if name in LaunchArguments.__dataclass_fields__:
            return f"{self.prog} runs in one process: leave it out"
        known = sorted({action.dest for action in self._actions})
        if not known:
            return f"{self.prog} takes none"
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=NEAR)
        told = f"the nearest is {prefix}{nearest[0]}: " if nearest else ""
        return f"{told}see {self.prog} --help"

    def _apply_config(self, path: Path) -> None:
        config = read_config(path)
        environment = config.pop("env", None)
        if environment is not None:
            os.environ.update(environment_values(environment, path))
        actions = {action.dest: action for action in self._actions if action.option_strings}
        for action in self._actions:
            # `--no_x` shares the destination of `--x`, which stands first and knows the type.
            if action.nargs != 0:
                actions[action.dest] = action
        values = {}
        for key, node in config.items():
            if key not in actions:
                raise InputError(f"{path} has the unknown key `{key}`; {self._advice(key)}.")
            value = converted(actions[key], self.hints.get(key, str), node, path)
            if value is not DEFAULT:
                values[key] = value
        self.set_defaults_with_config(**values)


def check_integer(name: str, value: int) -> None:
    """Raises `InputError` for a number that no seed, port or size of this name can be."""
    if name == "seed" or name.endswith("_seed"):
        low, high = 0, 2**32 - 1
    elif name == "port" or name.endswith("_port"):
        low, high = 0, 2**16 - 1
    else:
        low, high = 1 - 2**31, 2**31 - 1
    if not low <= value <= high:
        raise InputError(f"{name} is {value}, but must be between {low} and {high}.")


def _number(convert: Callable[[str], float | None]) -> Callable[[str], float | None]:
    """Converts as `convert`, but refuses NaN, which would pass every comparison that guards a setting, and end in a
    model that is lost."""

    def number(text: str) -> float | None:
        value = convert(text)
        if value is not None and math.isnan(value):
            raise ValueError("NaN is no number to compute with.")
        return value

    number.__name__ = "float"  # as messages call it
    return number


def _split_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE`, and FILE."""
    flags, path = [], None
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            path = next(remaining, "")
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
        else:
            flags.append(argument)
    if path is not None and (not path or path.startswith("--")):
        raise InputError("--config needs the path of a YAML file: write --config FILE.yaml.")
    return flags, None if path is None else find_config(path)
