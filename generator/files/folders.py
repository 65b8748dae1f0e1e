"""Contents of folders that users give: files that count, and files that are the same."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


def visible_files(folder: str | Path, suffixes: Collection[str] = (), deep: bool = False) -> list[Path]:
    """Lists the files of a folder, sorted by path.

    Names that begin with a dot do not count, such as `._clip.mp4` of macOS and what lies in `.ipynb_checkpoints`.
    Linked files and folders do; a folder that can be reached in several ways counts once, so links may form a circle.

    Args:
        suffixes: in lower case, such as `.mp4`; only files that end in one of them, in whatever case. All by default.
        deep: files in the folders of the folder too.
    """
    found: list[Path] = []
    seen: set[str] = set()
    # Linked folders wait until the end: what lies in the folder itself is found there, not through a link.
    waiting: list[Path] = [Path(folder)]
    linked: list[Path] = []
    while waiting or linked:
        current = waiting.pop() if waiting else linked.pop(0)
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(os.listdir(current)):
            path = current / name
            if name.startswith("."):
                continue
            if path.is_dir():
                if deep:
                    (linked if path.is_symlink() else waiting).append(path)
            elif not suffixes or path.suffix.lower() in suffixes:
                found.append(path)
    return sorted(found)


def file_identity(path: str | Path) -> tuple[int, int] | str:
    """A value that two paths share if they lead to one file, be it by other spellings, symbolic links or hard links."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino
