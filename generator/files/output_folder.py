"""Output folders: what a command may write into, and the little that `--overwrite` may delete.

Each command declares what it writes as an `Outputs`. A folder that it makes carries a mark, `.vidalign.json`, with the
name of the command. `--overwrite` empties a folder only if it carries the mark of the same command (or, made by a
version from before the mark, holds the command's records) and if every file in it is one that the command writes. The
folder itself stays, so that a link to it is followed and not replaced.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from generator.one_or_several import as_list
from generator.output import InputError, write_json

MARK = ".vidalign.json"
TEMPORARY = r"(?:.*/)?\.[^/]+\.[0-9]+\.(?:tmp|old)[^/]*(?:/.*)?"
"""Names of the files that a killed process leaves of `generator.output.atomic_path`."""
SOURCES = (".git", ".hg", ".svn", "pyproject.toml", "setup.py")


@dataclass(frozen=True)
class Outputs:
    """Files that a command writes into its output folder.

    Attributes:
        command: the name of the command as the user types it, such as `reward evaluate`.
        files: patterns of the files, relative to the folder, with `/`. `*` stands for a part of a name and `#` for a
            number; neither crosses a `/`.
        early: those patterns whose files are written before there is any result.
        is_record: whether a folder without the mark is a folder of this command.
        listed: names of further files, which only what lies in the folder tells.
    """

    command: str
    files: tuple[str, ...]
    early: tuple[str, ...] = ()
    is_record: Callable[[Path], bool] = lambda folder: False
    listed: Callable[[Path], Iterable[str]] = lambda folder: ()

    def within(self, folder: str) -> tuple[str, ...]:
        """The patterns, and the mark, of an output folder that lies in another one under the name `folder`."""
        return tuple(f"{folder}/{pattern}" for pattern in (*self.files, MARK))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether a relative path with `/` fits one of the patterns of `Outputs.files`."""
    return any(_pattern(pattern).fullmatch(name) for pattern in patterns)


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"([*#])", pattern)
    translated = {"*": "[^/]*", "#": "[0-9]+"}
    return re.compile("".join(translated.get(part, re.escape(part)) for part in parts))


def split_contents(folder: Path, outputs: Outputs) -> tuple[list[Path], list[str]]:
    """The files that the command wrote into `folder`, and the names of all else; links are never followed."""
    own: list[Path] = []
    foreign: list[str] = []
    listed = set(outputs.listed(folder))
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        if not folders and not files and here != folder and not _may_hold(here, folder, outputs, listed):
            foreign.append(here.relative_to(folder).as_posix())
        for name in [*files, *links]:
            path = here / name
            relative = path.relative_to(folder).as_posix()
            written = not path.is_symlink() and (
                name == ".DS_Store"  # left behind by a look at the folder
                or relative == MARK
                or relative in listed
                or matches(relative, outputs.files)
                or re.fullmatch(TEMPORARY, relative) is not None
            )
            if written:
                own.append(path)
            else:
                foreign.append(relative)
    return own, sorted(foreign)


def _may_hold(empty: Path, folder: Path, outputs: Outputs, listed: Iterable[str]) -> bool:
    """Returns whether the command makes this folder, which is empty, for its files."""
    depth = len(empty.relative_to(folder).parts)
    parents = {
        "/".join(name.split("/")[:depth]) for name in (*outputs.files, *listed) if name.count("/") >= depth
    }
    relative = empty.relative_to(folder).as_posix()
    return matches(relative, parents) or re.fullmatch(TEMPORARY, relative) is not None


