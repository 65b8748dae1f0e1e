"""Memory of a GPU's autocast, followed on a CPU."""

import torch
from torch import nn

from generator.hardware.memory_tracker import StorageTracker, norms_in_float32


def test_norms_are_float32_under_autocast_as_on_a_gpu_and_only_there():
    norms = nn.GroupNorm(2, 4).bfloat16(), nn.LayerNorm(4).bfloat16()
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    with norms_in_float32():
        assert all(norm(x).dtype == torch.bfloat16 for norm in norms)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for norm in norms:
                expected = norm.float()(x.float())
                torch.testing.assert_close(norm.bfloat16()(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(norm(x).dtype == torch.bfloat16 for norm in norms)


def test_a_norm_keeps_its_input_in_float32_for_the_gradient():
    norm, x = (
        nn.GroupNorm(2, 64).bfloat16(),
        torch.randn(8, 64, 1024, dtype=torch.bfloat16, requires_grad=True),
    )
    peaks = []
    for context in (torch.no_grad(), torch.enable_grad()):
        with (
            context,
            norms_in_float32(),
            torch.autocast("cpu", dtype=torch.bfloat16),
            StorageTracker() as tracker,
        ):
            kept = norm(x)
        peaks.append(tracker.peak)
        assert kept.dtype == torch.float32
    assert 2 * 4 * x.numel() <= peaks[1] < 2.1 * 4 * x.numel()  # the input and the output in float32
