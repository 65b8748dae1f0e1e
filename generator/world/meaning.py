"""Meanings of the video world's prompts: claims about objects, their relation, the background and the camera.

A claim that is `None` is left unsaid. `is_sayable` holds the rules that make every said claim truly visible;
`sample_meaning` draws meanings of the training or the test split, and `corrupt` makes the wrong caption that web
data is full of.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from .shapes import COLOURS, HALF_HEIGHT, HALF_WIDTH, SHAPES, SYMMETRY

SIZES = ("small", "medium", "large")
RADII = {"small": 0.11, "medium": 0.16, "large": 0.23}
"""Equal-area radius in units of the frame's shorter side."""

DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "upper left": (-1, -1),
    "upper right": (1, -1),
    "lower left": (-1, 1),
    "lower right": (1, 1),
}
"""Sign of the x and y velocity, y downwards."""

MOTIONS = (*DIRECTIONS, "growing", "shrinking", "spinning", "circling", "bouncing", "still")
SPEEDS = {"slowly": (0.08, 0.11), "quickly": (0.20, 0.27)}
"""Range of the speed in shorter sides per second; unsaid speeds lie anywhere between .08 and .27."""

RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = {"dark": (0.08, 0.13), "grey": (0.45, 0.55), "light": (0.87, 0.92)}
"""Range of the grey level in [0, 1]."""

CAMERAS = ("pan left", "pan right", "zoom in", "zoom out")
SPLITS = ("train", "test")

GAP = 0.08
"""Least distance between two objects, in shorter sides: a generated clip's soft edges must not join them."""
_LONGEST = 2.0
"""Seconds that a said motion must fit into the frame."""


