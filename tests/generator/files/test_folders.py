"""Contents of folders: hidden names, links and circles of links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from generator.files.folders import file_identity, visible_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "d/a.mp4",
        "d/B.MP4",
        "d/sub/c.mp4",
        "d/._a.mp4",
        "d/.ipynb_checkpoints/a.mp4",
        "d/x.txt",
        "out/e.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "d"


def names(folder: Path, **options: bool) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in visible_files(folder, (".mp4",), **options)]


def test_hidden_names_and_folders_do_not_count(folder: Path) -> None:
    assert names(folder) == ["B.MP4", "a.mp4"]
    assert names(folder, deep=True) == ["B.MP4", "a.mp4", "sub/c.mp4"]
    assert [path.name for path in visible_files(folder)] == ["B.MP4", "a.mp4", "x.txt"]
    (folder.parent / ".hidden").symlink_to(folder)
    assert names(folder.parent / ".hidden") == ["B.MP4", "a.mp4"], "the folder itself may be hidden"


def test_linked_files_and_folders_count_once_and_circles_end(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent / "out")
    (folder / "again").symlink_to(folder.parent / "out")
    (folder / "0-own").symlink_to(folder / "sub")
    (folder / "circle").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    (folder.parent / "out" / "back").symlink_to(folder)
    (folder / "f.mp4").symlink_to(folder.parent / "out" / "e.mp4")
    assert names(folder, deep=True) == ["B.MP4", "a.mp4", "again/e.mp4", "f.mp4", "sub/c.mp4"]


def test_a_file_is_the_same_under_every_name(folder: Path) -> None:
    (folder / "link.mp4").symlink_to(folder / "a.mp4")
    os.link(folder / "a.mp4", folder / "hard.mp4")
    same = [folder / "a.mp4", folder / "sub" / ".." / "a.mp4", folder / "link.mp4", folder / "hard.mp4"]
    assert len({file_identity(path) for path in same}) == 1
    assert file_identity(folder / "a.mp4") != file_identity(folder / "B.MP4")
    assert file_identity(folder / "gone") == file_identity(folder / "sub" / ".." / "gone")
