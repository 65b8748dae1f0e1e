"""Rows of CSV, JSON, JSONL and Parquet files, and the videos that they name."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from generator.output import InputError, atomic_path, write_jsonl

Row = dict[str, Any]
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


def read_rows(path: Path) -> list[Row]:
    """The rows of a table, by the suffix of its file.

    Raises:
        InputError: the file is missing, empty, of another kind, or not what its suffix says.
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
    except (ValueError, csv.Error, OSError) as error:
        raise InputError(f"{path} is not a readable {path.suffix[1:]} file: {error}.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no rows: at least one row with named columns is needed.")
    return rows


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_json(path: Path) -> list[Row]:
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(document, list):
        raise ValueError("a list of objects was expected")
    return document


def _read_jsonl(path: Path) -> list[Row]:
    # Not `splitlines`, which also breaks at characters that JSON allows inside strings, such as U+2028.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


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


def find_video(folder: Path, value: Any, where: str) -> Path:
    """The file that a column names: a path relative to the table's folder; of an address or a path that is not
    there, the file of that name in the folder or in its `videos`.

    Args:
        value: text, or `{"path": text, …}` as Hugging Face datasets store files.
        where: names file and row in the error.

    Raises:
        InputError: there is no such file.
    """
    named = value.get("path") if isinstance(value, dict) else value
    if not isinstance(named, str) or not named.strip():
        raise InputError(f"{where}: {value!r} names no video file.")
    plain = unquote(urlparse(named).path) if "://" in named else named.strip()
    candidates = [folder / plain.lstrip("/") if "://" in named else folder / plain]
    candidates += [folder / Path(plain).name, folder / "videos" / Path(plain).name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{where}: the video {named} is neither at its path relative to {folder} nor in {folder / 'videos'}: put the "
        "videos there."
    )


def text_of(row: Row, column: str, where: str) -> str:
    """A column that must hold text."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: the column {column!r} must hold text, but {value!r} was found.")
    return value
