"""Verification: the parts of a prompt that a video shows, judged from its pixels alone.

One question a claim, as in Davidsonian scene graphs (Cho et al., 2024): the questions about an object fail when the
object is not there. The score is the share of questions answered yes, times a factor in (0, 1] that what no one
asked for lowers: extra objects, colour outside the objects or outside the palette, flicker.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError

from .grammar import parse
from .meaning import BACKGROUNDS, DIRECTIONS, RADII, SIZES, Meaning, ObjectMeaning
from .motion import measure_motion
from .perceive import Perception, perceive, to_chroma
from .shapes import COLOURS, PALETTE, SHAPES, SYMMETRY

_SIZE_LIMITS = (math.sqrt(RADII["small"] * RADII["medium"]), math.sqrt(RADII["medium"] * RADII["large"]))
_NUMBERS = {2: "two", 3: "three"}
_PIXELS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Adherence:
    """Adherence of a video to its prompt.

    Attributes:
        score: in [0, 1]; 1 when every part is shown and nothing unrequested is.
        parts: the questions by name ("object 1 is red") and their answers.
        factor: in (0, 1]; what was not asked for lowers it. The score is the share of yes answers times it.
    """

    score: float
    parts: dict[str, bool]
    factor: float = 1.0


@dataclass(frozen=True)
class Track:
    """One object as seen over the whole clip; see `Motions` for the numbers."""

    shape: str
    likeness: float
    constancy: float
    colour: str
    hue_error: float
    saturation: float
    motion: dict[str, float]


@dataclass(frozen=True)
class Sight:
    """Everything that judging needs of one video.

    Attributes:
        tracks: objects present in most frames, largest first.
        grey: median grey level of the background in [0, 1].
        pan, zoom: camera's velocity to the right in shorter sides, and log magnification, per second.
        is_video: whether there is more than one frame.
        blemish: factor in (0, 1] for colour that belongs to no object, colours off the palette, and flicker.
    """

    tracks: tuple[Track, ...]
    grey: float
    pan: float
    zoom: float
    is_video: bool
    blemish: float


def _exceeding(value: float, free: float, scale: float) -> float:
    """1 while `value` is below `free`, then falling exponentially with `scale`."""
    return math.exp(-max(0.0, value - free) / scale)


def _sight(row: int, seen: dict[str, NDArray], motions: dict[str, NDArray], hue: dict[str, NDArray]) -> Sight:
    tracks, blemish = [], 1.0
    fleeting = 0.0
    for track in np.argsort(-motions["radius"][row] * (motions["seen"][row] > 0)):
        share = float(motions["seen"][row, track])
        if share < 0.5:
            fleeting += share
            continue
        numbers = {name: float(values[row, track]) for name, values in motions.items()}
        likeness = seen["likeness"][row, track]
        found = Track(
            SHAPES[int(likeness.argmax())],
            float(likeness.max()),
            float(seen["constancy"][row, track]),
            COLOURS[int(hue["index"][row, track])],
            float(hue["error"][row, track]),
            float(hue["saturation"][row, track]),
            numbers,
        )
        tracks.append(found)
        blemish *= _exceeding(1 - share, 0.0, 1.0) * _exceeding(found.hue_error, 14.0, 40.0)
        blemish *= _exceeding(numbers["unsteadiness"], 0.06, 0.15) * _exceeding(
            numbers["colour_jitter"], 0.06, 0.15
        )
        blemish *= _exceeding(1 - found.likeness, 0.10, 0.15) * _exceeding(0.55 - found.saturation, 0.0, 0.2)
        blemish *= _exceeding(1 - found.constancy, 0.3, 0.7)
    blemish *= _exceeding(fleeting, 0.12, 0.5) * _exceeding(float(seen["unexplained"][row]), 0.002, 0.02)
    blemish *= _exceeding(float(seen["flicker"][row]), 0.02, 0.05)
    blemish *= _exceeding(float(seen["mean_tint"][row]), 0.05, 0.05)
    return Sight(
        tuple(tracks),
        float(seen["median_grey"][row]),
        float(seen["pan_x"][row]),
        float(seen["zoom"][row]),
        seen["grey"].shape[1] > 1,
        blemish,
    )


def _hues(seen: Perception) -> dict[str, NDArray]:
    """Nearest palette colour of each track, the angle from it in degrees, and the relative saturation."""
    weight = seen.present.float()[..., None]
    chroma = (seen.chroma * weight).sum(2) / weight.sum(2).clamp_min(1e-6)
    palette = torch.stack(to_chroma(PALETTE.to(chroma.device), 1)[1:], 1)
    likeness = functional.normalize(chroma, dim=-1) @ functional.normalize(palette, dim=-1).T
    best, index = likeness.max(-1)
    return {
        "index": index.numpy(),
        "error": best.clamp(-1, 1).arccos().rad2deg().numpy(),
        "saturation": (chroma.norm(dim=-1) / palette.norm(dim=-1)[index]).numpy(),
    }


def see(videos: Tensor, fps: float = 8) -> list[Sight]:
    """Everything that is to be seen in each video [batch, 3, frames, height, width] in [-1, 1], whatever the prompt."""
    sights: list[Sight] = []
    at_once = _PIXELS_AT_ONCE * (4 if videos.is_cuda else 1)  # on a GPU, launching kernels is what takes time
    rows = max(1, at_once // max(1, math.prod(videos.shape[2:])))
    for part in videos.split(rows):
        seen = perceive(part, fps).cpu()
        motions = measure_motion(seen)
        names = ("likeness", "constancy", "grey", "tint", "unexplained", "pan_x", "zoom")
        seen_arrays = {name: getattr(seen, name).numpy() for name in names}
        grey = seen_arrays["grey"]
        seen_arrays["median_grey"] = np.median(grey, axis=1)
        seen_arrays["mean_tint"] = seen_arrays["tint"].mean(axis=1)
        steps = np.abs(np.diff(grey, axis=1))
        seen_arrays["flicker"] = steps.mean(axis=1) if steps.shape[1] else np.zeros(len(grey))
        motion_arrays = {field.name: getattr(motions, field.name).numpy() for field in fields(motions)}
        hues = _hues(seen)
        sights += [_sight(row, seen_arrays, motion_arrays, hues) for row in range(len(part))]
    return sights


def _moves(track: Track, direction: str) -> bool:
    m = track.motion
    speed = math.hypot(m["vx"], m["vy"])
    towards = DIRECTIONS[direction]
    cosine = (m["vx"] * towards[0] + m["vy"] * towards[1]) / (max(speed, 1e-9) * math.hypot(*towards))
    straight = m["departure"] < 0.012 + 0.10 * speed
    return (
        speed > 0.045
        and cosine > math.cos(math.radians(24))
        and straight
        and m["advance"] >= 0.6
        and abs(m["growth"]) < 0.2
    )


def _grows(track: Track, sign: int) -> bool:
    m = track.motion
    return (
        sign * m["growth"] > 0.12
        and m["unsteadiness"] < 0.09
        and m["swelling"] >= 0.6
        and m["departure"] < 0.04
    )


def _rests(track: Track) -> bool:
    m = track.motion
    turns = track.shape in SYMMETRY and abs(m["spin"]) > 0.6 and m["spin_constancy"] > 1
    return (
        math.hypot(m["vx"], m["vy"]) < 0.045
        and m["departure"] < 0.025
        and abs(m["growth"]) < 0.12
        and not turns
    )


def _spins(track: Track) -> bool:
    m = track.motion
    in_place = math.hypot(m["vx"], m["vy"]) < 0.06 and m["departure"] < 0.04
    return track.shape in SYMMETRY and abs(m["spin"]) > 0.6 and m["spin_constancy"] > 1 and in_place


def _circles(track: Track) -> bool:
    m = track.motion
    round_path = 0.05 < m["circle_radius"] < 0.3 and m["circle_error"] < 0.3
    return round_path and abs(m["circle_rate"]) > 2.5 and m["circle_constancy"] >= 0.8


def _bounces(track: Track) -> bool:
    m = track.motion
    return min(m["rise"], m["fall"]) > 0.09 and m["sway"] < 0.06 + 0.1 * (m["rise"] + m["fall"])


_MOTION_TESTS: dict[str, Callable[[Track], bool]] = {
    **{direction: partial(_moves, direction=direction) for direction in DIRECTIONS},
    "growing": partial(_grows, sign=1),
    "shrinking": partial(_grows, sign=-1),
    "spinning": _spins,
    "circling": _circles,
    "bouncing": _bounces,
    "still": _rests,
}


def _is_fast(track: Track, speed: str) -> bool:
    value = math.hypot(track.motion["vx"], track.motion["vy"])
    return value > 0.15 if speed == "quickly" else 0.045 < value <= 0.155


def _size(track: Track) -> str:
    return SIZES[int(np.searchsorted(_SIZE_LIMITS, track.motion["radius"]))]


def _object_parts(said: ObjectMeaning, name: str, tracks: Sequence[Track], is_video: bool) -> dict[str, bool]:
    """Questions about one description, answered for all of `tracks` together; no track means no to all."""
    there = len(tracks) > 0
    parts = {f"{name} is there": there}

    def ask(question: str, test: Callable[[Track], bool]) -> None:
        parts[f"{name} {question}"] = there and all(test(track) for track in tracks)

    if said.shape is not None:
        ask(f"is a {said.shape}", lambda track: track.shape == said.shape and track.likeness > 0.75)
    if said.colour is not None:
        ask(f"is {said.colour}", lambda track: track.colour == said.colour and track.saturation > 0.35)
    if said.size is not None:
        ask(f"is {said.size}", lambda track: _size(track) == said.size)
    if said.motion is not None:
        verb = f"moves {said.motion}" if said.motion in DIRECTIONS else f"is {said.motion}"
        test = _MOTION_TESTS[said.motion]
        ask(verb, lambda track: is_video and test(track))
    if said.speed is not None:
        ask(f"moves {said.speed}", lambda track: is_video and _is_fast(track, said.speed or ""))
    return parts


def _relation_holds(relation: str, first: Track, second: Track) -> bool:
    across = second.motion["x"] - first.motion["x"]
    down = second.motion["y"] - first.motion["y"]
    towards, beside = {
        "left of": (across, down),
        "right of": (-across, down),
        "above": (down, across),
        "below": (-down, across),
    }[relation]
    return towards > 0.1 and towards > 0.7 * abs(beside)


def _world_parts(meaning: Meaning, sight: Sight) -> dict[str, bool]:
    parts = {}
    if meaning.background is not None:
        names = tuple(BACKGROUNDS)
        parts[f"the background is {meaning.background}"] = (
            names[int(np.searchsorted((0.29, 0.70), sight.grey))] == meaning.background
        )
    if meaning.camera is not None:
        kind, way = meaning.camera.split()
        if kind == "pan":
            value, other = sight.pan * (1 if way == "right" else -1) - 0.05, abs(sight.zoom) - 0.12
            name = f"the camera pans {way}"
        else:
            value, other = sight.zoom * (1 if way == "in" else -1) - 0.08, abs(sight.pan) - 0.08
            name = f"the camera zooms {way}"
        parts[name] = sight.is_video and value > 0 and other < 0
    return parts


def _best_parts(meaning: Meaning, sight: Sight) -> dict[str, bool]:
    """Parts about objects under the assignment of tracks to descriptions that answers most questions with yes."""
    first = meaning.objects[0]
    if len(meaning.objects) == 2:
        # A missing object is None, so that either description may be the one that is there.
        tracks = (*sight.tracks, *(None for _ in range(2 - len(sight.tracks))))
        answers = [_pair_parts(meaning, *pair, sight.is_video) for pair in itertools.permutations(tracks, 2)]
    else:
        name = "object 1" if first.count == 1 else "objects"
        groups = itertools.combinations(sight.tracks, min(first.count, len(sight.tracks)))
        answers = [_object_parts(first, name, group, sight.is_video) for group in groups]
        if first.count > 1:
            counted = {f"there are {_NUMBERS[first.count]}": len(sight.tracks) == first.count}
            answers = [parts | counted for parts in answers]
    return max(answers, key=lambda parts: sum(parts.values()))


def _pair_parts(
    meaning: Meaning, first: Track | None, second: Track | None, is_video: bool
) -> dict[str, bool]:
    parts: dict[str, bool] = {}
    for place, track in enumerate((first, second)):
        shown = () if track is None else (track,)
        parts |= _object_parts(meaning.objects[place], f"object {place + 1}", shown, is_video)
    if meaning.relation is not None:
        holds = first is not None and second is not None and _relation_holds(meaning.relation, first, second)
        parts[f"object 1 is {meaning.relation} object 2"] = holds
    return parts


def judge(sight: Sight, meaning: Meaning) -> Adherence:
    """Answers the questions of `meaning` about what was seen."""
    parts = _best_parts(meaning, sight) | _world_parts(meaning, sight)
    asked = meaning.objects[0].count if len(meaning.objects) == 1 else 2
    extra = max(0, len(sight.tracks) - asked)
    factor = 0.7**extra * sight.blemish
    return Adherence(sum(parts.values()) / len(parts) * factor, parts, factor)


def verify_batch(videos: Tensor, prompts: Sequence[str], fps: float = 8) -> list[Adherence]:
    """Judges how well each video follows its prompt.

    Args:
        videos: [batch, 3, frames, height, width] in [-1, 1], on any device.
        prompts: one a video, from the world's grammar.
        fps: frames a second.

    Raises:
        InputError: the numbers differ, the layout is another, or a prompt is not understood.
    """
    prompts = as_list(prompts)
    if videos.ndim != 5 or videos.shape[1] != 3:
        raise InputError(
            f"Videos have the shape {list(videos.shape)}, but [batch, 3, frames, height, width] was expected: "
            "put colours second."
        )
    if len(videos) != len(prompts):
        raise InputError(f"{len(videos)} videos came with {len(prompts)} prompts: give one prompt a video.")
    meanings = [parse(prompt) for prompt in prompts]
    if not meanings:
        return []
    return [judge(sight, meaning) for sight, meaning in zip(see(videos, fps), meanings, strict=True)]


def verify(video: Tensor, prompt: str, fps: float = 8) -> Adherence:
    """Judges how well one video [3, frames, height, width] in [-1, 1] follows `prompt`; see `verify_batch`."""
    return verify_batch(video[None], [prompt], fps)[0]
