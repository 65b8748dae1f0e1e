"""Scenes of meanings, with everything that they leave unsaid filled in.

Scenes are sampled by vectorised rejection: every said claim is truly visible, objects stay inside the frame during the
whole clip and keep a distance of `GAP` from each other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from generator.output import InputError

from .grammar import describe
from .meaning import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    GAP,
    MOTIONS,
    RADII,
    RELATIONS,
    SIZES,
    SPEEDS,
    Meaning,
    corrupt,
    sample_meaning,
)
from .scene import SLOTS, SceneBatch, frame_times, offsets
from .shapes import COLOURS, HALF_HEIGHT, HALF_WIDTH, REACH, SHAPES, SYMMETRY

_CANDIDATES = 12
_ROUNDS = 150
_TRAINING_ROUNDS = 12
_MARGIN = 0.01
_GROWING, _SHRINKING, _SPINNING, _CIRCLING, _BOUNCING, _STILL = (
    MOTIONS.index(name) for name in ("growing", "shrinking", "spinning", "circling", "bouncing", "still")
)


_BOUNDS = torch.tensor([SPEEDS[name] for name in SPEEDS] + [(SPEEDS["slowly"][0], SPEEDS["quickly"][1])])
_GREYS = torch.tensor(list(BACKGROUNDS.values()))
_RADII = torch.tensor([RADII[size] for size in SIZES])
_AXES = torch.tensor([DIRECTIONS.get(motion, (0, 0)) for motion in MOTIONS], dtype=torch.float32)
_AXES = _AXES / _AXES.norm(dim=1, keepdim=True).clamp_min(1)
_SPINNABLE = torch.tensor([shape in SYMMETRY for shape in SHAPES])
_INDEX = {
    "shape": {name: i for i, name in enumerate(SHAPES)},
    "colour": {name: i for i, name in enumerate(COLOURS)},
    "size": {name: i for i, name in enumerate(SIZES)},
    "motion": {name: i for i, name in enumerate(MOTIONS)},
    "speed": {name: i for i, name in enumerate(SPEEDS)},
}
_RELATION = {name: i for i, name in enumerate(RELATIONS)}
_BACKGROUND = {name: i for i, name in enumerate(BACKGROUNDS)}
_CAMERA = {name: i for i, name in enumerate(CAMERAS)}


def _encode(meanings: Sequence[Meaning], device: torch.device | None = None) -> Tensor:
    """One row of integers a meaning, -1 = unsaid: 5 claims x 2 descriptions, count, descriptions, world's 3."""
    rows = []
    for meaning in meanings:
        row: list[int] = []
        for place in range(2):
            if place < len(meaning.objects):
                said = meaning.objects[place]
                row += [
                    -1 if value is None else _INDEX[name][value]
                    for name, value in (
                        ("shape", said.shape),
                        ("colour", said.colour),
                        ("size", said.size),
                        ("motion", said.motion),
                        ("speed", said.speed),
                    )
                ]
            else:
                row += [-1] * 5
        row += [
            meaning.objects[0].count,
            len(meaning.objects),
            -1 if meaning.relation is None else _RELATION[meaning.relation],
            -1 if meaning.background is None else _BACKGROUND[meaning.background],
            -1 if meaning.camera is None else _CAMERA[meaning.camera],
        ]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.long, device=device)


