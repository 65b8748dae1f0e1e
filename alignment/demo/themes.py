"""Themes of the demo: a part of the video world's prompts, as one product's prompts are a part of all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from generator.world import render_scenes
from generator.world.grammar import describe
from generator.world.meaning import DIRECTIONS, Meaning, sample_meaning
from generator.world.scene import SceneBatch
from generator.world.scene_sampling import solvable_scenes


@dataclass(frozen=True)
class Theme:
    """Prompts of one kind.

    Attributes:
        about: what they are about, for the report: "prompts about …".
        holds: whether a meaning belongs to the theme.
    """

    about: str
    holds: Callable[[Meaning], bool]


def _is_action(meaning: Meaning) -> bool:
    said = meaning.objects[0]
    return len(meaning.objects) == 1 and said.motion not in (None, "still", *DIRECTIONS)


THEMES = {
    "everything": Theme("everything that the video world can show", lambda meaning: True),
    "counts": Theme("two or three equal objects", lambda meaning: meaning.objects[0].count > 1),
    "relations": Theme("two objects and their places", lambda meaning: meaning.relation is not None),
    "actions": Theme("one object that grows, shrinks, spins, circles or bounces", _is_action),
    "camera": Theme("moving cameras", lambda meaning: meaning.camera is not None),
}


def _meanings(theme: str, rng: random.Random, split: str) -> Iterator[Meaning]:
    """Endless meanings of a theme."""
    holds = THEMES[theme].holds
    while True:
        meaning = sample_meaning(rng, split)
        if holds(meaning):
            yield meaning


def theme_prompts(theme: str, n: int, seed: int, split: str) -> list[str]:
    """`n` different prompts of a theme; those of the split `test` each say a combination that no training prompt
    says."""
    rng = random.Random(f"{theme} {seed} {split}")
    found: dict[str, None] = {}
    for meaning in _meanings(theme, rng, split):
        if len(found) == n:
            break
        found.setdefault(describe(meaning, rng))
    return list(found)


def theme_demonstrations(
    theme: str, n: int, seed: int, num_frames: int, height: int, width: int, fps: float
) -> tuple[list[str], Tensor]:
    """Captions of the training split and rendered videos [n, 3, num_frames, height, width] that show them."""
    rng = random.Random(f"{theme} {seed} demonstrations")
    drawn = _meanings(theme, rng, "train")
    meanings: list[Meaning] = []
    scenes: list[SceneBatch] = []
    while len(meanings) < n:
        missing = n - len(meanings)
        candidates = [next(drawn) for _ in range(missing + 8)]
        solved, rows = solvable_scenes(candidates, rng.getrandbits(60), num_frames, height, width, fps)
        meanings += [candidates[row] for row in rows[:missing]]
        scenes.append(solved.index(slice(missing)))
    videos = render_scenes(SceneBatch.concatenate(scenes), num_frames, height, width, fps)
    return [describe(meaning, rng) for meaning in meanings], videos
