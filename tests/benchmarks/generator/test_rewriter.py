"""Pure parts of the benchmark of rewriters."""

from importlib import import_module

import pytest
import torch
from scipy import stats

from generator.testing import tiny_generator
from generator.world import render

rewriter = import_module("benchmarks.generator.rewriter")


def test_the_paired_interval_is_scipys():
    scores, others = torch.rand(200, dtype=torch.float64), torch.rand(200, dtype=torch.float64)
    mean, half = rewriter.paired(scores, others)
    difference = (scores - others).numpy()
    low, high = stats.norm.interval(0.95, difference.mean(), stats.sem(difference))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-4)


def test_scores_are_kept_and_no_video_is_made_twice(tmp_path, monkeypatch):
    file, made = tmp_path / "scores.jsonl", []
    generator = tiny_generator()

    def generate(texts, seed, **more):
        made.extend(zip(texts, seed, strict=True))
        return torch.stack([render(text, seed=s) for text, s in zip(texts, seed)])

    monkeypatch.setattr(generator, "generate", generate)
    prompts = ["a red circle", "a blue square", "a green star"]
    first = rewriter.Scores(generator, 4, file, batch_size=2).gold(prompts, prompts, 1.0)
    assert first.tolist() == pytest.approx([1, 1, 1], abs=0.05)
    assert [seed for _, seed in made] == [0, 1, 2]
    again = rewriter.Scores(generator, 4, file, batch_size=2)
    others = [prompts[0], "a red square", prompts[2]]
    second = again.gold(others, prompts, 1.0)
    assert made[3:] == [("a red square", 1)]
    assert second[1] < first[1]
    again.gold(prompts, prompts, 3.0)
    assert len(made) == 7


def test_each_addition_is_tried_alone_in_plain_words():
    texts = rewriter.added_texts(["a disc drifts left"], ["colour", "size+background"])
    assert {name: said for name, (said,) in texts.items()} == {
        "plain": "a circle moves left",
        "colour": "a blue circle moves left",
        "size+background": "a medium circle moves left on a dark background",
    }


def test_lines_of_the_table_compare_with_the_row_that_is_named():
    prompts = ["a disc", "a red ring"]
    texts = {"none": prompts, "world": ["a blue circle", "a red ring"]}
    scores = {"none": torch.tensor([0.5, 0.5]), "world": torch.tensor([1.0, 0.5])}
    lines = rewriter.rows(prompts, texts, scores, "none")
    assert lines[0] == "| none | 1.0000 | 1.0000 | 0.500 | – | – |"
    assert lines[1].startswith("| world | 1.0000 | 1.0000 | 0.750 | +0.250 [")
    assert lines[1].endswith("| 0.50 |")


def test_the_share_of_kept_claims_is_that_of_all_prompts_together():
    prompts = ["a red circle moves left", "two stars"]
    assert rewriter.kept_share(prompts, ["a red circle moves left", "two stars"]) == 1
    assert rewriter.kept_share(prompts, ["a red circle", "a small star"]) == 5 / 7
