"""Arguments from a YAML file, as flags of the same names would have given them."""

from __future__ import annotations

import argparse
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from generator.output import InputError, check_storable, read_text

NULL, BOOL, FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "float"))
DEFAULT = object()
"""Stands for an empty value, which means that the argument keeps its default."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, as Python does and YAML 1.1 does not."""


_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_config(path: Path) -> dict[str, yaml.Node]:
    """The unresolved value of each key of a YAML file.

    Raises:
        InputError: it is not YAML, does not map names to values, or has a name twice.
    """
    try:
        node = yaml.compose(read_text(path), _Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {reason}.") from error
    if node is None or node.tag == NULL:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path} must map argument names to values, found a {_kind(node)}.")
    return _pairs(node, path)


def environment_values(node: yaml.Node, path: Path) -> dict[str, str]:
    """Environment variables, as written.

    Raises:
        InputError: they are not names with one value each.
    """
    if node.tag == NULL:
        return {}
    if isinstance(node, yaml.MappingNode):
        values = _pairs(node, path)
        if all(isinstance(value, yaml.ScalarNode) for value in values.values()):
            return {name: "" if value.tag == NULL else value.value for name, value in values.items()}
    raise InputError(f"`env` in {path} must map names of environment variables to values.")


def converted(action: argparse.Action, hint: Any, node: yaml.Node, path: Path) -> Any:
    """The value of an argument.

    A text is taken as it is written (`2025_01_31`, `12:30`, `010`, `on`).

    Args:
        action: the argument's flag.
        hint: the type of the argument in its dataclass.
        path: the file, for messages.

    Returns:
        The value; `DEFAULT` where there is none, None where `null` is written and the argument may be none.

    Raises:
        InputError: it has another type, or is none of the choices.
    """
    kinds = {get_origin(part) or part for part in _parts(hint)}
    if node.tag == NULL:
        return None if node.value and type(None) in kinds else DEFAULT
    if isinstance(node, yaml.MappingNode) and dict in kinds:
        return _Loader("").construct_document(node)
    if isinstance(node, yaml.SequenceNode) and list in kinds:
        return [_scalar(action, item, path) for item in node.value]
    value = _scalar(action, node, path)
    return [value] if action.nargs == "+" else value


def _scalar(action: argparse.Action, node: yaml.Node, path: Path) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"`{action.dest}` in {path} is a {_kind(node)}, expected one value.")
    if node.tag == NULL:
        raise InputError(f"`{action.dest}` in {path} has an empty item: give it a value or take it out.")
    convert: Any = action.type or str
    expected = getattr(convert, "__name__", "another type")
    text = node.value
    check_storable(text, str(path))
    if node.tag == FLOAT:
        text = re.sub(r"\.(inf|nan)$", r"\1", text, flags=re.IGNORECASE)
    if expected == "string_to_bool":
        expected = "true or false"
        if node.tag == BOOL:
            text = str(yaml.SafeLoader.bool_values[text.lower()])
    try:
        value = convert(text)
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        found = text if node.tag == FLOAT else repr(node.value)
        raise InputError(f"`{action.dest}` in {path} is {found}, expected {expected}.") from error
    if action.choices is not None and value not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"`{action.dest}` in {path} is {node.value!r}, expected one of {choices}.")
    return value


def _pairs(node: yaml.MappingNode, path: Path) -> dict[str, yaml.Node]:
    pairs: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{path} must map argument names to values, found a {_kind(key)} for a name.")
        if key.value in pairs:
            raise InputError(f"{path} has the key `{key.value}` twice: take one out.")
        pairs[key.value] = value
    return pairs


def _parts(hint: Any) -> list[Any]:
    """The types of a union, or the type itself; a choice of texts counts as a text."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        return [part for each in get_args(hint) for part in _parts(each)]
    return [str if get_origin(hint) is Literal else hint]


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "mapping"
    return "list" if isinstance(node, yaml.SequenceNode) else "text"
