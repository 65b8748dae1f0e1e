"""Rewards against gold within prompts: the figures by counting, and the command at its smallest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.reward import within_prompts


def test_the_figures_are_those_of_counting() -> None:
    random = np.random.default_rng(0)
    gold = random.integers(0, 4, (12, 5)) / 3
    gold[0] = 0.5  # a prompt whose videos are all alike counts for the first video alone
    scores = gold + random.normal(0, 0.4, gold.shape)
    prompts = [f"prompt {number}" for number in range(12)]
    right = told = 0
    for row in range(12):
        for a, b in itertools.combinations(range(5), 2):
            if gold[row, a] != gold[row, b]:
                told += 1
                right += (gold[row, a] > gold[row, b]) == (scores[row, a] > scores[row, b])
    found = within_prompts.within(gold, scores, prompts)
    assert found["pairs"].mean == pytest.approx(right / told)
    assert 0.5 < right / told < 1
    expected = [np.corrcoef(gold[row], scores[row])[0, 1] for row in range(1, 12) if np.ptp(gold[row])]
    assert found["correlation"].mean == pytest.approx(np.mean(expected))
    best = [gold[row, int(np.argmax(scores[row]))] for row in range(12)]
    assert found["first"].mean == pytest.approx(np.mean(best))


def test_gold_itself_is_always_right() -> None:
    gold = np.random.default_rng(1).random((9, 4))
    found = within_prompts.within(gold, gold, [str(row) for row in range(9)])
    assert found["pairs"].mean == found["correlation"].mean == 1.0
    assert found["first"].mean == pytest.approx(gold.max(1).mean())


def test_the_command_judges_another_generators_videos(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        "nano-v1",
        "--rewards",
        "nano-v1-reward",
        "nano-reward",
        "--prompts",
        "4",
        "--videos",
        "3",
    ]
    rows = within_prompts.main([*words, "--num_inference_steps", "2", "--device", "cpu"])
    assert [row["reward"] for row in rows] == ["nano-v1-reward", "nano-reward"]
    assert all(0 <= row["pairs"]["mean"] <= 1 for row in rows)
    assert "12 videos of nano-v1, guidance 3" in capsys.readouterr().out
