"""Methods at equal seconds: what is read, the table and the figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.alignment.methods import SWEEP, best_scores, course, main, mean_gain, read, table


def _write(path: Path, arms: dict[str, list[list[float]]]) -> None:
    rows = [
        {"seed": 0, "arm": arm, "guidance": scale, "scores": scores}
        for arm, by_scale in arms.items()
        for scale, scores in zip(SWEEP, by_scale, strict=True)
    ]
    rows += [{"seed": 0, "arm": "ppo", "held_out": 0.5 + at / 100, "at": at} for at in (0.0, 10.0, 20.0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_each_method_is_compared_at_its_own_best_guidance(tmp_path: Path, capsys) -> None:
    random = np.random.default_rng(0)
    first = random.random((4, 6)).round(3).tolist()
    ppo = (random.random((4, 6)) + 0.3).round(3).tolist()
    _write(tmp_path / "methods.jsonl", {"base": first, "first sft": first, "ppo": ppo})
    scores, curves = read(tmp_path / "methods.jsonl")
    assert curves == {("ppo", 0): [(0.0, 0.5), (10.0, 0.6), (20.0, 0.7)]}
    means = [np.mean(row) for row in ppo]
    assert best_scores(scores["ppo", 0]) == ppo[int(np.argmax(means))]
    gains = np.subtract(ppo[int(np.argmax(means))], first[int(np.argmax([np.mean(row) for row in first]))])
    half = 1.96 * gains.std(ddof=1) / 6**0.5
    line = table(scores).splitlines()[-1]
    cells = " | ".join(f"{each:.3f}" for each in means)
    assert line == f"| ppo | 1 | {cells} | {max(means):.3f} | {gains.mean():+.3f} ± {half:.3f} |"
    main(["--output_dir", str(tmp_path), "--table"])
    assert line in capsys.readouterr().out
    assert Image.open(tmp_path / "methods.png").size == (960, 540)


def test_parts_of_a_training_follow_one_another() -> None:
    curves = {
        ("all", 0): [(0.0, 0.5), (20.0, 0.9)],
        ("all: sft", 0): [(0.0, 0.4), (10.0, 0.6)],
        ("all: dpo", 0): [(0.0, 0.6), (5.0, 0.5)],
    }
    assert course(curves, "all", 0) == [(0, 0.4), (10, 0.6), (10, 0.6), (15, 0.5), (15, 0.5), (35, 0.9)]


def test_gains_are_means_over_seeds_at_equal_seconds() -> None:
    curves = {("ppo", 0): [(0.0, 0.5), (10.0, 0.6), (20.0, 0.7)], ("ppo", 1): [(0.0, 0.4), (12.0, 0.52)]}
    seconds, gains = mean_gain(curves, "ppo")
    assert seconds == [0, 10, 12]
    np.testing.assert_allclose(gains, [0, (0.1 + 0.1) / 2, (0.12 + 0.12) / 2])


def test_a_training_that_begins_again_replaces_its_curve(tmp_path: Path) -> None:
    rows = [{"seed": 0, "arm": "ppo", "held_out": gold, "at": at} for at, gold in ((0.0, 0.5), (40.0, 0.6))]
    (tmp_path / "methods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows[:1]]))
    assert read(tmp_path / "methods.jsonl")[1] == {("ppo", 0): [(0.0, 0.5)]}


def test_seeds_at_once_are_processes_and_a_failure_of_one_is_said(tmp_path: Path, monkeypatch) -> None:
    started = []

    class Process:
        def __init__(self, command: list[str]) -> None:
            started.append(command)
            self.seed = int(command[-1])

        def wait(self) -> int:
            return int(self.seed == 2)

        def terminate(self) -> None:
            pass

    monkeypatch.setattr("benchmarks.alignment.methods.subprocess.Popen", Process)
    words = ["--output_dir", str(tmp_path), "--methods", "ppo", "--at_once", "--seeds"]
    main([*words, "0", "1"])
    assert [command[-2:] for command in started] == [["--seeds", "0"], ["--seeds", "1"]]
    assert all(command[2] == "benchmarks.alignment.methods" for command in started)
    with pytest.raises(SystemExit, match="Seeds 2 have failed"):
        main([*words, "1", "2"])