class _Draws:
    """Uniform draws of one generator with the shape of one round of candidates."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.rows, SLOTS, generator=self.generator)

    def choose(self, said: Tensor, options: int) -> Tensor:
        drawn = torch.randint(options, (self.rows, SLOTS), generator=self.generator)
        return torch.where(said >= 0, said, drawn)


def _share(value: Tensor, counted: Tensor) -> Tensor:
    """Objects of a count share everything: slots 1 and 2 copy slot 0 where `counted`."""
    return torch.where(counted[:, None], value[:, :1], value)


# Long: one draw after another, in an order that decides which scene a seed gives.
def _candidates(codes: Tensor, still_image: bool, generator: torch.Generator) -> tuple[SceneBatch, Tensor]:
    """One candidate scene a row (places still unset), and which of them are consistent."""
    rows = codes.shape[0]
    draws = _Draws(rows, generator)
    first, second = codes[:, 0:5], codes[:, 5:10]
    said = torch.stack([first, second, torch.full_like(first, -1)], dim=1)
    counted = codes[:, 10] > 1
    said = torch.where(counted[:, None, None], first[:, None], said)
    number = torch.where(codes[:, 11] == 2, 2, codes[:, 10])
    on = torch.arange(SLOTS) < number[:, None]
    camera = codes[:, 14]

    shape = _share(draws.choose(said[..., 0], len(SHAPES)), counted)
    colour = _share(draws.choose(said[..., 1], len(COLOURS)), counted)
    size = _share(draws.choose(said[..., 2], len(SIZES)), counted)
    motion = draws.choose(said[..., 3], len(MOTIONS))
    rest = torch.where(codes[:, 11:12] + codes[:, 10:11] > 2, 0.6, 0.15)
    often_still = (torch.rand(rows, SLOTS, generator=generator) < rest) | (camera >= 0)[:, None] | still_image
    impossible = ((motion == _SPINNING) & ~_SPINNABLE[shape]) | (
        ((motion == _GROWING) | (motion == _SHRINKING)) & (said[..., 2] >= 0)
    )
    motion = torch.where((said[..., 3] < 0) & (often_still | impossible), _STILL, motion)
    motion = _share(motion, counted)
    consistent = ((motion != _SPINNING) | _SPINNABLE[shape] | ~on).all(1)
    consistent &= (codes[:, 11] != 2) | (colour[:, 0] != colour[:, 1])

    changing = (motion == _GROWING) | (motion == _SHRINKING)
    radius = _RADII[size] * draws.uniform(0.94, 1.06)
    in_between = draws.uniform(0.135, 0.175)
    radius = torch.where(changing | ((camera >= 2)[:, None] & (size == 2)), in_between, radius)
    bounds = _BOUNDS[torch.where(said[..., 4] >= 0, said[..., 4], len(SPEEDS))]
    speed = bounds[..., 0] + (bounds[..., 1] - bounds[..., 0]) * draws.uniform(0, 1)
    axis, tilt = _AXES[motion], draws.uniform(-0.1, 0.1)
    vx = speed * (axis[..., 0] * tilt.cos() - axis[..., 1] * tilt.sin())
    vy = speed * (axis[..., 0] * tilt.sin() + axis[..., 1] * tilt.cos())
    growth = draws.uniform(0.28, 0.38) * ((motion == _GROWING).float() - (motion == _SHRINKING).float())
    turning, circling, bouncing = (
        (motion == _SPINNING).float(),
        (motion == _CIRCLING).float(),
        (motion == _BOUNCING).float(),
    )
    sign = torch.where(draws.uniform(-1, 1) < 0, -1.0, 1.0)
    unit = torch.rand(rows, 6, generator=generator)
    grey_bounds = _GREYS[torch.where(codes[:, 13] >= 0, codes[:, 13], (unit[:, 0] * 3).long())]
    pan_speed, zoom_rate = 0.10 + 0.05 * unit[:, 1], 0.17 + 0.08 * unit[:, 1]
    scenes = SceneBatch(
        on=on,
        shape=shape,
        colour=colour,
        radius=_share(radius, counted),
        x=torch.zeros(rows, SLOTS),
        y=torch.zeros(rows, SLOTS),
        vx=_share(vx, counted),
        vy=_share(vy, counted),
        growth=_share(growth, counted),
        angle=turning * draws.uniform(-math.pi, math.pi),
        spin=_share(turning * sign * draws.uniform(1.1, 1.7), counted),
        orbit_radius=_share(circling * draws.uniform(0.10, 0.15), counted),
        orbit_rate=_share(circling * sign * draws.uniform(4.4, 6.0), counted),
        orbit_phase=_share(draws.uniform(-math.pi, math.pi), counted),
        bounce_height=_share(bouncing * draws.uniform(0.20, 0.30), counted),
        bounce_rate=_share(bouncing * draws.uniform(1.0, 1.4), counted),
        bounce_phase=_share(draws.uniform(0, 1), counted),
        background=grey_bounds[:, 0] + (grey_bounds[:, 1] - grey_bounds[:, 0]) * unit[:, 2],
        texture=torch.where((camera >= 0) | (unit[:, 3] < 0.25), 0.04, 0.0),
        texture_x=2 * math.pi * unit[:, 4],
        texture_y=2 * math.pi * unit[:, 5],
        pan=pan_speed * ((camera == 1).float() - (camera == 0).float()),
        zoom=zoom_rate * ((camera == 2).float() - (camera == 3).float()),
    )
    return scenes, consistent


def _place(
    scenes: SceneBatch, relation: Tensor, times: Tensor, half: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draws every object's place inside the frame; returns which scenes are free of overlaps and hold the relation."""
    dx, dy = offsets(scenes, times)
    dx = dx - scenes.pan[:, None, None] * times
    dy = dy.clone()
    magnification = (scenes.zoom[:, None, None] * times).exp()
    radius = scenes.radius[..., None] * (scenes.growth[..., None] * times).exp()
    reach = radius * REACH[scenes.shape][..., None]
    turns = (scenes.spin != 0)[..., None]
    wide = torch.where(turns, reach, radius * HALF_WIDTH[scenes.shape][..., None])
    high = torch.where(turns, reach, radius * HALF_HEIGHT[scenes.shape][..., None])
    room = torch.ones(len(scenes), dtype=torch.bool)
    positions = []
    for offset, extent, edge in ((dx, wide, half[0]), (dy, high, half[1])):
        limit = (edge - _MARGIN) / magnification - extent
        low, high_bound = (-limit - offset).amax(2), (limit - offset).amin(2)
        room &= ((high_bound > low) | ~scenes.on).all(1)
        positions.append(low + (high_bound - low) * torch.rand(low.shape, generator=generator))
    scenes.x, scenes.y = positions
    across, along = scenes.x[..., None] + dx, scenes.y[..., None] + dy
    for a, b in ((0, 1), (0, 2), (1, 2)):
        distance = torch.hypot(across[:, a] - across[:, b], along[:, a] - along[:, b])
        free = (distance > reach[:, a] + reach[:, b] + GAP).all(1)
        room &= free | ~(scenes.on[:, a] & scenes.on[:, b])
    sideways, downwards = across[:, 1] - across[:, 0], along[:, 1] - along[:, 0]
    for index, (towards, beside) in enumerate(
        ((sideways, downwards), (-sideways, downwards), (downwards, sideways), (-downwards, sideways))
    ):
        holds = (towards > 0.2).all(1) & (towards.mean(1) > 1.2 * beside.mean(1).abs())
        room &= holds | (relation != index)
    return room