@dataclass(frozen=True)
class ObjectMeaning:
    """Claims about one object, or of `count` objects that share everything but their place."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    motion: str | None = None
    speed: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Meaning:
    """Everything a prompt says. `relation` reads: the first object is `relation` the second."""

    objects: tuple[ObjectMeaning, ...]
    relation: str | None = None
    background: str | None = None
    camera: str | None = None


def is_held_out(meaning: Meaning) -> bool:
    """Returns whether the meaning says a combination that belongs to the test split (about one in seven).

    Combinations are (colour, shape), (shape, motion) and (shape, relation, shape); the modular rule leaves every
    single word in the training split.
    """
    for said in meaning.objects:
        if said.shape is None:
            continue
        shape = SHAPES.index(said.shape)
        if said.colour is not None and (COLOURS.index(said.colour) + 3 * shape) % 7 == 0:
            return True
        if said.motion is not None and (MOTIONS.index(said.motion) + 2 * shape) % 7 == 3:
            return True
    if meaning.relation is not None:
        first, second = (said.shape for said in meaning.objects)
        if first is not None and second is not None:
            place = SHAPES.index(first) + 2 * SHAPES.index(second) + 3 * RELATIONS.index(meaning.relation)
            return place % 7 == 5
    return False


def _room(said: ObjectMeaning) -> tuple[float, float]:
    """Width and height that the object with its motion needs at least, in shorter sides."""
    shape = SHAPES.index(said.shape) if said.shape is not None else 0
    radius = RADII[said.size] if said.size is not None else RADII["small"]
    if said.motion in ("growing", "shrinking"):
        radius = 0.19
    width, height = 2 * radius * float(HALF_WIDTH[shape]), 2 * radius * float(HALF_HEIGHT[shape])
    if said.motion == "spinning":
        width = height = max(width, height)
    if said.motion in DIRECTIONS:
        travel = (SPEEDS[said.speed or "slowly"][0] + 0.02) * _LONGEST
        across, down = DIRECTIONS[said.motion]
        share = travel / (across**2 + down**2) ** 0.5
        return width + share * abs(across), height + share * abs(down)
    if said.motion == "circling":
        return width + 0.2, height + 0.2
    if said.motion == "bouncing":
        return width, height + 0.2
    return width, height


def _fits(meaning: Meaning) -> bool:
    """Returns whether a square frame has room for what is said, for two seconds."""
    moving = 0.24 if meaning.camera is not None else 0.0
    rooms = [_room(said) for said in meaning.objects]
    if any(width + moving > 0.98 or height + moving > 0.98 for width, height in rooms):
        return False
    count = meaning.objects[0].count
    if count == 1 and len(rooms) == 1:
        return True
    if count > 1:
        said = meaning.objects[0]
        if said.motion not in ("growing", "shrinking"):
            said = replace(said, motion=None, speed=None)
        still_width, still_height = _room(said)
        width, height = rooms[0]
        extra = max(width - still_width, height - still_height) + moving
        largest = max(still_width, still_height)
        return (count if count == 2 else 2) * largest + GAP * (count - 1) + extra <= 0.97
    across = sum(width for width, _ in rooms) + GAP + moving <= 0.88
    along = sum(height for _, height in rooms) + GAP + moving <= 0.88
    if meaning.relation is None:
        return across or along
    return across if meaning.relation in ("left of", "right of") else along


@lru_cache(maxsize=65536)
def is_sayable(meaning: Meaning) -> bool:
    """Returns whether a clip can show every claim of `meaning` so that it can be verified from the pixels."""
    if not 1 <= len(meaning.objects) <= 2 or (meaning.relation is not None and len(meaning.objects) != 2):
        return False
    if len(meaning.objects) == 2:
        first, second = meaning.objects
        if first.count != 1 or second.count != 1:
            return False
        if first.colour is not None and first.colour == second.colour:
            return False
        if any(said.shape is None and said.colour is None for said in meaning.objects):
            return False
    for said in meaning.objects:
        if said.speed is not None and said.motion not in DIRECTIONS:
            return False
        if said.motion == "spinning" and said.shape is not None and said.shape not in SYMMETRY:
            return False
        if said.size is not None and (said.motion in ("growing", "shrinking")):
            return False
        if meaning.camera is not None and (said.motion not in (None, "still") or said.count > 2):
            return False
        if meaning.camera in ("zoom in", "zoom out") and said.size is not None:
            return False
    return _fits(meaning)


def _sample_object(rng: random.Random, still_image: bool, motion_share: float) -> ObjectMeaning:
    motion = speed = None
    if not still_image and rng.random() < motion_share:
        motion = rng.choice(MOTIONS)
        if motion in DIRECTIONS and rng.random() < 0.4:
            speed = rng.choice(tuple(SPEEDS))
    return ObjectMeaning(
        shape=rng.choice(SHAPES) if rng.random() < 0.85 else None,
        colour=rng.choice(COLOURS) if rng.random() < 0.8 else None,
        size=rng.choice(SIZES) if rng.random() < 0.35 else None,
        motion=motion,
        speed=speed,
    )


def _draw(rng: random.Random, still_image: bool, several: float) -> Meaning:
    weights = (0.5, 0.15 * several, 0.2 * several, 0.0 if still_image else 0.15)
    kind = rng.choices(("single", "count", "relation", "camera"), weights)[0]
    background = rng.choice(tuple(BACKGROUNDS)) if rng.random() < 0.3 else None
    if kind == "single":
        return Meaning((_sample_object(rng, still_image, 0.75),), background=background)
    if kind == "count":
        said = _sample_object(rng, still_image, 0.5)
        return Meaning((replace(said, count=rng.choice((2, 2, 3))),), background=background)
    if kind == "relation":
        pair = (_sample_object(rng, still_image, 0.35), _sample_object(rng, still_image, 0.35))
        return Meaning(pair, rng.choice(RELATIONS) if rng.random() < 0.85 else None, background)
    said = replace(_sample_object(rng, True, 0.0), motion=rng.choice((None, None, "still")))
    return Meaning((said,), background=background, camera=rng.choice(CAMERAS))


def sample_meaning(
    rng: random.Random, split: str = "train", still_image: bool = False, several: float = 1.0
) -> Meaning:
    """Draws a sayable meaning: half of them of one object, the others counts, pairs and camera motions.

    Args:
        rng: source of randomness.
        split: "train" says no held-out combination, "test" says at least one.
        still_image: says neither motion nor camera, for one-frame videos.
        several: weight of counts and pairs, relative to the usual mix.
    """
    if split not in SPLITS:
        raise ValueError(f"Split {split!r} is unknown: name one of {', '.join(SPLITS)}.")
    least = 1 if rng.random() < 0.06 else 2
    while True:
        meaning = _draw(rng, still_image, several)
        if (
            is_held_out(meaning) == (split == "test")
            and count_claims(meaning) >= least
            and is_sayable(meaning)
        ):
            return meaning


def count_claims(meaning: Meaning) -> int:
    """Number of things that the meaning says beyond that there is an object."""
    of_objects = sum(
        getattr(said, field.name) not in (None, 1) for said in meaning.objects for field in fields(said)
    )
    return of_objects + sum(
        value is not None for value in (meaning.relation, meaning.background, meaning.camera)
    )


def _other(rng: random.Random, options: tuple[str, ...], said: str) -> str:
    return rng.choice([option for option in options if option != said])


def _redraw_object(said: ObjectMeaning, rng: random.Random) -> ObjectMeaning:
    changed: dict[str, Any] = {}
    options = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "motion": MOTIONS, "speed": tuple(SPEEDS)}
    for name, values in options.items():
        value = getattr(said, name)
        if value is not None and rng.random() < 0.5:
            changed[name] = _other(rng, values, value)
    if changed.get("motion", said.motion) not in DIRECTIONS:
        changed["speed"] = None
    if said.count > 1 and rng.random() < 0.5:
        changed["count"] = 5 - said.count
    return replace(said, **changed)


def corrupt(meaning: Meaning, rng: random.Random) -> Meaning:
    """A wrong caption: each claim is re-drawn with probability 1/2, at least one changes, and it stays sayable.

    A training meaning stays a training meaning (no held-out combination appears). Whether a claim is made at all
    does not change, except that a speed disappears with its direction. A meaning without any claim is returned as
    another sayable one with a colour claim.
    """
    held_out = is_held_out(meaning)
    if count_claims(meaning) == 0:
        return replace(meaning, objects=(replace(meaning.objects[0], colour=rng.choice(COLOURS)),))
    while True:
        objects = tuple(_redraw_object(said, rng) for said in meaning.objects)
        changed: dict[str, str] = {}
        for name, options in (
            ("relation", RELATIONS),
            ("background", tuple(BACKGROUNDS)),
            ("camera", CAMERAS),
        ):
            value = getattr(meaning, name)
            if value is not None and rng.random() < 0.5:
                changed[name] = _other(rng, options, value)
        wrong = Meaning(
            objects,
            changed.get("relation", meaning.relation),
            changed.get("background", meaning.background),
            changed.get("camera", meaning.camera),
        )
        if wrong != meaning and is_sayable(wrong) and (held_out or not is_held_out(wrong)):
            return wrong
