"""Dataclasses to command-line arguments: TRL's parser with checked YAML, nearest names and readable help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import math
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from trl import TrlParser

from alignment.config_files import find_config
from generator.output import InputError, check_storable, read_text


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
        super().__init__(list[Any](dataclass_types), prog=prog, allow_abbrev=False, add_help=False)
        self.summary, self.example = summary, example

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        if kwargs.get("type") is float:
            kwargs["type"] = _number
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
                raise InputError(f"There is no argument {name}; {self._nearest(name[2:], '--')}.")
        if config_path is not None:
            self._apply_config(config_path)
        namespace, rest = self.parse_known_args(flags)
        if rest:
            raise InputError(f"{rest[0]!r} is not expected: arguments are written --name value.")
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
        """Own arguments with help and default, group by group; inherited trainer arguments by name only."""
        width = min(shutil.get_terminal_size().columns, 110)
        parts = [f"usage: {self.prog} [--config FILE.yaml] [--ARGUMENT VALUE …]", self.summary]
        if self.example:
            parts.append(f"example:\n  {self.example}")
        inherited: list[str] = []
        for dtype in self.dataclass_types:
            own = [field for field in _init_fields(dtype) if not _is_trainer_field(dtype, field.name)]
            names = {field.name for field in own}
            inherited += [field.name for field in _init_fields(dtype) if field.name not in names]
            own.sort(key=lambda field: not _is_required(field))
            described = [_describe(field, width) for field in own]
            parts.append("\n".join([f"{_title(dtype)}:", *described]))
        general = "general:\n  --config FILE.yaml\n      Arguments as YAML; flags win over it.\n"
        parts.append(general + "  --verbose\n      Show what the libraries have to say.")
        if inherited:
            listed = textwrap.fill(
                ", ".join(inherited),
                width,
                initial_indent="  ",
                subsequent_indent="  ",
                break_on_hyphens=False,
            )
            parts.append(f"Trainer arguments (all of transformers.TrainingArguments work):\n{listed}")
        return "\n\n".join(part for part in parts if part)

    def _nearest(self, name: str, prefix: str = "") -> str:
        known = sorted({action.dest for action in self._actions})
        nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0)
        return f"the nearest is {prefix}{nearest[0]}: see {self.prog} --help" if nearest else "there are none"

    def _apply_config(self, path: Path) -> None:
        config = _read_config(path)
        environment = config.pop("env", None) or {}
        if not isinstance(environment, dict):
            raise InputError(f"`env` in {path} must map names of environment variables to values.")
        os.environ.update({key: str(value) for key, value in environment.items()})
        actions = {action.dest: action for action in self._actions if action.option_strings}
        for action in self._actions:
            # `--no_x` shares the destination of `--x`, which stands first and knows the type.
            if action.nargs != 0:
                actions[action.dest] = action
        values = {}
        for key, value in config.items():
            if key not in actions:
                raise InputError(f"{path} has the unknown key `{key}`; {self._nearest(str(key))}.")
            values[key] = _converted(actions[key], value, path)
        self.set_defaults_with_config(**values)


def _number(text: str) -> float:
    """A float; NaN would pass every comparison that guards a setting, and end in a model that is lost."""
    number = float(text)
    if math.isnan(number):
        raise ValueError("NaN is no number to compute with.")
    return number


_number.__name__ = "float"  # as messages call it


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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {reason}.") from error
    if config is None:
        return {}
    check_storable(config, str(path))
    if not isinstance(config, dict):
        raise InputError(f"{path} must map argument names to values, found a {type(config).__name__}.")
    return config


def _converted(action: argparse.Action, value: Any, path: Path) -> Any:
    """A value from YAML as the flag of the same name would have given it."""
    if value is None or isinstance(value, dict):
        return value
    if action.nargs == "+":
        return [
            _converted_item(action, item, path) for item in (value if isinstance(value, list) else [value])
        ]
    return value if isinstance(value, list) and action.type is str else _converted_item(action, value, path)


def _converted_item(action: argparse.Action, value: Any, path: Path) -> Any:
    if isinstance(value, bool) and action.choices is not None:
        # YAML reads a bare no or yes as a truth value.
        value = "yes" if value else "no"
    convert: Any = action.type or str
    try:
        converted = convert(str(value))
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        expected = {"string_to_bool": "true or false"}.get(getattr(convert, "__name__", ""))
        expected = expected or getattr(convert, "__name__", "another type")
        raise InputError(f"`{action.dest}` in {path} is {value!r}, expected {expected}.") from error
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"`{action.dest}` in {path} is {value!r}, expected one of {choices}.")
    return converted


def _init_fields(dtype: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(dtype) if field.init]


def _is_trainer_field(dtype: type, name: str) -> bool:
    """Whether a field is one that a class of ours inherits unchanged from transformers."""
    owner = next((cls for cls in dtype.__mro__ if name in inspect.get_annotations(cls)), dtype)
    return owner.__module__.startswith("transformers.") and owner is not dtype


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _title(dtype: type) -> str:
    """The first line of the docstring, or the name of the class where dataclasses wrote the docstring."""
    documentation = (dtype.__doc__ or "").strip()
    if not documentation or documentation.startswith(f"{dtype.__name__}("):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", dtype.__name__).lower()
    return documentation.splitlines()[0].rstrip(".:")


def _describe(field: dataclasses.Field[Any], width: int) -> str:
    text = " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
    if get_origin(field.type) is Literal:
        text += f" One of {', '.join(map(str, get_args(field.type)))}."
    if _is_required(field):
        text += " (required)"
    else:
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = getattr(default, "value", default)
        text += " (default: not set)" if shown in (None, "", []) else f" (default: {shown})"
    indent = " " * 6
    body = textwrap.fill(text.strip(), width, initial_indent=indent, subsequent_indent=indent)
    metavar = "" if field.type is bool else f" {field.name.upper()}"
    return f"  --{field.name}{metavar}\n{body}"