def marked_command(folder: Path) -> str | None:
    """The name of the command that made the folder; None where it carries no mark."""
    try:
        return str(json.loads((folder / MARK).read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_own(folder: Path, outputs: Outputs) -> bool:
    """Returns whether the command made this folder."""
    marked = marked_command(folder)
    return outputs.is_record(folder) if marked is None else marked == outputs.command


def _in_use(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def why_kept(folder: Path, outputs: Outputs) -> str | None:
    """A half sentence why `--overwrite` may not empty the folder; None where it may."""
    whole = folder.resolve()
    if whole == Path.cwd() or Path.cwd().is_relative_to(whole):
        return "it is the working directory or holds it"
    if whole == whole.parent or whole in _homes() or any(home.is_relative_to(whole) for home in _homes()):
        return "it is or holds a home"
    source = next((name for name in SOURCES if (whole / name).exists()), None)
    if source is not None:
        return f"it holds {source}, so it is somebody's work"
    own, foreign = split_contents(whole, outputs)
    if not is_own(whole, outputs):
        made = marked_command(whole)
        holds = (
            f"it is the output of vidalign {made}"
            if made
            else f"it holds {_names(foreign or [path.name for path in own])}"
        )
        return f"{holds} and was not made by vidalign {outputs.command}"
    if foreign:
        return f"it holds {_names(foreign)}, which vidalign {outputs.command} did not write"
    return None


def named_videos(folder: Path, metadata: str = "metadata.jsonl") -> list[str]:
    """The videos of an output folder that its `metadata.jsonl` names; none where that is missing or damaged."""
    try:
        lines = (folder / metadata).read_text(encoding="utf-8").split("\n")
        return [str(json.loads(line)["file_name"]) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _homes() -> list[Path]:
    homes = [os.path.expanduser("~")]
    with suppress(ImportError, KeyError):
        import pwd

        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    return [
        Path(home).resolve() for home in homes if os.path.isabs(home) and Path(home).resolve() != Path("/")
    ]


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def refuse_inputs_in(folder: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises `InputError` if a file or folder that a command reads lies in the folder that it is to overwrite."""
    whole = Path(folder).resolve()
    for each in as_list(inputs):
        if Path(each).exists() and Path(each).resolve().is_relative_to(whole):
            raise InputError(
                f"{each} is read, but lies in the output folder {folder}, which --overwrite deletes: name another "
                "output folder."
            )


def check_output_dir(
    path: str | Path,
    outputs: Outputs,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
    advice: str = "",
) -> None:
    """Checks whether the command may begin anew in the folder `path`, and changes nothing.

    Args:
        inputs: files and folders that the command reads, which may not lie in a folder that is emptied.
        advice: what else the user may do where the folder is in use, such as to go on from a checkpoint.

    Raises:
        InputError: it is a file; or it is not empty, and `overwrite` is not set or may not empty it.
    """
    folder = Path(path)
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise InputError(f"{folder} is a file, but a folder is needed for the output: name another path.")
    if not _in_use(folder):
        return
    kept = why_kept(folder, outputs)
    if not overwrite:
        said = "name another one or pass --overwrite" if kept is None else "name another one"
        because = "" if kept is None else f" (--overwrite would not empty it: {kept})"
        raise InputError(f"The output folder {folder} exists and is not empty{because}: {advice or said}.")
    refuse_inputs_in(folder, inputs)
    if kept is not None:
        raise InputError(
            f"--overwrite does not empty {folder}: {kept}. Move what is dear to you, or name another output folder."
        )


def require_own(path: str | Path, outputs: Outputs) -> None:
    """Raises `InputError` where the folder `path` is in use and was not made by this command, which is to go on in
    it."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, but a folder is needed for the output: name another path.")
    if _in_use(folder) and not is_own(folder.resolve(), outputs):
        made = marked_command(folder)
        what = f"the output of vidalign {made}" if made else "other files"
        raise InputError(
            f"{folder} holds {what}, and no run of vidalign {outputs.command} to go on with: name another folder."
        )


def open_output_dir(
    path: str | Path, outputs: Outputs, overwrite: bool = False, go_on: bool = False, rewrites: bool = False
) -> Path:
    """Makes the folder `path` and marks it, just before the first file is written.

    Args:
        overwrite: whether what the command wrote there before is deleted.
        go_on: whether it is the folder of this command and keeps what it holds.
        rewrites: whether the command writes all its files now and always the same, so that each replaces its
            predecessor and nothing need be deleted before.

    Raises:
        InputError: as `check_output_dir`, or with `go_on` as `require_own`.
    """
    folder = Path(path)
    if go_on:
        require_own(folder, outputs)
    else:
        check_output_dir(folder, outputs, overwrite)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if marked_command(folder) is None:
        write_json(folder / MARK, {"command": outputs.command, "vidalign": _version()})
    if not go_on and not rewrites:
        empty_own(folder, outputs)
    _opened.append(_Opened(folder, outputs, made, goes_on=not rewrites))
    return folder


def empty_own(folder: Path, outputs: Outputs, keep: Iterable[str] = (MARK,)) -> None:
    """Deletes what the command wrote into the folder, with the folders that become empty, and nothing else."""
    whole = folder.resolve()
    kept = {whole / name for name in keep}
    parents: set[Path] = set()
    for path in split_contents(whole, outputs)[0]:
        if path not in kept:
            path.unlink(missing_ok=True)
            parents.update(
                parent for parent in path.parents if parent != whole and parent.is_relative_to(whole)
            )
    for parent in sorted(parents, key=lambda each: len(each.parts), reverse=True):
        with suppress(OSError):
            parent.rmdir()


@dataclass(frozen=True)
class _Opened:
    """An output folder that this process has opened, whether it made it, and whether a next run goes on in it."""

    folder: Path
    outputs: Outputs
    made: bool
    goes_on: bool


_opened: list[_Opened] = []


def forget_opened() -> None:
    """Begins the count of `results_begun` and `withdraw_unused` anew: a command starts."""
    _opened.clear()


def results_begun() -> bool:
    """Returns whether this process has opened an output folder which still is there, so that there may be something to
    go on from."""
    return any(each.goes_on and each.folder.is_dir() for each in _opened)


def withdraw_unused() -> None:
    """Deletes the output folders of this process in which there is no result yet: a refused command leaves nothing."""
    for each in reversed(_opened):
        folder, outputs = each.folder, each.outputs
        if not folder.is_dir():
            continue
        own, foreign = split_contents(folder.resolve(), outputs)
        names = [path.relative_to(folder.resolve()).as_posix() for path in own]
        if foreign or not all(name == MARK or matches(name, outputs.early) for name in names):
            continue
        empty_own(folder, outputs, keep=())
        for leftover in sorted((p for p in folder.resolve().rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                leftover.rmdir()
        if each.made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def no_empty_folder(path: str | Path | None) -> Iterator[None]:
    """Takes the folder `path` away again if the block fails, where it was not there before and holds no file."""
    folder = Path(path) if path else None
    missing = [] if folder is None else [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        if folder is not None and folder in missing:
            for leftover in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
                with suppress(OSError):
                    leftover.rmdir()
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def _version() -> str:
    try:
        return version("vidalign")
    except PackageNotFoundError:
        return "unknown"
