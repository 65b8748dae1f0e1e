"""Figures of video models against the world that drew the clips, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generator.video_ldm.measures import displacement, flicker, keep_identity, psnr, still_clips
from generator.video_ldm.model_card import blended, rendered_clips
from generator.world import render_scenes, training_batch

CPU = torch.device("cpu")


def test_flicker_of_a_still_clip_is_none_and_of_noise_twice_its_variance() -> None:
    _, clips = rendered_clips(4, (9, 32, 32), 8.0, CPU)
    still = still_clips(clips)
    assert torch.equal(still[:, :, 8], clips[:, :, 0])
    assert not flicker(still).any()
    noise = 0.1 * torch.randn(4, 3, 50, 32, 32, generator=torch.Generator().manual_seed(0))
    assert flicker(noise).tolist() == pytest.approx([0.02] * 4, rel=0.02)


def test_displacement_is_the_way_of_the_objects_between_frames() -> None:
    scenes = training_batch(64, 3, "test", 9, 64, 64, fps=8.0)[1]
    each, slot = torch.arange(64), scenes.on.float().argmax(1)
    speed = torch.hypot(scenes.vx, scenes.vy)[each, slot]
    # One object alone that moves on a line, before a camera at rest.
    other = (scenes.orbit_radius + scenes.bounce_height)[each, slot] + scenes.pan.abs() + scenes.zoom.abs()
    rows = ((scenes.on.sum(1) == 1) & (speed > 0.05) & (other == 0)).nonzero()[:, 0]
    assert len(rows) >= 4
    chosen = scenes.index(rows)
    found = displacement(render_scenes(chosen, 9, 64, 64, 8.0), 8.0)
    torch.testing.assert_close(found, speed[rows] / 8, atol=2e-3, rtol=0.1)


def test_rendered_clips_keep_the_identity_of_their_objects_and_frames_of_different_clips_do_not() -> None:
    _, clips = rendered_clips(24, (9, 32, 32), 2.0, CPU)
    assert keep_identity(clips, 2.0).float().mean() > 0.95
    mixed = torch.stack([clips[:, :, frame].roll(frame, 0) for frame in range(9)], dim=2)
    assert keep_identity(mixed, 2.0).float().mean() < 0.1
    assert displacement(mixed, 2.0).nanmean() > 2 * displacement(clips, 2.0).nanmean()


def test_blended_frames_are_the_linear_interpolation_of_key_frames() -> None:
    clips = torch.rand(2, 3, 9, 4, 4)
    found = blended(clips)
    assert torch.equal(found[:, :, ::4], clips[:, :, ::4])
    expected = np.interp(np.arange(9), [0, 4, 8], clips[1, 2, ::4, 3, 1].numpy())
    torch.testing.assert_close(found[1, 2, :, 3, 1], torch.from_numpy(expected).float())


def test_psnr_is_in_decibels_of_the_range_two() -> None:
    x = torch.rand(2, 3, 4, 8, 8)
    assert psnr(x + 0.02, x) == pytest.approx(40.0, abs=1e-3)
