"""Outputs are whole or absent."""

import json

import pytest

from generator.output import (
    atomic_path,
    temporary_path,
    write_json,
    write_jsonl,
    write_text,
)


def test_a_failed_block_leaves_nothing_behind(tmp_path):
    def fail():
        with atomic_path(tmp_path / "out.txt") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_nothing_behind(tmp_path):
    def fail():
        with atomic_path(tmp_path / "out") as path:
            path.mkdir()
            (path / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_keeps_what_was_there(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail():
        with atomic_path(target) as path:
            path.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_appears_only_at_the_end(tmp_path):
    target = tmp_path / "made" / "on" / "demand.json"
    with atomic_path(target) as path:
        path.write_text("{}")
        assert path.suffix == ".json"
        assert path == temporary_path(target)
        assert not target.exists()
    assert target.read_text() == "{}"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_path(target) as path:
        path.mkdir()
        (path / "new").write_text("new")
        assert (target / "old").is_file()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_texts_and_json_come_back(tmp_path):
    rows = [{"prompt": "ein grüner Kreis", "n": 1}, {"prompt": "円", "n": None}]
    write_text(tmp_path / "a.txt", "σ ≤ 1\n")
    write_json(tmp_path / "a.json", rows)
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "σ ≤ 1\n"
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == rows
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "grüner" in lines[0]


def test_a_value_that_json_does_not_know_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []
