"""Prompts of the video world: `describe` says a meaning in one of many ways, `parse` inverts every one of them.

A prompt is a sequence of *phrases*, each with one meaning ("to the left" is a direction, "to the left of" a
relation); the parser takes the longest phrase at each position. Phrases between two object delimiters ("and a",
a relation) belong to one object; background and camera phrases may stand anywhere.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from generator.one_or_several import as_list
from generator.output import InputError

from .meaning import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    MOTIONS,
    RELATIONS,
    SIZES,
    SPEEDS,
    SPLITS,
    Meaning,
    ObjectMeaning,
    corrupt,
    is_held_out,
    is_sayable,
    sample_meaning,
)
from .shapes import COLOURS, SHAPES

__all__ = [
    "BACKGROUNDS",
    "CAMERAS",
    "CATEGORIES",
    "COLOURS",
    "DIRECTIONS",
    "MOTIONS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPEEDS",
    "SPLITS",
    "VOCABULARY",
    "Meaning",
    "ObjectMeaning",
    "categories",
    "corrupt",
    "describe",
    "is_held_out",
    "is_sayable",
    "parse",
    "sample_meaning",
    "sample_prompts",
]

CATEGORIES = ("object", "attribute", "count", "relation", "motion", "camera", "background")

NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus"),
    None: ("shape", "object", "thing"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
COLOUR_WORDS = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "magenta"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
SPEED_WORDS = {"slowly": ("slowly", "gently", "at a slow pace"), "quickly": ("quickly", "fast", "rapidly")}
TRAVEL_VERBS = (("moves", "move", "moving"), ("drifts", "drift", "drifting"), ("slides", "slide", "sliding"),
                ("travels", "travel", "travelling"), ("glides", "glide", "gliding"))  # fmt: skip
DIRECTION_PHRASES = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
    "upper left": ("to the upper left", "up and left", "diagonally up and to the left"),
    "upper right": ("to the upper right", "up and right", "diagonally up and to the right"),
    "lower left": ("to the lower left", "down and left", "diagonally down and to the left"),
    "lower right": ("to the lower right", "down and right", "diagonally down and to the right"),
}
ACTIONS = {
    "growing": (
        ("grows", "grow", "growing"),
        ("gets bigger", "get bigger", "getting bigger"),
        ("expands", "expand", "expanding"),
    ),
    "shrinking": (("shrinks", "shrink", "shrinking"), ("gets smaller", "get smaller", "getting smaller")),
    "spinning": (
        ("spins", "spin", "spinning"),
        ("rotates", "rotate", "rotating"),
        ("spins in place", "spin in place", "spinning in place"),
    ),
    "circling": (
        ("moves in a circle", "move in a circle", "moving in a circle"),
        ("orbits", "orbit", "orbiting"),
        ("goes round and round", "go round and round", "going round and round"),
    ),
    "bouncing": (
        ("bounces", "bounce", "bouncing"),
        ("bounces up and down", "bounce up and down", "bouncing up and down"),
        ("hops up and down", "hop up and down", "hopping up and down"),
    ),
    "still": (
        ("stays still", "stay still", "staying still"),
        ("rests", "rest", "resting"),
        ("does not move", "do not move", "not moving"),
    ),
}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under", "beneath"),
}
BACKGROUND_WORDS = {"dark": ("dark", "black"), "grey": ("grey", "gray"), "light": ("light", "white")}
BACKGROUND_PHRASES = ("on a {} background", "against a {} background", "in front of a {} backdrop")
CAMERA_PHRASES = {
    "pan left": ("the camera pans left", "the camera pans to the left", "camera panning left"),
    "pan right": ("the camera pans right", "the camera pans to the right", "camera panning right"),
    "zoom in": ("the camera zooms in", "camera zooming in", "the camera slowly zooms in"),
    "zoom out": ("the camera zooms out", "camera zooming out", "the camera slowly zooms out"),
}
COUNT_WORDS = {2: ("two", "a pair of"), 3: ("three",)}
_DELIMITERS = ("and a", "and an", "and something", "while a", "while an", "while something")
_FILLERS = ("a", "an", "the", "is", "are", "that", "which", "it", "and", "as", "while", "there", "in",
            *(form for verb in TRAVEL_VERBS for form in verb))  # fmt: skip


def _plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def _phrases() -> Iterator[tuple[str, str, Any]]:
    """Every phrase as (text, kind, value)."""
    for shape, nouns in NOUNS.items():
        for noun in nouns:
            yield noun, "noun", (shape, 1)
            yield _plural(noun), "noun", (shape, 2)
    yield "something", "noun", (None, 1)
    said: tuple[tuple[str, Mapping[Any, tuple[str, ...]]], ...] = (
        ("colour", COLOUR_WORDS),
        ("size", SIZE_WORDS),
        ("speed", SPEED_WORDS),
        ("motion", DIRECTION_PHRASES),
        ("relation", RELATION_PHRASES),
        ("camera", CAMERA_PHRASES),
        ("count", COUNT_WORDS),
    )
    for kind, words in said:
        for value, texts in words.items():
            for text in texts:
                yield text, kind, value
    for motion, forms in ACTIONS.items():
        for form in forms:
            for text in form:
                yield text, "motion", motion
    for background, greys in BACKGROUND_WORDS.items():
        for word in greys:
            for phrase in BACKGROUND_PHRASES:
                yield phrase.format(word), "background", background
    for text in _DELIMITERS:
        yield text, "delimiter", text
    for text in _FILLERS:
        yield text, "filler", text


_TABLE = {tuple(text.split()): (kind, value) for text, kind, value in _phrases()}
_LONGEST_PHRASE = max(map(len, _TABLE))
VOCABULARY: tuple[str, ...] = (*sorted({word for phrase in _TABLE for word in phrase}), ",", ".")
"""Every word and punctuation mark that a prompt may contain, in lower case."""


def _noun_phrase(said: ObjectMeaning, rng: random.Random) -> str:
    """The object with its article or count, without its motion."""
    noun = rng.choice(NOUNS[said.shape])
    colour = rng.choice(COLOUR_WORDS[said.colour]) if said.colour is not None else ""
    size = rng.choice(SIZE_WORDS[said.size]) if said.size is not None else ""
    if said.count > 1:
        words = [rng.choice(COUNT_WORDS[said.count]), size, colour, _plural(noun)]
        return " ".join(word for word in words if word)
    if said.shape is None and colour and rng.random() < 0.4:
        return " ".join(word for word in ("something", size, colour) if word)
    form = rng.random()
    if colour and form < 0.08:
        words, after = [size, noun], f", {colour},"
    elif colour and form < 0.16:
        words, after = [size, noun], f" that is {colour}"
    elif size and form > 0.92:
        words, after = [colour, noun], f" that is {size}"
    else:
        words, after = [size, colour, noun], ""
    text = " ".join(word for word in words if word)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}{after}"


def _motion_phrase(said: ObjectMeaning, rng: random.Random, participle: bool) -> str:
    """The motion as a finite verb ("moves left") or a participle ("moving left")."""
    if said.motion is None:
        return ""
    form = 2 if participle else (1 if said.count > 1 else 0)
    if said.motion not in DIRECTIONS:
        return rng.choice(ACTIONS[said.motion])[form]
    verb = rng.choice(TRAVEL_VERBS)[form]
    direction = rng.choice(DIRECTION_PHRASES[said.motion])
    if said.speed is None:
        return f"{verb} {direction}"
    speed = rng.choice(SPEED_WORDS[said.speed])
    return (
        f"{speed} {verb} {direction}"
        if speed in ("slowly", "quickly") and rng.random() < 0.3
        else f"{verb} {direction} {speed}"
    )


def _object_clause(said: ObjectMeaning, rng: random.Random, participle: bool) -> str:
    return f"{_noun_phrase(said, rng)} {_motion_phrase(said, rng, participle)}".strip()


def describe(meaning: Meaning, rng: random.Random) -> str:
    """Says `meaning` as a lower-case prompt of at most 36 words, with random synonyms and word order."""
    participle = meaning.relation is not None or rng.random() < 0.35
    clauses = [_object_clause(said, rng, participle) for said in meaning.objects]
    if meaning.relation is not None:
        relation = rng.choice(RELATION_PHRASES[meaning.relation])
        body = f"{clauses[0]} {rng.choice(('', 'is '))}{relation} {clauses[1]}"
    elif len(clauses) == 2:
        joint = "while" if not participle and meaning.objects[0].motion and rng.random() < 0.4 else "and"
        body = f"{clauses[0]} {joint} {clauses[1]}"
    else:
        body = clauses[0]
    if meaning.background is not None:
        word = rng.choice(BACKGROUND_WORDS[meaning.background])
        phrase = rng.choice(BACKGROUND_PHRASES).format(word)
        body = f"{phrase}, {body}" if rng.random() < 0.2 else f"{body} {phrase}"
    if meaning.camera is not None:
        phrase = rng.choice(CAMERA_PHRASES[meaning.camera])
        form = rng.random()
        if form < 0.3:
            body = f"{phrase}, {body}"
        elif form < 0.6 and phrase.startswith("the"):
            body = f"{body} {rng.choice(('while', 'as'))} {phrase}"
        else:
            body = f"{body}, {phrase}"
    return " ".join(body.replace(" ,", ",").replace(",,", ",").rstrip(",").split())


def _tokens(prompt: str) -> list[str]:
    for mark in ",.;:!?":
        prompt = prompt.replace(mark, " ")
    return prompt.lower().split()


def _segment(prompt: str) -> list[tuple[str, Any, str]]:
    """Cuts the prompt into (kind, value, text), longest phrase first."""
    tokens = _tokens(prompt)
    phrases: list[tuple[str, Any, str]] = []
    start = 0
    while start < len(tokens):
        for length in range(min(_LONGEST_PHRASE, len(tokens) - start), 0, -1):
            found = _TABLE.get(tuple(tokens[start : start + length]))
            if found is not None:
                phrases.append((found[0], found[1], " ".join(tokens[start : start + length])))
                start += length
                break
        else:
            raise InputError(
                f"The word {tokens[start]!r} in the prompt {prompt!r} was not understood{_hint(tokens[start])}: "
                "use the video world's vocabulary, as in 'a red circle moves left on a dark background'."
            )
    return phrases


def _hint(word: str) -> str:
    """Guess at the intended text: a phrase with the word, or the nearest word."""
    phrases = [" ".join(phrase) for phrase in _TABLE if word in phrase]
    if phrases:
        return f" (it is known in {min(phrases, key=len)!r})"
    near = difflib.get_close_matches(word, VOCABULARY, n=1)
    return f" (the nearest known word is {near[0]!r})" if near else ""


def _put(claims: dict[str, Any], kind: str, value: object, prompt: str) -> None:
    if claims.get(kind, value) != value:
        raise InputError(
            f"The prompt {prompt!r} says both {claims[kind]!r} and {value!r} of one thing, but one {kind} was "
            "expected: leave one out."
        )
    claims[kind] = value


@lru_cache(maxsize=65536)
def parse(prompt: str) -> Meaning:
    """The meaning of a prompt, the inverse of `describe`.

    Raises:
        InputError: a word is not understood, no object is named, or the claims contradict each other.
    """
    objects: list[dict[str, Any]] = [{}]
    world: dict[str, Any] = {}
    for kind, value, text in _segment(prompt):
        if kind == "delimiter" or kind == "relation":
            if kind == "relation":
                _put(world, "relation", value, prompt)
            if "noun" not in objects[-1]:
                raise InputError(
                    f"The prompt {prompt!r} names no object before {text!r}: name one, as in 'a circle'."
                )
            objects.append({"noun": (None, 1)} if text.endswith("something") else {})
        elif kind in ("background", "camera"):
            _put(world, kind, value, prompt)
        elif kind != "filler":
            _put(objects[-1], kind, value, prompt)
    if not all("noun" in claims for claims in objects) or len(objects) > 2:
        raise InputError(
            f"The prompt {prompt!r} names {sum('noun' in claims for claims in objects)} objects in "
            f"{len(objects)} clauses, but one or two were expected: write it as in 'a red circle above a square'."
        )
    return Meaning(tuple(_object(claims, prompt) for claims in objects), **world)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises `InputError` where a prompt is not one of the world; it counts them and explains the first."""
    wrong: list[InputError] = []
    prompts = as_list(prompts)
    for prompt in prompts:
        try:
            parse(prompt)
        except InputError as error:
            wrong.append(error)
    if wrong:
        others = (
            f" ({len(wrong)} of {len(prompts)} prompts are not the video world's.)" if len(wrong) > 1 else ""
        )
        raise InputError(f"{wrong[0]}{others}")


def _object(claims: dict[str, Any], prompt: str) -> ObjectMeaning:
    shape, number = claims.pop("noun")
    count = claims.get("count", 1)
    if (count == 1) != (number == 1):
        raise InputError(
            f"The prompt {prompt!r} mixes singular and plural: write 'two circles' or 'a circle'."
        )
    return replace(ObjectMeaning(shape=shape), **claims)


def sample_prompts(n: int, seed: int = 0, split: str = "train", still_image: bool = False) -> list[str]:
    """`n` prompts of a split; half of them about one object, the others counts, pairs and camera motions."""
    rng = random.Random(f"{seed}-{split}")
    return [describe(sample_meaning(rng, split, still_image), rng) for _ in range(n)]


def categories(prompt: str) -> set[str]:
    """Those of `CATEGORIES` that the prompt makes claims about."""
    meaning = parse(prompt)
    found = {"object"}
    for said in meaning.objects:
        if said.shape is not None or said.colour is not None or said.size is not None:
            found.add("attribute")
        if said.count > 1:
            found.add("count")
        if said.motion is not None:
            found.add("motion")
    for name in ("relation", "camera", "background"):
        if getattr(meaning, name) is not None:
            found.add(name)
    return found
