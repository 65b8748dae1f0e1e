"""Noise conditioning augmentation and the residual that a stage predicts, against closed forms and samples."""

import numpy as np
import pytest
import torch

from generator.cascade.conditioning import (
    ResidualStatistics,
    augment,
    network_input,
    network_target,
    residual,
    signal_to_noise,
    velocity,
)
from generator.flow import interpolate

GAIN, STD = torch.tensor([0.8, 0.5]), torch.tensor([0.3, 0.7])


def gaussian(count):
    """Conditions of unit variance, latents gain · c + std · u, and two noises, `[count, 2, 1, 1, 1]`."""
    drawn = torch.randn(4, count, 2, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    condition, unit, noise, other = drawn
    shape = (1, 2, 1, 1, 1)
    return condition, GAIN.view(shape) * condition + STD.view(shape) * unit, noise, other


def test_the_augmentation_level_mixes_input_and_noise_and_says_the_signal_to_noise_ratio():
    condition, _, noise, _ = gaussian(3)
    levels = torch.tensor([0.0, 1.0, 0.25])
    found = augment(condition, noise, levels)
    assert torch.equal(found[0], condition[0])
    assert torch.equal(found[1], noise[1])
    torch.testing.assert_close(found[2], 0.75 * condition[2] + 0.25 * noise[2])
    assert signal_to_noise(0.25) == pytest.approx(9)
    assert 3 < signal_to_noise(0.34) < 5  # what the paper samples with


@pytest.mark.parametrize(("sigma", "level"), [(1.0, 0.0), (0.6, 0.3), (0.15, 0.1), (0.02, 0.4)])
def test_no_output_is_the_best_linear_velocity_and_the_target_has_unit_variance(sigma, level):
    count = 200_000
    condition, latents, noise, other = gaussian(count)
    sigmas, levels = torch.full((count,), sigma), torch.full((count,), level)
    noised = augment(condition, other, levels)
    known = residual(noised, sigmas, levels, GAIN, STD)
    seen = network_input(interpolate(latents, noise, sigmas), sigmas, known)
    found = velocity(seen, torch.zeros_like(seen), sigmas, known)
    for channel in range(2):
        columns = [interpolate(latents, noise, sigmas)[:, channel], noised[:, channel]]
        design = torch.stack([column.flatten() for column in columns], 1).double().numpy()
        wanted = (noise - latents)[:, channel].flatten().double().numpy()
        fit = design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
        assert np.abs(found[:, channel].flatten().numpy() - fit).mean() < 0.01
    target = network_target(latents, noise, sigmas, known)
    torch.testing.assert_close(target.std(0).flatten(), torch.ones(2), atol=0.02, rtol=0)
    torch.testing.assert_close(seen.std(0).flatten(), torch.ones(2), atol=0.02, rtol=0)


def test_the_target_as_output_gives_the_velocity_of_rectified_flow():
    condition, latents, noise, other = gaussian(50)
    sigmas, levels = torch.linspace(0.01, 1, 50), torch.linspace(0, 0.5, 50)
    noised = augment(condition, other, levels)
    known = residual(noised, sigmas, levels, GAIN, STD)
    seen = network_input(interpolate(latents, noise, sigmas), sigmas, known)
    found = velocity(seen, network_target(latents, noise, sigmas, known), sigmas, known)
    torch.testing.assert_close(found, noise - latents, atol=1e-4, rtol=1e-4)


def test_measured_statistics_are_those_of_least_squares():
    condition, latents, _, _ = gaussian(400)
    statistics = ResidualStatistics(2)
    for part in range(0, 400, 100):
        statistics.add(latents[part : part + 100], condition[part : part + 100])
    gain, std = statistics.result()
    for channel in range(2):
        x, y = (value[:, channel].flatten().double().numpy() for value in (condition, latents))
        slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
        assert gain[channel] == pytest.approx(slope, abs=1e-4)
        assert std[channel] == pytest.approx(np.sqrt(np.mean((y - slope * x) ** 2)), abs=1e-4)
