"""`vidalign rewrite`: prompts in, pairs out, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.cli import main
from generator.data.prompts import read_prompts
from generator.world.elaborate import elaborate


def test_rewritten_prompts_are_a_prompt_file_that_keeps_the_originals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out" / "rewritten.jsonl"
    prompts.write_text("a disc\ntwo squares\n")
    words = ["rewrite", "--prompts", str(prompts), "--rewriter", "world", "--output_file", str(out)]
    assert main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a disc", "two squares"]
    assert [each.model_prompt for each in read_prompts(out)] == [
        elaborate("a disc"),
        elaborate("two squares"),
    ]
    assert main(words) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    prompts.write_text("a dog\n")
    before = out.read_text()
    assert main([*words, "--overwrite"]) == 2
    assert out.read_text() == before


def test_a_rewriter_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a disc\n")
    out = tmp_path / "new" / "rewritten.jsonl"
    assert main(["rewrite", "--prompts", str(tmp_path / "prompts.txt"), "--output_file", str(out)]) == 2
    assert "pass --rewriter world" in capsys.readouterr().err
    assert not out.parent.exists()