def _solve(
    meanings: Sequence[Meaning],
    rng_seed: int,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    rounds: int = _ROUNDS,
) -> tuple[SceneBatch, list[int], list[int]]:
    """Scenes of the meanings that fit, their rows in rising order, and the rows for which none was found."""
    generator = torch.Generator().manual_seed(rng_seed)
    codes = _encode(meanings)
    if num_frames == 1:
        codes[:, [3, 4, 8, 9, 14]] = -1
    times = frame_times(num_frames, fps)
    shorter = min(height, width)
    half = (width / shorter / 2, height / shorter / 2)
    pending = torch.arange(len(meanings))
    accepted: list[SceneBatch] = []
    rows: list[Tensor] = []
    for attempt in range(rounds):
        if len(pending) == 0:
            break
        copies = max(_CANDIDATES, min(4 * _CANDIDATES * (attempt > 0), 4096 // len(pending)))
        owner = pending.repeat_interleave(copies)
        scenes, good = _candidates(codes[owner], num_frames == 1, generator)
        good &= _place(scenes, codes[owner, 12], times, half, generator)
        good = good.view(-1, copies)
        solved = good.any(1)
        chosen = torch.arange(len(pending)) * copies + good.int().argmax(1)
        accepted.append(scenes.index(chosen[solved]))
        rows.append(pending[solved])
        pending = pending[~solved]
    solved_rows = torch.cat(rows)
    order = torch.argsort(solved_rows)
    return SceneBatch.concatenate(accepted).index(order), solved_rows[order].tolist(), pending.tolist()


def sample_scenes(
    meanings: Sequence[Meaning],
    rng_seed: int,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
) -> SceneBatch:
    """One scene for each meaning, on the CPU; the same seed gives the same scenes.

    Args:
        meanings: what the scenes must show; motion and camera claims are ignored when `num_frames` is 1.
        rng_seed: seed of the generator.
        num_frames, height, width, fps: size of the clips in which everything must fit.

    Raises:
        InputError: a meaning cannot be shown in a clip of that size.
    """
    scenes, _, unsolved = _solve(meanings, rng_seed, num_frames, height, width, fps)
    if unsolved:
        prompt = describe(meanings[unsolved[0]], random.Random(0))
        raise InputError(
            f"The prompt {prompt!r} does not fit into {num_frames} frames of {width}x{height} at {fps:g} frames a "
            "second, but all that is said must stay in the frame: say smaller or slower objects, or a shorter clip."
        )
    return scenes


def solvable_scenes(
    meanings: Sequence[Meaning],
    rng_seed: int,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
) -> tuple[SceneBatch, list[int]]:
    """Scenes of those meanings for which one is found within a few rounds, and their rows in rising order."""
    scenes, rows, _ = _solve(meanings, rng_seed, num_frames, height, width, fps, rounds=_TRAINING_ROUNDS)
    return scenes, rows


def training_batch(
    n: int,
    seed: int,
    split: str = "train",
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
    wrong_share: float = 0.0,
    several: float = 1.0,
) -> tuple[list[str], SceneBatch, Tensor]:
    """Captions and scenes for pretraining.

    Meanings for which no scene is found within a few rounds are left out (about 1 in 100, mostly three moving
    objects), so that every batch takes about the same time.

    Args:
        n: number of clips.
        seed: the same seed gives the same batch.
        split: "train" or "test".
        num_frames, height, width, fps: size of the clips; one frame means captions without motion and camera.
        wrong_share: share of captions made wrong by `corrupt`, as captions of the web are.
        several: weight of counts and pairs of objects, relative to the usual mix.

    Returns:
        Prompts, scenes (render with `render_scenes`), and which captions are wrong [n].

    Raises:
        InputError: no scene at all fits into clips of that size.
    """
    rng = random.Random(f"{seed}-{split}")
    meanings: list[Meaning] = []
    parts: list[SceneBatch] = []
    while len(meanings) < n:
        # Some meanings find no room, or only after hundreds of rounds: spare ones are cheaper than searching on.
        missing = n - len(meanings)
        number = missing + missing // 16 + 8
        candidates = [sample_meaning(rng, split, num_frames == 1, several) for _ in range(number)]
        solved, rows, _ = _solve(
            candidates, rng.getrandbits(60), num_frames, height, width, fps, rounds=_TRAINING_ROUNDS
        )
        if not rows:
            raise InputError(
                f"No scene fits into {num_frames} frames of {width}x{height} at {fps:g} frames a second, but most "
                "should: use shorter clips or a higher frame rate."
            )
        meanings += [candidates[row] for row in rows[:missing]]
        parts.append(solved.index(slice(missing)))
    scenes = SceneBatch.concatenate(parts)
    is_wrong = [rng.random() < wrong_share for _ in range(n)]
    prompts = [
        describe(corrupt(meaning, rng) if wrong else meaning, rng)
        for meaning, wrong in zip(meanings, is_wrong, strict=True)
    ]
    return prompts, scenes, torch.tensor(is_wrong)
