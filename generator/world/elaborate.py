"""Vague prompts of the world made long: `elaborate` says what a prompt leaves open and keeps each of its claims."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from generator.output import InputError

from .grammar import describe, parse
from .meaning import (
    MOTIONS,
    Meaning,
    ObjectMeaning,
    count_claims,
    is_held_out,
    is_sayable,
    sample_meaning,
)

T = TypeVar("T")

OPTIONS: Mapping[str, Sequence[str]] = {
    "shape": ("circle", "square", "triangle", "ring", "cross", "star"),
    "colour": ("red", "blue", "yellow", "green", "purple", "orange", "pink", "cyan"),
    "background": ("dark", "grey", "light"),
    "size": ("medium", "large", "small"),
    "motion": ("still",),
    "speed": ("slowly", "quickly"),
}
"""Claims that `elaborate` can add, in the order in which it does, and their values in the order in which it tries
them."""

PREFERRED: Mapping[str, Sequence[str]] = {"size": OPTIONS["size"]}
"""Claims that `elaborate` adds by default: those that were measured to help `nano` (`docs/rewriting.md`)."""

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_OPEN = ("colour", "size", "motion")
"""Claims of an object that a vague prompt may leave open."""


class _FirstChoice(random.Random):
    """Takes the first of several phrases, and the usual order of words."""

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        return seq[0]

    def random(self) -> float:
        return 0.5


def describe_plainly(meaning: Meaning) -> str:
    """Says `meaning` in the first phrase of each claim and the usual order of words; `parse` inverts it."""
    return describe(meaning, _FirstChoice())


def elaborate(prompt: str, added: Mapping[str, Sequence[str]] = PREFERRED) -> str:
    """Says a prompt of the world anew, with every claim that it makes and those of `added` that it leaves open.

    A claim is added only where a clip can show it with all others (`is_sayable`) and where it makes no combination
    that is held out from training.

    Args:
        prompt: in the world's grammar.
        added: values by claim (`shape`, `colour`, `size`, `motion` and `speed` of each object, `background`), of which
            the first possible one is taken.

    Raises:
        InputError: the prompt is not one of the world.
    """
    meaning = parse(prompt)
    for claim, values in added.items():
        if claim == "background":
            if meaning.background is None:
                meaning = _first_sayable(meaning, (replace(meaning, background=value) for value in values))
            continue
        for place in range(len(meaning.objects)):
            if getattr(meaning.objects[place], claim) is None:
                meaning = _first_sayable(meaning, _with_claim(meaning, place, claim, values))
    return describe_plainly(meaning)


def vary(prompt: str, rng: random.Random) -> str:
    """Says a prompt of the world anew in other phrases, with every claim that it makes and some of `OPTIONS` that it
    leaves open, in values drawn at random; see `elaborate`."""
    names = [name for name in OPTIONS if rng.random() < 0.5]
    everything: Mapping[str, Sequence[str]] = {"motion": MOTIONS}
    added = {
        name: rng.sample(values, len(values))
        for name in names
        for values in [everything.get(name, OPTIONS[name])]
    }
    return describe(parse(elaborate(prompt, added)), rng)


def _with_claim(meaning: Meaning, place: int, claim: str, values: Sequence[str]) -> Iterator[Meaning]:
    """The meaning with one more claim about one object, for each value that makes no held-out combination."""
    said = meaning.objects[place]
    for value in values:
        changed: ObjectMeaning = replace(said, **{claim: value})  # type: ignore[arg-type]
        shape = changed.shape
        pairs = [ObjectMeaning(shape, colour=changed.colour), ObjectMeaning(shape, motion=changed.motion)]
        before = [
            ObjectMeaning(said.shape, colour=said.colour),
            ObjectMeaning(said.shape, motion=said.motion),
        ]
        new = [now for now, then in zip(pairs, before, strict=True) if now != then]
        if not any(is_held_out(Meaning((each,))) for each in new):
            objects = (*meaning.objects[:place], changed, *meaning.objects[place + 1 :])
            yield replace(meaning, objects=objects)


def _first_sayable(meaning: Meaning, options: Iterator[Meaning]) -> Meaning:
    """The first option that a clip can show; `meaning` itself where there is none."""
    return next((option for option in options if is_sayable(option)), meaning)


def kept_claims(original: str, rewritten: str) -> tuple[int, int]:
    """Claims of the original prompt that a rewritten one makes too, and all of them.

    The number of objects is a claim of its own; a pair may be named in the other order with the opposite relation. A
    rewritten prompt that the grammar does not understand keeps nothing.
    """
    said = parse(original)
    total = 1 + count_claims(said)
    try:
        found = parse(rewritten)
    except InputError:
        return 0, total
    if len(found.objects) != len(said.objects):
        return 0, total
    return 1 + max(_shared(said, each) for each in (found, _reversed(found))), total


def is_faithful(original: str, rewritten: str) -> bool:
    """Returns whether the rewritten prompt makes every claim of the original one."""
    kept, total = kept_claims(original, rewritten)
    return kept == total


def _reversed(meaning: Meaning) -> Meaning:
    relation = None if meaning.relation is None else _OPPOSITE[meaning.relation]
    return replace(meaning, objects=meaning.objects[::-1], relation=relation)


def _shared(said: Meaning, found: Meaning) -> int:
    """Number of claims beyond that of the number of objects that both meanings make."""
    pairs: list[tuple[Any, Any]] = [
        (getattr(one, field.name), getattr(other, field.name))
        for one, other in zip(said.objects, found.objects, strict=True)
        for field in fields(one)
    ]
    pairs += [(getattr(said, name), getattr(found, name)) for name in ("relation", "background", "camera")]
    return sum(wanted not in (None, 1) and wanted == got for wanted, got in pairs)


def vague_prompts(count: int, seed: int = 0, split: str = "train") -> list[str]:
    """`count` prompts of a split that leave open each object's colour, size or motion, or several of them.

    Those of the test split say a held-out combination.
    """
    rng = random.Random(f"vague-{seed}-{split}")
    found: list[str] = []
    while len(found) < count:
        meaning = sample_meaning(rng, split)
        vague = replace(meaning, objects=tuple(_left_open(said, rng) for said in meaning.objects))
        if is_held_out(vague) == (split == "test") and is_sayable(vague):
            found.append(describe(vague, rng))
    return found


def _left_open(said: ObjectMeaning, rng: random.Random) -> ObjectMeaning:
    """The object without some of its claims, one of `_OPEN` at least."""
    open_claims: dict[str, Any] = {name: None for name in _OPEN if rng.random() < 0.5}
    open_claims = open_claims or {rng.choice(_OPEN): None}
    if "motion" in open_claims:
        open_claims["speed"] = None
    return replace(said, **open_claims)
