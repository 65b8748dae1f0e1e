"""Gold of rollouts by solver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.alignment import rollout_solvers


def test_each_solver_and_number_of_steps_has_a_row_with_the_same_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "rollout_solvers", "--model", "nano-v1", "--device", "cpu", "--guidance_scale", "1", "--prompts", "3",
        "--groups", "2", "--steps", "4", "2", "--solvers", "euler", "ab2",
    ]  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {}
    for window in ("0.5", "0"):
        file = tmp_path / f"{window}.jsonl"
        monkeypatch.setattr("sys.argv", [*words, "--window", window, "--json", str(file)])
        rollout_solvers.main()
        found[window] = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [(row["steps"], row["stochastic"], row["solver"]) for row in found["0.5"]]
    assert rows == [(4, 2, "euler"), (4, 2, "ab2"), (2, 1, "euler"), (2, 1, "ab2")]
    assert [row["stochastic"] for row in found["0"]] == [0] * 4
    assert all(0 <= row["gold"] <= 1 and row["seconds"] > 0 for rows in found.values() for row in rows)
    one_step_behind = found["0.5"][2:]  # which is Euler's with every solver
    assert one_step_behind[0]["gold"] == one_step_behind[1]["gold"]
    assert capsys.readouterr().out.count("| `ab2` |") == 4
