"""PSNR and sharpness as pure functions."""

import math

import numpy as np
import pytest
import torch

from generator.cascade.figures import high_frequency_share, psnr


def test_psnr_is_that_of_each_video_alone():
    truth = torch.rand(2, 3, 2, 4, 4, dtype=torch.float64) * 2 - 1
    other = truth.clone()
    other[1] += 0.1
    assert psnr(other, truth)[0].item() == pytest.approx(100)
    error = np.mean((other[1].float().numpy() - truth[1].float().numpy()) ** 2)
    assert psnr(other, truth)[1].item() == pytest.approx(20 * math.log10(2 / math.sqrt(error)), abs=1e-3)


def test_the_high_frequency_share_of_waves_is_that_of_their_energy():
    size = 16
    column = torch.arange(size) * 2 * math.pi / size

    def wave(cycles, amplitude):
        return (amplitude * (cycles * column).cos()).expand(1, 3, 2, size, size)

    low, high = wave(2, 1.0), wave(6, 0.5)
    assert high_frequency_share(low + 0.3).item() == pytest.approx(0, abs=1e-6)
    assert high_frequency_share(high).item() == pytest.approx(1, abs=1e-6)
    assert high_frequency_share(high.transpose(3, 4)).item() == pytest.approx(1, abs=1e-6)
    assert high_frequency_share(low + high - 0.2).item() == pytest.approx(0.25 / 1.25, abs=1e-5)
