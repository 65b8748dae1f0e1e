"""The verifier on shapes that others draw: other tints, antialiasing, sizes and codecs than the world's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from generator.world import verify
from generator.world.shapes import SHAPES


@pytest.fixture
def tints():
    from benchmarks.generator import verifier_tints

    return verifier_tints


def moving_square(colour: tuple[int, int, int], step: tuple[int, int]) -> Tensor:
    """A square of 20 pixels that Pillow draws on black, 17 frames of 64x64."""
    frames = []
    for frame in range(17):
        image = Image.new("RGB", (64, 64))
        x, y = 22 + step[0] * (frame - 8), 22 + step[1] * (frame - 8)
        ImageDraw.Draw(image).rectangle((x, y, x + 19, y + 19), fill=colour)
        frames.append(np.asarray(image))
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "colour"),
    [("green", (30, 170, 60)), ("red", (220, 30, 30)), ("blue", (40, 60, 220)), ("yellow", (230, 210, 30))],
)
@pytest.mark.parametrize(
    ("motion", "step"), [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_a_square_is_a_square_in_every_colour(
    name: str, colour: tuple[int, int, int], motion: str, step: tuple[int, int]
) -> None:
    video = moving_square(colour, step)
    parts = verify(video, f"a {name} square moves {motion} on a dark background").parts
    assert all(parts.values()), parts
    for other in set(SHAPES) - {"square"}:
        assert not verify(video, f"a {other}").parts[f"object 1 is a {other}"]


def answers(tints, cases, **options) -> tuple[float, int]:
    tally = tints.judge_cases(cases, "test", **options)
    return tally.right["all"] / tally.asked["all"], tally.asked["all"]


@pytest.mark.parametrize("side", [48, 64])
def test_tints_drawn_by_pillow_are_judged_as_the_palette_is(tints, side: int) -> None:
    cases = random.Random(side).sample(list(tints.single_cases(side, 1, (side,))), 54)
    share, asked = answers(tints, cases)
    assert share >= 0.99
    assert asked > 250


def test_scenes_of_several_objects_in_tints_of_their_own_are_judged_right(tints) -> None:
    share, _ = answers(tints, list(tints.scene_cases(3, 24, 64)))
    assert share >= 0.99


@pytest.mark.parametrize("full_colour", [True, False])
def test_tints_survive_mp4_files_of_128_pixels(tints, full_colour: bool) -> None:
    cases = random.Random(5).sample(list(tints.single_cases(5, 1, (128,))), 10)
    share, _ = answers(tints, cases, full_colour=full_colour)
    assert share >= 0.99


def test_a_wrong_claim_about_a_tint_is_still_refused(tints) -> None:
    cases = random.Random(7).sample(list(tints.single_cases(7, 1, (48,))), 16)
    for case in cases:
        shape = SHAPES[int(case.scene.shape[0, 0])]
        size = float(case.scene.radius[0, 0])
        video = case.draw()
        for other in set(SHAPES) - {shape}:
            assert not verify(video, f"a {other}").parts[f"object 1 is a {other}"], (case.prompt, other)
        wrong = "small" if size > 0.2 else "large"
        assert not verify(video, f"a {wrong} {shape}").parts[f"object 1 is {wrong}"], case.prompt
