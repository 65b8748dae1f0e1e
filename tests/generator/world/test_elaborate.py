"""Vague prompts made long: every claim stays, what was open is said, and nothing held out is made up."""

from __future__ import annotations

import random

import pytest

from generator.output import InputError
from generator.world import Meaning, ObjectMeaning, parse, sample_meaning, sample_prompts
from generator.world.elaborate import (
    OPTIONS,
    describe_plainly,
    elaborate,
    is_faithful,
    kept_claims,
    vague_prompts,
    vary,
)
from generator.world.meaning import is_held_out, is_sayable


def test_plain_descriptions_are_understood() -> None:
    rng = random.Random(0)
    for _ in range(300):
        meaning = sample_meaning(rng)
        assert parse(describe_plainly(meaning)) == meaning


def test_elaborated_prompts_keep_every_claim_and_can_be_shown() -> None:
    for prompt in [*vague_prompts(200, split="test"), *sample_prompts(200, split="test")]:
        long = elaborate(prompt)
        assert is_faithful(prompt, long), (prompt, long)
        assert is_sayable(parse(long))


def test_what_is_open_is_said_in_the_preferred_value() -> None:
    assert elaborate("a disc drifts leftwards") == "a medium circle moves left"
    assert elaborate("a disc drifts leftwards", OPTIONS) == (
        "a medium blue circle moves left slowly on a dark background"
    )
    assert elaborate("something tiny", {"colour": ("green",)}) == "a small green shape"


def test_varied_prompts_keep_every_claim_in_other_words_and_values() -> None:
    rng = random.Random(0)
    prompt = "a disc drifts leftwards"
    found = [vary(prompt, rng) for _ in range(60)]
    assert all(is_faithful(prompt, long) and is_sayable(parse(long)) for long in found)
    assert len(set(found)) > 40
    assert len({parse(long).objects[0].colour for long in found}) > 4
    assert any(parse(long).objects[0].size is None for long in found)


def test_elaboration_makes_up_no_held_out_combination() -> None:
    for prompt in vague_prompts(200, split="train"):
        before, after = parse(prompt), parse(elaborate(prompt, OPTIONS))
        for said, found in zip(before.objects, after.objects, strict=True):
            if said.colour is None and found.colour is not None:
                assert not is_held_out(Meaning((ObjectMeaning(found.shape, colour=found.colour),)))


@pytest.mark.parametrize(
    ("rewritten", "kept"),
    [
        ("a big red circle moves to the left on a dark background", 4),
        ("a red square moves left", 3),
        ("a blue circle moves right", 2),
        ("a red circle moves left and a square", 0),
        ("a photograph of a cat", 0),
    ],
)
def test_kept_claims_are_counted(rewritten: str, kept: int) -> None:
    assert kept_claims("a red circle moves left", rewritten) == (kept, 4)


def test_a_pair_may_be_named_in_the_other_order() -> None:
    assert is_faithful("a red circle above a blue square", "a blue square below a red circle")
    assert not is_faithful("a red circle above a blue square", "a blue square above a red circle")


def test_vague_prompts_leave_something_open_and_respect_the_split() -> None:
    for split in ("train", "test"):
        prompts = vague_prompts(100, seed=3, split=split)
        assert prompts == vague_prompts(100, seed=3, split=split)
        for meaning in map(parse, prompts):
            assert is_held_out(meaning) == (split == "test")
            assert all(None in (said.colour, said.size, said.motion) for said in meaning.objects)


def test_prompts_that_are_not_the_worlds_are_refused() -> None:
    with pytest.raises(InputError, match="was not understood"):
        elaborate("a cat")
