"""Prompts and meanings."""

from __future__ import annotations

import random

import pytest

from generator.output import InputError
from generator.world import (
    CATEGORIES,
    VOCABULARY,
    Meaning,
    ObjectMeaning,
    categories,
    corrupt,
    describe,
    parse,
    sample_meaning,
    sample_prompts,
)
from generator.world.meaning import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    count_claims,
    is_held_out,
    is_sayable,
)


def words(prompt: str) -> list[str]:
    return prompt.replace(",", " , ").split()


def combinations(meaning: Meaning) -> set[tuple[str, ...]]:
    """Every (colour, shape), (shape, motion) and (shape, relation, shape) that the meaning says, written anew."""
    found: set[tuple[str, ...]] = set()
    for said in meaning.objects:
        if said.colour and said.shape:
            found.add((said.colour, said.shape))
        if said.motion and said.shape:
            found.add((said.shape, said.motion))
    if meaning.relation and all(said.shape for said in meaning.objects):
        found.add((str(meaning.objects[0].shape), meaning.relation, str(meaning.objects[1].shape)))
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_parse_inverts_describe(split: str) -> None:
    rng = random.Random(3)
    for trial in range(3000):
        meaning = sample_meaning(rng, split, still_image=trial % 5 == 0)
        assert parse(describe(meaning, rng)) == meaning


def test_prompts_are_short_lower_case_and_in_the_vocabulary() -> None:
    prompts = sample_prompts(2000, seed=1) + sample_prompts(1000, seed=1, split="test")
    assert {word for prompt in prompts for word in words(prompt)} <= set(VOCABULARY)
    assert max(len(words(prompt)) for prompt in prompts) <= 36
    assert all(prompt == prompt.lower() for prompt in prompts)


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(SIZES) == 3
    assert len(MOTIONS) >= 12
    meanings = [parse(prompt) for prompt in sample_prompts(4000, seed=2)]
    said = [said for meaning in meanings for said in meaning.objects]
    assert {one.shape for one in said} == {None, *SHAPES}
    assert {one.colour for one in said} == {None, *COLOURS}
    assert {one.motion for one in said} == {None, *MOTIONS}
    assert {one.count for one in said} == {1, 2, 3}
    assert {meaning.relation for meaning in meanings} == {None, *RELATIONS}


def test_no_training_prompt_says_a_combination_that_defines_a_test_prompt() -> None:
    rng = random.Random(0)
    seen: set[tuple[str, ...]] = set()
    for _ in range(6000):
        meaning = sample_meaning(rng, "train")
        seen |= combinations(meaning) | combinations(corrupt(meaning, rng))
    for _ in range(1500):
        assert combinations(sample_meaning(rng, "test")) - seen


def test_between_a_tenth_and_a_fifth_of_the_combinations_are_held_out() -> None:
    pairs = [Meaning((ObjectMeaning(shape=s, colour=c),)) for s in SHAPES for c in COLOURS]
    moves = [Meaning((ObjectMeaning(shape=s, motion=m),)) for s in SHAPES for m in MOTIONS]
    for group in (pairs, moves):
        assert 0.1 < sum(map(is_held_out, group)) / len(group) < 0.2


def test_a_wrong_caption_is_sayable_and_makes_as_many_claims_but_for_a_speed() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        meaning = sample_meaning(rng)
        wrong = corrupt(meaning, rng)
        assert wrong != meaning
        assert is_sayable(wrong)
        lost_speeds = sum(
            old.speed is not None and new.motion not in DIRECTIONS
            for old, new in zip(meaning.objects, wrong.objects, strict=True)
        )
        assert count_claims(meaning) - count_claims(wrong) == lost_speeds


def test_a_caption_of_a_still_image_says_neither_motion_nor_camera() -> None:
    found = set().union(*(categories(prompt) for prompt in sample_prompts(500, 3, still_image=True)))
    assert found == set(CATEGORIES) - {"motion", "camera"}


def test_half_of_the_prompts_are_about_one_object_without_camera() -> None:
    found = [categories(prompt) for prompt in sample_prompts(4000, 4)]
    meanings = [parse(prompt) for prompt in sample_prompts(4000, 4)]
    single = sum(len(m.objects) == 1 and m.objects[0].count == 1 and m.camera is None for m in meanings)
    assert 0.4 < single / 4000 < 0.65
    for category in CATEGORIES:
        assert sum(category in one for one in found) > 200


def test_a_weight_of_two_for_several_objects_doubles_the_odds_of_each_such_draw() -> None:
    def odds(several: float) -> float:
        rng = random.Random(5)
        drawn = [sample_meaning(rng, several=several) for _ in range(2000)]
        count = sum(len(meaning.objects) == 2 or meaning.objects[0].count > 1 for meaning in drawn)
        return count / (2000 - count)

    assert odds(2.0) / odds(1.0) == pytest.approx(2.0, rel=0.2)


def test_prompts_are_the_same_for_the_same_seed_only() -> None:
    assert sample_prompts(20, 7) == sample_prompts(20, 7)
    assert sample_prompts(20, 7) != sample_prompts(20, 8)


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a red circle moves to the left", Meaning((ObjectMeaning("circle", "red", motion="left"),))),
        ("A disc, red, drifting left on a dark background",
         Meaning((ObjectMeaning("circle", "red", motion="left"),), background="dark")),
        ("a circle to the left of a square",
         Meaning((ObjectMeaning("circle"), ObjectMeaning("square")), relation="left of")),
        ("something blue", Meaning((ObjectMeaning(colour="blue"),))),
        ("two tiny stars bounce", Meaning((ObjectMeaning("star", size="small", motion="bouncing", count=2),))),
    ],
)  # fmt: skip
def test_paraphrases_mean_what_they_say(prompt: str, meaning: Meaning) -> None:
    assert parse(prompt) == meaning


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red elephant", "elephant"),
        ("a red squar", "square"),
        ("red and quickly", "names 0 objects"),
        ("", "names 0 objects"),
        ("a red blue circle", "both 'red' and 'blue'"),
        ("a circle and a square and a star", "3 clauses"),
        ("two circle", "plural"),
        ("a red disc still", "'still' .* known in 'stay still'"),
        ("a redd disc", "nearest known word is 'red'"),
    ],
)
def test_a_prompt_that_is_not_understood_is_refused_by_name(prompt: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse(prompt)
