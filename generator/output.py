"""Outputs that are never half-written and never overwritten unasked, and the text files that everybody reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from generator.passwords import without_passwords


class InputError(ValueError):
    """A mistake in what the user gave.

    The message is one sentence: what was found, what was expected, what to do. The command line prints it
    without a traceback and exits with code 2. Passwords in addresses are replaced by `***`.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_passwords(each) if isinstance(each, str) else each for each in args))


def temporary_path(path: Path) -> Path:
    """A hidden sibling of `path` with the same suffix; a rename from it to `path` is atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path; renames it to `path` if the block succeeds and removes it if the block fails.

    A link is followed, the modes of what was written are those that the umask allows, and folders that were made for
    a block that fails are taken away again.
    """
    path = Path(os.path.realpath(path))
    with _folder_for(path):
        temporary = temporary_path(path)
        yield from _renamed(path, temporary)


def _renamed(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        yield temporary
        allow_by_umask(temporary)
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


@contextmanager
def _folder_for(path: Path) -> Iterator[None]:
    """Makes the folder of `path`; takes what it made away again if the block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def allow_by_umask(path: str | Path) -> None:
    """Gives a file, or everything in a folder, the mode that the umask allows.

    Some libraries write files that only their owner may read, whatever the umask says.
    """
    path = Path(path)
    mask = _umask()
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if each.is_symlink() or not each.exists():
            continue
        wanted = (0o777 if each.is_dir() else 0o666) & ~mask
        found = each.stat().st_mode & 0o777
        if found | wanted != found:
            each.chmod(found | wanted)


def _umask() -> int:
    """The umask of this process, read without changing it where the system tells it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def files_into(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder; moves its files into `folder` if the block succeeds, and drops them if it fails."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(folder / "new")
    try:
        temporary.mkdir()
        yield temporary
        allow_by_umask(temporary)
        for path in sorted(each for each in temporary.rglob("*") if each.is_file()):
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` in one step.

    Raises:
        InputError: the text holds half a character; then nothing was written.
    """
    check_storable(text, f"{path} cannot be written")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line to `path` in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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


def check_output_file(path: str | Path, overwrite: bool, is_own: Callable[[Path], bool], what: str) -> None:
    """Checks whether a command may write the file `path`.

    Args:
        is_own: whether an existing file is one that the command wrote.
        what: what the command writes, such as `a rankings file`.

    Raises:
        InputError: it is a folder; or it exists, and `overwrite` is not set or it is something else.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but {what} is one file: name a file.")
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"The file {path} exists: name another one or pass --overwrite.")
    if path.stat().st_size and not is_own(path):
        raise InputError(
            f"{path} is not {what}, so it is not replaced, --overwrite or not: name another file."
        )


def has_rows_with(path: Path, *keys: str) -> bool:
    """Returns whether each line of the file is a JSON object with these keys."""
    try:
        return all(set(keys) <= row.keys() for _, row in read_jsonl(path))
    except (OSError, InputError):
        return False


def is_storable(text: str) -> bool:
    """Returns whether every file and database can keep a text: UTF-8 has no lone surrogate, PostgreSQL no NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def check_storable(value: Any, place: str) -> None:
    """Raises `InputError` if a text, or any text in a value made of dictionaries and lists, is not storable.

    Args:
        value: what was read.
        place: begins the sentence: where it stands, such as file and line.
    """
    if isinstance(value, str):
        if not is_storable(value):
            wrong = next(i for i, character in enumerate(value) if not is_storable(character))
            raise InputError(
                f"{place}: the text {value[max(0, wrong - 30) : wrong + 10]!r} holds a NUL or half a character, which "
                "UTF-8 files cannot keep: correct it."
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_storable(key, place)
            check_storable(inner, place)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_storable(inner, place)


def read_text(path: str | Path, newline: str | None = None) -> str:
    """Reads a UTF-8 text file; a byte order mark at its start is left out.

    Args:
        newline: as of `open`; by default every line ends in a line feed, whatever the file has.

    Raises:
        InputError: the file does not exist, is a folder, or is not UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = "is a folder" if isinstance(error, IsADirectoryError) else "does not exist"
        raise InputError(f"{path} {found}: give the path of a text file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    if "\0" in text:
        raise InputError(f"{path} is not UTF-8 text (it holds NUL bytes, as UTF-16 does): save it as UTF-8.")
    return text


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yields `"FILE, line N"` and the line, without white space around it, for each line that is not empty.

    Lines end in a line feed, a carriage return, or both. Other separators, such as U+2028, U+2029 and U+0085, stand
    inside of a line: JSON allows them in strings, and `str.splitlines` would tear those apart.

    Raises:
        InputError: as `read_text`.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        # Files that were joined have a byte order mark in the middle.
        line = line.removeprefix("\ufeff").strip()
        if line:
            yield f"{path}, line {number}", line


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `"FILE, line N"` and the JSON object of each line that is not empty; reads what `write_jsonl` writes.

    Raises:
        InputError: as `read_text`, or a line is no JSON object, or holds a text that UTF-8 cannot keep.
    """
    for place, line in read_lines(path):
        row = _parsed(line, place, "write one JSON object a line")
        if not isinstance(row, dict):
            raise InputError(
                f"{place}: a JSON object was expected, but a {type(row).__name__} was found: write one JSON object a "
                "line."
            )
        yield place, row


def read_json(path: str | Path) -> Any:
    """Reads the value of a JSON file.

    Raises:
        InputError: as `read_text`, or it is not JSON, or holds a text that UTF-8 cannot keep.
    """
    return _parsed(read_text(path), str(path), "correct or restore it")


def read_record(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file, such as the settings of an output folder; empty where it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(text: str, place: str, advice: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        raise InputError(f"{place}: this is not JSON ({reason}): {advice}.") from error
    if "\\u" in text:  # Text that was read as UTF-8 gets such characters from escapes only.
        check_storable(value, place)
    return value
