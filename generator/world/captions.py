"""Captions from the pixels: everything that a video of the world shows, said in a prompt of its grammar.

The claims are those that `judge` answers with yes, so a caption says what the verifier sees, whatever the video was
made for.
"""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from .grammar import describe
from .meaning import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    MOTIONS,
    RELATIONS,
    SIZES,
    SPEEDS,
    Meaning,
    ObjectMeaning,
)
from .shapes import COLOURS, SHAPES
from .verify import Sight, judge

CLEAR = 0.3
"""Factor for blemishes (`Sight.blemish`) below which a video is none of the world."""
_MOST_OBJECTS = 3
_CLAIMS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "motion": MOTIONS,
    "speed": tuple(SPEEDS),
}


def perceived_meaning(sight: Sight) -> Meaning | None:
    """Meaning with every claim that is to be seen; None where the video shows no scene of the world.

    Objects alike in shape and colour are counted. A camera motion leaves out what it hides: motions of objects, and
    under a zoom their sizes.
    """
    if not 1 <= len(sight.tracks) <= _MOST_OBJECTS or sight.blemish < CLEAR:
        return None
    background = _first(sight, "background", tuple(BACKGROUNDS))
    camera = _first(sight, "camera", CAMERAS)
    seen = [_visible(_object(replace(sight, tracks=(track,))), camera) for track in sight.tracks]
    alike = len({(each.shape, each.colour) for each in seen}) == 1
    if len(seen) == 1:
        return Meaning((seen[0],), background=background, camera=camera)
    if len(seen) > 2 or alike:
        counted = replace(_common(seen), count=len(seen))
        return Meaning((counted,), background=background, camera=camera)
    first, second = seen
    if first.colour == second.colour:
        second = replace(second, colour=None)
    pair = Meaning((first, second), background=background, camera=camera)
    relation = next((each for each in RELATIONS if _holds(sight, replace(pair, relation=each))), None)
    return replace(pair, relation=relation)


def short_meaning(meaning: Meaning) -> Meaning:
    """The claims that a short caption makes: shapes, colours, counts, motions and the relation."""
    objects = tuple(replace(each, size=None, speed=None) for each in meaning.objects)
    return Meaning(objects, meaning.relation)


def captions_of(sight: Sight, rng: random.Random) -> tuple[str, str] | None:
    """Long and short caption of what was seen; None where the video shows no scene of the world.

    Args:
        rng: chooses among the ways to say it.
    """
    meaning = perceived_meaning(sight)
    if meaning is None:
        return None
    return describe(meaning, rng), describe(short_meaning(meaning), rng)


def _holds(sight: Sight, meaning: Meaning) -> bool:
    return all(judge(sight, meaning).parts.values())


def _first(sight: Sight, claim: str, values: tuple[str, ...]) -> str | None:
    """The first value of a claim about the world that holds."""
    anything = ObjectMeaning()
    alone = replace(sight, tracks=sight.tracks[:1])
    said: list[tuple[str, dict[str, Any]]] = [(value, {claim: value}) for value in values]
    return next((value for value, claims in said if _holds(alone, Meaning((anything,), **claims))), None)


def _object(alone: Sight) -> ObjectMeaning:
    """All claims that hold of the one object of a sight."""
    seen = ObjectMeaning()
    for claim, values in _CLAIMS.items():
        for value in values:
            change: dict[str, Any] = {claim: value}
            said = replace(seen, **change)
            if _holds(alone, Meaning((said,))):
                seen = said
                break
    return seen if seen.motion in DIRECTIONS else replace(seen, speed=None)


def _visible(said: ObjectMeaning, camera: str | None) -> ObjectMeaning:
    """The claims that can be seen beside each other; see `is_sayable`."""
    if camera is not None and said.motion != "still":
        said = replace(said, motion=None, speed=None)
    if said.motion in ("growing", "shrinking") or camera in ("zoom in", "zoom out"):
        said = replace(said, size=None)
    return said


def _common(objects: list[ObjectMeaning]) -> ObjectMeaning:
    """The claims that hold of all objects."""
    first = objects[0]
    differing: dict[str, Any] = {
        field.name: None
        for field in fields(first)
        if len({getattr(each, field.name) for each in objects}) > 1
    }
    common = replace(first, **differing)
    return common if common.motion in DIRECTIONS else replace(common, speed=None)
