"""The head of a report says what was found, with model, guidance and number of prompts."""

import math

import pytest

from reward.adherence.evaluate import Sample, summarise
from reward.reports.changes import Change, changes
from reward.reports.page import sides_of
from reward.reports.sentences import (
    Subject,
    guidance_text,
    measure_of,
    result_sentence,
    reward_sentence,
)

SUBJECT = Subject("nano", guidance_text(1.0), "30 held-out prompts")


def samples_with(gain: float, prompts: int = 30, flicker: float = 0.0):
    return [
        Sample(
            model,
            f"p{p}",
            0,
            0.3 + 0.01 * p + (gain * (1 + p % 3) / 2 if model == "ppo" else 0.0),
            categories=["count"] if p % 2 else ["motion"],
            measures={"flicker": 0.1 + 0.001 * p + (flicker if model == "ppo" else 0.0), "motion": 0.5},
        )
        for model in ("base", "ppo")
        for p in range(prompts)
    ]


@pytest.mark.parametrize(
    ("gain", "prompts", "beginning"),
    [
        (0.1, 30, "ppo follows prompts better than base: adherence rises from"),
        (-0.1, 30, "ppo follows prompts worse than base: adherence falls from"),
        (0.0, 30, "ppo cannot be told from base: adherence"),
        (0.1, 4, "Fewer than 6 prompts are too few to tell ppo from base"),
    ],
)
def test_the_sentence_follows_the_verdict(gain, prompts, beginning):
    sentence = result_sentence(summarise(samples_with(gain, prompts)), "base", SUBJECT)
    assert sentence.startswith(beginning)
    assert sentence.endswith("on 30 held-out prompts, nano without guidance (scale 1).")


def test_a_single_model_is_described():
    summary = summarise([sample for sample in samples_with(0.1) if sample.model == "base"])
    sentence = result_sentence(summary, "base", SUBJECT)
    assert sentence.startswith("base has a mean adherence of 0.445 (95 % interval 0.41")


def test_scores_of_rewards_are_not_called_adherence():
    summary = summarise(samples_with(0.1))
    subject = Subject("wan", guidance_text(5.0), "30 prompts", measure_of("pickscore"))
    sentence = result_sentence(summary, "base", subject)
    assert sentence.startswith("ppo scores higher than base: pickscore rises from")
    assert sentence.endswith("on 30 prompts, wan at guidance 5.")
    assert measure_of("vlm:folder") == measure_of("world") == "adherence"


def test_gains_and_losses_stand_beside_each_other():
    summary = summarise(samples_with(0.1, flicker=0.02))
    (gains, losses), between = sides_of(changes(summary, "ppo", "base"))
    assert [name for name, _, _ in gains.items] == ["adherence in “count”", "adherence in “motion”"]
    assert [(name, value) for name, value, _ in losses.items] == [("flicker", "+0.020")]
    assert between == "No clear change: motion."


def test_less_flicker_is_a_gain_and_less_motion_a_loss():
    still = [
        Sample(s.model, s.prompt, 0, s.score, measures={"flicker": m, "motion": m})
        for s in samples_with(0.0)
        for m in [0.5 + 0.001 * int(s.prompt[1:]) - (0.2 if s.model == "ppo" else 0)]
    ]
    (gains, losses), _ = sides_of(changes(summarise(still), "ppo", "base"))
    assert [name for name, _, _ in gains.items] == ["flicker"]
    assert [name for name, _, _ in losses.items] == ["motion"]


def figures(mean: float, low: float | None, high: float | None, first: float = 0.3):
    row = {"mean": mean, "low": low, "high": high, "n": 200, "clusters": 50}
    return {
        "accuracy": row,
        "accuracy_with_ties": row,
        "chance": 0.5,
        "position_baseline": first,
        "majority_baseline": 0.45,
    }


def test_the_reward_model_is_compared_with_each_baseline():
    said = reward_sentence("It", figures(0.68, 0.6, 0.75), 0.9)
    assert said == (
        "It orders 68 % of 200 held-out pairs of 50 prompts as people do (95 % interval 60 % to 75 %): better than "
        "chance (50 %) and always giving the commonest answer (45 %); not distinguishable from always preferring the "
        "video that stands last (70 %). A perfect model would reach 90 %."
    )
    assert "worse than always preferring" in reward_sentence("It", figures(0.6, 0.55, 0.65))
    assert "too few prompts for an interval): not dist" in reward_sentence("It", figures(0.9, None, None))
    assert "unknown" in reward_sentence("It", figures(math.nan, None, None))


@pytest.mark.parametrize(
    ("mean", "low", "high", "verdict"),
    [
        (0.0006, 0.0001, 0.0011, "gain"),
        (0.0004, 0.0001, 0.0007, "unclear"),
        (-0.0004, -0.0007, -0.0001, "unclear"),
    ],
)
def test_a_change_that_three_digits_do_not_show_is_no_gain(mean, low, high, verdict):
    assert Change("consistency", False, mean, low, high, 0.9, 128).verdict == verdict
