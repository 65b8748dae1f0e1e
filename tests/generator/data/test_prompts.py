"""Prompt files: what is read, and what is said about a wrong line."""

from __future__ import annotations

from pathlib import Path

import pytest

import generator.world
from generator.data.prompts import PromptRecord, read_prompts
from generator.output import InputError
from generator.world.elaborate import vague_prompts


def test_a_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red ball\n\n  ein blauer Würfel \r\nthird", encoding="utf-8")
    assert [record.prompt for record in read_prompts(path)] == ["a red ball", "ein blauer Würfel", "third"]


def test_jsonl_carries_negative_prompts_and_names(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "a red ball", "negative_prompt": "blur", "id": 7}\n{"prompt": "a cube", "file_name": "1.mp4"}\n'
    )
    assert read_prompts(path) == [PromptRecord("a red ball", "blur", "7"), PromptRecord("a cube")]


@pytest.mark.parametrize(
    "line",
    [
        "a red ball",
        '{"text": "a red ball"}',
        '{"prompt": ""}',
        '{"prompt": 3}',
        "[1]",
        '{"prompt": "a", "negative_prompt": 3}',
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 3"):
        read_prompts(path)


def test_missing_empty_and_binary_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.txt", "empty.txt", "binary.txt", "."):
        with pytest.raises(InputError, match=str(tmp_path)):
            read_prompts(tmp_path / name)


def test_the_built_in_world_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(n: int, seed: int, split: str) -> list[str]:
        if split not in {"train", "test"}:
            raise ValueError(f"unknown split {split}")
        return [f"{split} {seed} {index}" for index in range(n)]

    monkeypatch.setattr(generator.world, "sample_prompts", sample, raising=False)
    assert [record.prompt for record in read_prompts("world:test:2:5")] == ["test 5 0", "test 5 1"]
    assert [record.prompt for record in read_prompts("world:train:1")] == ["train 0 0"]
    for source in (
        "world:test",
        "world:test:x",
        "world:test:0",
        "world:test:1:2:3",
        "world:nowhere:3",
        "world::3",
    ):
        with pytest.raises(InputError, match=source):
            read_prompts(source)


def test_vague_prompts_of_the_world_are_a_source() -> None:
    for name, split in (("vague", "train"), ("vague_test", "test")):
        records = read_prompts(f"world:{name}:5:2")
        assert [record.prompt for record in records] == vague_prompts(5, 2, split)
        assert records[4].id == f"{name}-2-4"
