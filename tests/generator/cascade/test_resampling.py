"""Videos of another size and rate."""

import numpy as np
import torch

from generator.cascade.resampling import blend_frames, enlarge, keep_frames, reduce, repeat_frames


def videos(frames=4):
    return torch.rand(2, 3, frames, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_blending_is_linear_interpolation_in_time_and_keeps_given_frames():
    given = videos()
    found = blend_frames(given, 4)
    assert found.shape[2] == 13
    assert torch.equal(keep_frames(found, 4), given)
    line = np.interp(np.arange(13) / 4, np.arange(4), given[1, 2, :, 3, 5].numpy())
    np.testing.assert_allclose(found[1, 2, :, 3, 5].numpy(), line, atol=1e-6)


def test_doubled_frames_are_the_nearest_given_ones():
    given = videos()
    found = repeat_frames(given, 4)
    for index in range(found.shape[2]):
        distance = [abs(index - 4 * k) for k in range(4)]
        assert any(
            torch.equal(found[:, :, index], given[:, :, k]) for k in range(4) if distance[k] == min(distance)
        )


def test_a_reduced_pixel_is_the_mean_of_a_square_and_bicubic_has_the_size_asked_for():
    given = videos()
    expected = given.unflatten(4, (4, 2)).unflatten(3, (3, 2)).mean((4, 6))
    torch.testing.assert_close(reduce(given, 2), expected)
    finer = enlarge(given, 2)
    assert finer.shape == (2, 3, 4, 12, 16)
    assert finer.abs().max() <= 1
    flat = torch.full((1, 3, 2, 4, 4), 0.25)
    torch.testing.assert_close(enlarge(flat, 2), torch.full((1, 3, 2, 8, 8), 0.25))
