"""Rows of CSV, JSON, JSONL and Parquet files, and the videos that they name."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from generator.output import (
    InputError,
    atomic_path,
    check_storable,
    read_json,
    read_jsonl,
    read_text,
    write_jsonl,
)
from reward.preferences import check_distinct

Row = dict[str, Any]
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


def read_rows(path: Path) -> list[Row]:
    """The rows of a table, by the suffix of its file.

    Raises:
        InputError: the file is missing, empty, of another kind, not what its suffix says, or not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"The preferences file {path} does not exist: give the path of a file of rankings.")
    readers = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InputError(
            f"{path} is a {path.suffix or 'nameless'} file, expected one of {', '.join(SUFFIXES)}."
        )
    try:
        rows = readers[path.suffix](path)
    except InputError:
        raise
    except (ValueError, csv.Error, OSError) as error:
        raise InputError(f"{path} is not a readable {path.suffix[1:]} file: {error}.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no rows: at least one row with named columns is needed.")
    for number, row in enumerate(rows, start=1):
        check_storable(row, f"{path}, row {number}")
    return rows


def _read_csv(path: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(read_text(path, newline=""), newline="")))


def _read_json(path: Path) -> list[Row]:
    document = read_json(path)
    if not isinstance(document, list):
        raise ValueError("a list of objects was expected")
    return document


def _read_jsonl(path: Path) -> list[Row]:
    return [row for _, row in read_jsonl(path)]


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as the suffix of `path` says, in one step.

    Raises:
        InputError: the suffix is none of `SUFFIXES`.
    """
    if path.suffix == ".jsonl":
        write_jsonl(path, list(rows))
        return
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} cannot be written: its suffix must be one of {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".json":
            temporary.write_text(json.dumps(list(rows), indent=2, ensure_ascii=False), encoding="utf-8")
        else:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)


class VideoFinder:
    """Finds the files that the rows of a table name.

    A name is a path relative to the table's folder, or an address. Where no file is at its path, the file of the same
    last name in the folder or in its `videos` is taken, unless another row means that file by another name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meant: dict[Path, tuple[str, bool]] = {}

    def find(self, values: Sequence[Any], where: str) -> list[Path]:
        """The files of a row.

        Args:
            values: texts, or `{"path": text, …}` as Hugging Face datasets store files.
            where: names file and row in the errors.

        Raises:
            InputError: there is no such file, two of the values are one file, or a file that was found by its last name
                alone is meant by two names.
        """
        videos = [self._find(value, where) for value in values]
        check_distinct(videos, where)
        return videos

    def _find(self, value: Any, where: str) -> Path:
        named = value.get("path") if isinstance(value, dict) else value
        if not isinstance(named, str) or not named.strip():
            raise InputError(f"{where}: {value!r} names no video file.")
        is_address = "://" in named
        address = urlparse(named.strip())
        plain = unquote(address.path) if is_address else named.strip()
        candidates = [self.folder / (plain.lstrip("/") if is_address else plain)]
        candidates += [self.folder / Path(plain).name, self.folder / "videos" / Path(plain).name]
        for number, candidate in enumerate(candidates):
            if candidate.is_file():
                meaning = address.netloc + plain if is_address else os.path.normpath(plain)
                # A bare name means the folder or `videos`; any other fallback gives up what the row says.
                is_exact = not is_address and (number == 0 or meaning == candidate.name)
                self._remember(candidate, meaning, is_exact, where)
                return candidate
        raise InputError(
            f"{where}: the video {named} is neither at its path relative to {self.folder} nor in "
            f"{self.folder / 'videos'}: put the videos there."
        )

    def _remember(self, file: Path, meaning: str, is_exact: bool, where: str) -> None:
        """Refuses a second name of a file, unless both lead to it as they stand."""
        other, other_is_exact = self.meant.setdefault(file.resolve(), (meaning, is_exact))
        if meaning != other and not (is_exact and other_is_exact):
            raise InputError(
                f"{where}: the videos {other} and {meaning} share their last name, and only one file of that name is "
                f"there ({file}): put both at the paths that the table names."
            )


def text_of(row: Row, column: str, where: str) -> str:
    """A column that must hold text."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: the column {column!r} must hold text, but {value!r} was found.")
    return value
