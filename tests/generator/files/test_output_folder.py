"""What `--overwrite` may delete: files that the command itself wrote, in a folder that it made."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from generator.files.output_folder import (
    MARK,
    Outputs,
    check_output_dir,
    forget_opened,
    matches,
    no_empty_folder,
    open_output_dir,
    require_own,
    withdraw_unused,
)
from generator.output import InputError, allow_by_umask, atomic_path, files_into, write_text
from generator.training.checkpoints import TRAINER_FILES, thin_out

OUTPUTS = Outputs(
    "draw",
    ("picture-#.png", "log/*.txt", "log/deep/#.txt", "draw.json"),
    early=("log/*.txt",),
    is_record=lambda folder: (folder / "draw.json").is_file(),
    listed=lambda folder: ["named.png"],
)


@pytest.fixture
def finished(tmp_path):
    """An output folder with a result."""
    folder = open_output_dir(tmp_path / "out", OUTPUTS)
    for name in ("picture-1.png", "picture-22.png", "log/a.txt", "log/deep/3.txt", "draw.json", "named.png"):
        write_text(folder / name, name)
    return folder


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_the_folder_is_made_and_marked_when_it_is_opened(tmp_path):
    check_output_dir(tmp_path / "a" / "b", OUTPUTS)
    assert list(tmp_path.iterdir()) == []
    open_output_dir(tmp_path / "a" / "b", OUTPUTS)
    assert json.loads((tmp_path / "a" / "b" / MARK).read_text())["command"] == "draw"
    open_output_dir(tmp_path / "a" / "b", OUTPUTS, overwrite=True)


def test_overwrite_deletes_what_the_command_wrote(finished):
    with pytest.raises(InputError, match=r"not empty.*or pass --overwrite"):
        open_output_dir(finished, OUTPUTS)
    assert len(files(finished)) == 7
    open_output_dir(finished, OUTPUTS, overwrite=True)
    assert files(finished) == [MARK]
    assert [path.name for path in finished.iterdir()] == [MARK]


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "picture-1.png.bak",
        "picture-best.png",
        "picture-1-mine.png",
        "my-picture-1.png",
        "log/a.md",
        "log/deep/a.txt",
        "log/deep/er/3.txt",
        "other/draw.json",
        ".hidden",
        "log/.vidalign.json",
    ],
)
def test_a_file_of_the_user_is_named_and_everything_survives(finished, name):
    write_text(finished / name, "dear")
    before = files(finished)
    with pytest.raises(InputError) as refused:
        open_output_dir(finished, OUTPUTS, overwrite=True)
    assert f"it holds {name}, which vidalign draw did not write" in str(refused.value)
    assert files(finished) == before
    assert (finished / name).read_text() == "dear"


def test_a_folder_and_links_of_the_user_are_foreign_too(finished, tmp_path):
    (finished / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_text(tmp_path / "elsewhere" / "a.txt", "dear")
    (finished / "log" / "b.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    (finished / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"it holds empty, linked, log/b\.txt, which"):
        open_output_dir(finished, OUTPUTS, overwrite=True)
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "dear"


def test_a_linked_folder_is_followed_and_never_replaced(finished, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(finished)
    open_output_dir(link, OUTPUTS, overwrite=True)
    assert link.is_symlink()
    assert link.resolve() == finished
    assert files(finished) == [MARK]


@pytest.mark.parametrize(
    "where", ["the folder", "its parent", "home", "above home", ".git", "pyproject.toml", "/"]
)
def test_some_folders_are_never_emptied(finished, monkeypatch, where):
    folder = finished
    if where == "the folder":
        monkeypatch.chdir(finished)
        folder = Path(".")
    elif where == "its parent":
        monkeypatch.chdir(finished / "log")
        folder = Path("..")
    elif where == "home":
        monkeypatch.setenv("HOME", str(finished))
    elif where == "above home":
        monkeypatch.setenv("HOME", str(finished / "log"))
    elif where == "/":
        folder = Path("/")
    else:
        write_text(finished / where, "")
    with pytest.raises(InputError, match="--overwrite does not empty"):
        open_output_dir(folder, OUTPUTS, overwrite=True)
    assert (finished / "picture-1.png").is_file()


def test_another_commands_folder_and_an_unmarked_one_are_refused(finished, tmp_path):
    other = Outputs("paint", OUTPUTS.files, listed=OUTPUTS.listed)
    with pytest.raises(
        InputError, match="it is the output of vidalign draw and was not made by vidalign paint"
    ):
        open_output_dir(finished, other, overwrite=True)
    with pytest.raises(InputError, match="holds the output of vidalign draw, and no run of vidalign paint"):
        require_own(finished, other)
    write_text(tmp_path / "mine" / "picture-1.png", "dear")
    with pytest.raises(InputError, match=r"it holds picture-1\.png and was not made by vidalign draw"):
        open_output_dir(tmp_path / "mine", OUTPUTS, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        open_output_dir(tmp_path / "mine" / "picture-1.png", OUTPUTS, overwrite=True)
    assert (tmp_path / "mine" / "picture-1.png").read_text() == "dear"


def test_a_folder_from_before_the_mark_is_known_by_its_records(finished):
    (finished / MARK).unlink()
    open_output_dir(finished, OUTPUTS, overwrite=True)
    assert files(finished) == [MARK]


def test_what_a_killed_process_left_is_the_commands_own(finished):
    write_text(finished / ".picture-2.4711.tmp.png", "half")
    write_text(finished / "log" / ".new.4711.tmp" / "x" / "y", "half")
    open_output_dir(finished, OUTPUTS, overwrite=True)
    assert files(finished) == [MARK]


def test_an_input_in_the_folder_is_never_deleted(finished):
    with pytest.raises(InputError, match=r"draw\.json is read, but lies in the output folder"):
        check_output_dir(finished, OUTPUTS, True, [finished / "draw.json"])


def test_a_command_that_is_refused_leaves_no_folder(tmp_path):
    forget_opened()
    folder = open_output_dir(tmp_path / "new", OUTPUTS)
    write_text(folder / "log" / "a.txt", "started")
    withdraw_unused()
    assert list(tmp_path.iterdir()) == []
    folder = open_output_dir(tmp_path / "new", OUTPUTS)
    write_text(folder / "picture-1.png", "a result")
    withdraw_unused()
    assert files(folder) == [MARK, "picture-1.png"]


def test_an_empty_folder_of_a_block_that_fails_is_taken_away(tmp_path):
    with suppress(ValueError), no_empty_folder(tmp_path / "x" / "y"):
        (tmp_path / "x" / "y" / "z").mkdir(parents=True)
        raise ValueError("refused")
    assert not (tmp_path / "x").exists()


def test_patterns_cross_no_folder():
    assert matches("checkpoint-12/rng_state_0.pth", TRAINER_FILES)
    assert matches("runs/Nov28_host/events.out.tfevents.1.host.2.0", TRAINER_FILES)
    for name in (
        "checkpoint-12-best/optimizer.pt",
        "checkpoint-12/notes.txt",
        "runs/notes.txt",
        "a/trainer_state.json",
    ):
        assert not matches(name, TRAINER_FILES)


def test_thinning_out_checkpoints_spares_what_the_user_put_there(tmp_path):
    for name in ("checkpoint-2", "checkpoint-4", "checkpoint-10", "checkpoint-4-best", "checkpoint-6"):
        write_text(tmp_path / name / "trainer_state.json", "{}")
        write_text(tmp_path / name / "optimizer.pt", "")
    write_text(tmp_path / "checkpoint-4" / "notes.txt", "dear")
    thin_out(tmp_path, 2)
    assert files(tmp_path) == [
        "checkpoint-10/optimizer.pt",
        "checkpoint-10/trainer_state.json",
        "checkpoint-4-best/optimizer.pt",
        "checkpoint-4-best/trainer_state.json",
        "checkpoint-4/notes.txt",
        "checkpoint-6/optimizer.pt",
        "checkpoint-6/trainer_state.json",
    ]


@pytest.fixture
def shared():
    before = os.umask(0o002)
    yield
    os.umask(before)


def modes(folder):
    return {
        path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777) for path in folder.rglob("*")
    }


def test_files_and_folders_have_the_modes_that_the_umask_allows(tmp_path, shared):
    with atomic_path(tmp_path / "a" / "w.safetensors") as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
        temporary.chmod(0o600)
    with files_into(tmp_path / "b") as temporary:
        (temporary / "c").mkdir(0o700)
        (temporary / "c" / "w").touch(0o600)
    assert modes(tmp_path) == {
        "a": "0o775",
        "a/w.safetensors": "0o664",
        "b": "0o775",
        "b/c": "0o775",
        "b/c/w": "0o664",
    }
    os.umask(0o077)
    (tmp_path / "d").touch(0o600)
    allow_by_umask(tmp_path / "d")
    assert modes(tmp_path)["d"] == "0o600"


def test_a_linked_file_is_followed_and_never_replaced(tmp_path):
    write_text(tmp_path / "there" / "real.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "real.txt").read_text() == "new"


def test_a_failed_write_leaves_no_new_folders(tmp_path):
    with pytest.raises(ValueError, match="no"), atomic_path(tmp_path / "a" / "b" / "c"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
