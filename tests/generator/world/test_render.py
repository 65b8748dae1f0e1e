"""Scenes and their pictures."""

from __future__ import annotations

import math

import pytest
import torch

from generator.output import InputError
from generator.world import (
    SceneBatch,
    parse,
    render,
    render_scenes,
    sample_prompts,
    sample_scenes,
    training_batch,
)
from generator.world.meaning import GAP
from generator.world.scene import frame_times, offsets
from generator.world.shapes import (
    COLOURS,
    HALF_HEIGHT,
    HALF_WIDTH,
    PALETTE,
    REACH,
    SHAPES,
    signed_distance,
)

CLIPS = [(9, 32, 32), (17, 64, 64), (13, 40, 72), (17, 72, 40), (1, 32, 48)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_area_of_the_unit_disc_and_its_stated_extent(shape: str) -> None:
    axis = (torch.arange(1200, dtype=torch.float64) + 0.5) / 300 - 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = signed_distance(shape, x, y) < 0
    index = SHAPES.index(shape)
    assert inside.sum() / 300**2 == pytest.approx(math.pi, rel=5e-3)
    assert x[inside].abs().max() == pytest.approx(float(HALF_WIDTH[index]), abs=0.02)
    assert y[inside].abs().max() == pytest.approx(float(HALF_HEIGHT[index]), abs=0.02)
    assert torch.hypot(x, y)[inside].max() == pytest.approx(float(REACH[index]), abs=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_never_change_faster_than_space(shape: str) -> None:
    points = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = 1e-3 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    change = signed_distance(shape, *(points + shift).T) - signed_distance(shape, *points.T)
    assert (change.abs() <= shift.norm(dim=1) * (1 + 1e-6)).all()


def test_colours_are_well_apart_in_hue() -> None:
    red, green, blue = PALETTE.double().T
    hues = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue).rad2deg().sort().values
    gaps = torch.cat([hues, hues[:1] + 360]).diff()
    assert gaps.min() > 28
    assert (PALETTE.max(1).values - PALETTE.min(1).values).min() > 0.7


@pytest.mark.parametrize("clip", CLIPS)
def test_objects_stay_in_the_frame_and_apart(clip: tuple[int, int, int]) -> None:
    frames, height, width = clip
    _, scenes, _ = training_batch(200, 5, "train", frames, height, width)
    times = frame_times(frames, 8)
    dx, dy = offsets(scenes, times)
    zoom = (scenes.zoom[:, None, None] * times).exp()
    x = (scenes.x[..., None] + dx - scenes.pan[:, None, None] * times) * zoom
    y = (scenes.y[..., None] + dy) * zoom
    radius = scenes.radius[..., None] * (scenes.growth[..., None] * times).exp() * zoom
    half = radius * HALF_WIDTH[scenes.shape][..., None], radius * HALF_HEIGHT[scenes.shape][..., None]
    shorter = min(height, width)
    on = scenes.on[..., None]
    assert ((x.abs() + half[0] <= width / shorter / 2) | ~on).all()
    assert ((y.abs() + half[1] <= height / shorter / 2) | ~on).all()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        gap = torch.hypot(x[:, a] - x[:, b], y[:, a] - y[:, b]) / zoom[:, 0]
        reach = (radius * REACH[scenes.shape][..., None] / zoom)[:, [a, b]].sum(1)
        both = (scenes.on[:, a] & scenes.on[:, b])[:, None]
        assert ((gap > reach + GAP - 1e-4) | ~both).all()


def test_a_rendered_disc_has_its_area_place_and_colour() -> None:
    scenes = sample_scenes([parse("a large red circle stays still on a dark background")], 3, 1, 64, 64)
    scenes.texture.zero_()
    image = (render_scenes(scenes, 1, 64, 64)[0, :, 0] + 1) / 2
    ground = float(scenes.background[0])
    alpha = (image[0] - ground) / (PALETTE[COLOURS.index("red"), 0] - ground)
    radius = float(scenes.radius[0, 0]) * 64
    columns = torch.arange(64) + 0.5
    assert float(alpha.sum()) == pytest.approx(math.pi * radius**2, rel=0.01)
    assert float((alpha.sum(0) * columns).sum() / alpha.sum()) == pytest.approx(
        32 + 64 * float(scenes.x[0, 0]), abs=0.05
    )
    centre = image[:, alpha > 0.999].mean(1)
    assert torch.allclose(centre, PALETTE[COLOURS.index("red")], atol=1e-5)


@pytest.mark.parametrize("clip", CLIPS)
def test_videos_have_the_asked_size_and_range(clip: tuple[int, int, int]) -> None:
    frames, height, width = clip
    video = render("a star", frames, height, width, seed=1)
    assert video.shape == (3, frames, height, width)
    assert video.min() >= -1
    assert video.max() <= 1


def test_the_same_seed_gives_the_same_batch_and_another_seed_another() -> None:
    first, again, other = (training_batch(16, seed, wrong_share=0.5) for seed in (1, 1, 2))
    assert first[0] == again[0]
    assert torch.equal(first[2], again[2])
    assert all(torch.equal(a, b) for a, b in zip(first[1].tensors(), again[1].tensors(), strict=True))
    assert first[0] != other[0]


def test_wrong_captions_have_the_asked_share() -> None:
    _, _, wrong = training_batch(2000, 1, wrong_share=0.3)
    assert wrong.float().mean() == pytest.approx(0.3, abs=0.04)


def test_batches_are_cut_and_joined_without_change() -> None:
    _, scenes, _ = training_batch(6, 2)
    joined = SceneBatch.concatenate([scenes.index(slice(0, 2)), scenes.index([2, 3, 4, 5])])
    assert torch.equal(render_scenes(joined, 3, 32, 32), render_scenes(scenes, 3, 32, 32))


def test_rendering_is_the_same_alone_and_in_a_batch() -> None:
    meanings = [parse(prompt) for prompt in sample_prompts(8, 3)]
    scenes = sample_scenes(meanings, 1)
    batch = render_scenes(scenes, 9, 32, 32)
    for row in range(8):
        alone = render_scenes(scenes.index([row]), 9, 32, 32)[0]
        assert torch.allclose(alone, batch[row], atol=1e-6)


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="large stars"):
        render("two large stars", 9, 32, 32)
