"""Examples are chosen by the rules that the page states, and their scores follow from their ticks."""

from dataclasses import replace

import pytest
import torch

from generator.world import verify_batch
from reward.adherence.evaluate import Sample
from reward.reports.examples import choose, quartiles, rows, score_text

SAMPLES = [Sample("base", f"p{i}", 0, 0.5) for i in range(9)]
SAMPLES += [Sample("new", f"p{i}", 0, 0.5 + (i - 3) / 10) for i in range(9)]
SAMPLES += [Sample("new", "p9", 0, 1.0)]  # the base has no video of it


def prompts(groups) -> list[str]:
    return [group["new"].prompt for group in groups]


def test_gains_and_losses_are_the_largest_of_the_shown_model():
    gains, losses, drawn = choose(SAMPLES, "new", "base", count=2)
    assert prompts(gains.groups) == ["p8", "p7"]
    assert prompts(losses.groups) == ["p0", "p1"]
    assert len(drawn.groups) == 2
    assert prompts(choose(SAMPLES, "new", "base", count=2)[2].groups) == prompts(drawn.groups)
    assert "all 9" in drawn.rule


def test_a_model_that_lost_nowhere_shows_no_losses_and_says_so():
    better = [sample for sample in SAMPLES if sample.prompt >= "p4"]
    _, losses, _ = choose(better, "new", "base")
    assert losses.groups == []
    assert "there is none" in losses.rule


def test_the_first_screen_shows_the_quartiles_of_the_gains():
    rule, groups = quartiles(SAMPLES, "new", "base")
    assert prompts(groups) == ["p6", "p2"]
    assert "upper quartile of the gains of new" in rule


def test_one_seed_of_a_prompt_is_shown_as_its_gain_and_another_as_its_loss():
    both = [*SAMPLES, Sample("base", "p0", 1, 0.0), Sample("new", "p0", 1, 1.0)]
    gains, losses, _ = choose(both, "new", "base", count=1)
    assert (gains.groups[0]["new"].prompt, gains.groups[0]["new"].seed) == ("p0", 1)
    assert (losses.groups[0]["new"].prompt, losses.groups[0]["new"].seed) == ("p0", 0)


def test_the_score_of_the_world_follows_from_ticks_and_factor():
    video = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompt = "a red circle moves left"
    found = verify_batch(video, [prompt])[0]
    assert found.score == pytest.approx(sum(found.parts.values()) / len(found.parts) * found.factor)
    sample = Sample("m", prompt, 0, 0.6, {"a": True, "b": True, "c": False}, factor=0.9)
    assert score_text(sample) == "2 of 3 × 0.90"
    assert score_text(replace(sample, score=0.5)) == ""  # it does not follow


def test_answers_with_a_failed_parent_count_nothing():
    answers = {"cat": 0.2, "red": 0.9, "dog": 0.7}
    sample = Sample("m", "p", 0, 0.3, {"cat": False, "red": False, "dog": True}, answers=answers)
    assert score_text(sample) == "mean of 3 answers"
    row = rows([{"m": sample}], lambda _: (torch.zeros(3, 2, 8, 8), 8.0), 10_000, "folder/")[0]
    assert [text for _, text in row.cells[0].ticks] == ["cat 0.20", "red 0.00", "dog 0.70"]


def test_links_lead_from_the_page_to_the_files():
    sample = Sample("m", "p", 0, 0.3, file_name="videos/a b#1.mp4")
    row = rows([{"m": sample}], lambda _: (torch.zeros(3, 2, 8, 8), 8.0), 10_000, "folder/")[0]
    assert row.cells[0].link == "folder/videos/a%20b%231.mp4"
