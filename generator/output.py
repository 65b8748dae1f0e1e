"""Outputs that are never half-written and never overwritten unasked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generator.one_or_several import as_list


class InputError(ValueError):
    """A mistake in what the user gave.

    The message is one sentence: what was found, what was expected, what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def temporary_path(path: Path) -> Path:
    """A hidden sibling of `path` with the same suffix; a rename from it to `path` is atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path; renames it to `path` if the block succeeds and removes it if the block fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            retired = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line to `path` in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def refuse_inputs_in(folder: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises `InputError` if a file or folder that a command reads lies in the folder that it is to overwrite."""
    inputs = as_list(inputs)
    whole = Path(folder).resolve()
    for each in inputs:
        if Path(each).exists() and Path(each).resolve().is_relative_to(whole):
            raise InputError(
                f"{each} is read, but lies in the output folder {folder}, which --overwrite deletes: name another "
                "output folder."
            )


def refuse_unwritable(path: str | Path) -> None:
    """Raises `InputError` where a folder `path` can be neither written to nor made; makes nothing."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{place} is a file, but a folder is needed for the output: name another path.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{place} may not be written to, but the output {path} goes there: name another path."
        )


def prepare_output_dir(path: str | Path, overwrite: bool = False) -> Path:
    """Makes the folder `path`.

    Raises:
        InputError: it exists and is not empty and `overwrite` is not set, or it is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, but a folder is needed for the output: name another path.")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise InputError(
                f"The output folder {path} exists and is not empty: name another one or pass --overwrite."
            )
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    return path
