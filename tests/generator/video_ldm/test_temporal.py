"""Temporal layers: the gate, its gradients, and the layer against independent computations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from generator.video_ldm.temporal import (
    ALPHA_RATE,
    LEAST_OPENING,
    AlphaGate,
    TemporalInputs,
    TemporalLayer,
    TemporalLayers,
    fps_features,
    neighbours,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0])
def test_a_gate_mixes_by_alpha(alpha: float) -> None:
    gate = AlphaGate().double()
    gate.set_alpha(alpha)
    z, temporal = drawn(2, 3), drawn(2, 3, seed=1)
    assert float(gate.alpha) == pytest.approx(alpha)
    torch.testing.assert_close(gate(z, temporal), torch.lerp(temporal, z, alpha))


def test_a_new_gate_gives_the_spatial_layers_output_bit_for_bit() -> None:
    z, temporal = torch.randn(50, 7), torch.randn(50, 7) * 1e4
    assert torch.equal(AlphaGate()(z, temporal), z)


def test_alpha_stays_between_zero_and_one() -> None:
    gate = AlphaGate()
    for opening, alpha in ((-3.0, 1.0), (3.0, 0.0)):
        gate.opening.data.fill_(opening)
        assert float(gate.alpha) == alpha


def test_gradients_of_an_open_gate_are_those_of_the_formula() -> None:
    gate = AlphaGate().double()
    gate.set_alpha(0.3)
    z, temporal, weight = drawn(4).requires_grad_(), drawn(4, seed=1).requires_grad_(), drawn(4, seed=2)
    (gate(z, temporal) * weight).sum().backward()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    again, other = z.detach().requires_grad_(), temporal.detach().requires_grad_()
    ((alpha * again + (1 - alpha) * other) * weight).sum().backward()
    torch.testing.assert_close(z.grad, again.grad)
    torch.testing.assert_close(temporal.grad, other.grad)
    torch.testing.assert_close(gate.opening.grad, -ALPHA_RATE * alpha.grad, rtol=1e-6, atol=0)


def test_a_closed_gate_lets_its_layer_learn_and_opens_only_if_that_helps() -> None:
    z, temporal = torch.zeros(3), torch.ones(3, requires_grad=True)
    for sign, opens in ((1.0, False), (-1.0, True)):
        gate = AlphaGate()
        temporal.grad = None
        (sign * gate(z, temporal)).sum().backward()
        assert torch.equal(temporal.grad, torch.full((3,), sign * LEAST_OPENING))
        # A descent step moves the opening against its gradient.
        assert (float(gate.opening.grad) < 0) == opens
        assert float(gate.opening.grad) == (-3 * ALPHA_RATE if opens else 0)


def test_neighbours_are_the_frames_before_and_after_with_the_ends_repeated() -> None:
    x = drawn(2, 5, 3, 4)
    padded = F.pad(x.permute(0, 2, 3, 1).flatten(0, 1), (1, 1), mode="replicate").unfold(2, 3, 1)
    expected = padded.unflatten(0, (2, 3)).permute(0, 3, 1, 4, 2).flatten(3)
    assert torch.equal(neighbours(x), expected)


def test_a_doubled_frame_rate_is_the_same_step_anywhere() -> None:
    # Rotations by the same angles: products of features with those of twice the rate do not depend on the rate.
    def pairs(fps: float) -> tuple[Tensor, Tensor]:
        cos, sin = fps_features(fps).double().chunk(2)
        cos_2, sin_2 = fps_features(2 * fps).double().chunk(2)
        return cos * cos_2 + sin * sin_2, sin_2 * cos - cos_2 * sin

    for first, second in zip(pairs(2.0), pairs(8.0), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert not torch.allclose(fps_features(2.0), fps_features(8.0), atol=0.1)


def test_a_temporal_layer_is_attention_and_convolution_along_time_at_each_place() -> None:
    torch.manual_seed(0)
    dim, heads, frames, places = 16, 2, 5, 3
    layer = TemporalLayer(dim, heads).double()
    for parameter in layer.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    layers = TemporalLayers(dim, heads, 1, 4).double()
    shared = layers.shared_inputs(
        torch.rand(2, frames).double(), 8.0, drawn(2, frames, places, 4), torch.zeros(2, frames).bool()
    )
    shared = TemporalInputs(
        0.2 * drawn(2, frames, 1, 6, dim), drawn(2, frames, places, dim), shared.cos, shared.sin
    )
    z = drawn(2, frames, places, dim, seed=3)
    found = layer.temporal(z, shared)

    shift1, scale1, gate1, shift2, scale2, gate2 = (layer.scale_shift_table + shared.modulation).unbind(3)
    x = F.layer_norm(z, (dim,), layer.norm1.weight, layer.norm1.bias) * (1 + scale1) + shift1 + shared.context
    angles = torch.polar(torch.ones_like(shared.cos), torch.atan2(shared.sin, shared.cos))

    def heads_of(project: torch.nn.Module, norm: Tensor | None) -> Tensor:
        y = project(x).unflatten(-1, (heads, dim // heads))
        if norm is None:
            return y
        y = F.rms_norm(y, (dim // heads,), norm)
        first, second = y.chunk(2, -1)
        turned = torch.complex(first, second) * angles[None, :, None, None]
        return torch.cat([turned.real, turned.imag], -1)

    attn = layer.attn
    query, key = heads_of(attn.to_q, attn.norm_q), heads_of(attn.to_k, attn.norm_k)
    weights = torch.einsum("bfnhd,bgnhd->bnhfg", query, key).div((dim // heads) ** 0.5).softmax(-1)
    mixed = torch.einsum("bnhfg,bgnhd->bfnhd", weights, heads_of(attn.to_v, None)).flatten(3)
    hidden = z + gate1 * attn.to_out[0](mixed)
    y = F.layer_norm(hidden, (dim,), layer.norm2.weight, layer.norm2.bias) * (1 + scale2) + shift2
    kernel = layer.conv.weight.unflatten(1, (3, dim)).transpose(1, 2)
    rows = F.pad(y.permute(0, 2, 3, 1).flatten(0, 1), (1, 1), mode="replicate")
    convolved = F.conv1d(rows, kernel, layer.conv.bias).unflatten(0, (2, places)).permute(0, 3, 1, 2)
    expected = hidden + gate2 * layer.out(F.gelu(convolved, approximate="tanh"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_context_is_told_as_masked_latents_and_the_mask() -> None:
    layers = TemporalLayers(16, 2, 1, 4).double()
    patches, context = drawn(2, 3, 5, 4), torch.tensor([[True, False, True], [False, False, False]])
    shared = layers.shared_inputs(torch.zeros(2, 3).double(), 8.0, patches, context)
    weight, bias = layers.context_embed.weight, layers.context_embed.bias
    given = patches[0, 0] @ weight[:, :4].T + weight[:, 4] + bias
    torch.testing.assert_close(shared.context[0, 0], given)
    torch.testing.assert_close(shared.context[0, 1], bias.expand(5, -1))
    torch.testing.assert_close(shared.context[1], bias.expand(3, 5, -1))
