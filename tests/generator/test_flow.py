"""Schedules, sampler steps, log-probabilities and divergences of `generator.flow`."""

import math

import pytest
import torch

from generator import flow

MEAN, SPREAD = 0.7, 0.5


def exact_velocity(x, sigma):
    """E[noise − x₀ | x] for x₀ ~ N(MEAN, SPREAD²), from the conditional of a joint Gaussian."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    covariance = sigma - (1 - sigma) * SPREAD**2
    return -MEAN + covariance / variance * (x - (1 - sigma) * MEAN)


def carry(kernel, noise_level, steps, samples=60_000, stop=0):
    """Marginal samples at the noise level `sigmas[-1 - stop]`, in float64."""
    torch.manual_seed(0)
    sigmas = flow.sigma_schedule(steps, shift=1.5)
    x = torch.randn(samples, 1, dtype=torch.float64)
    for index in range(steps - stop):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        v = exact_velocity(x, sigma.double())
        if kernel is None or sigma_next == 0:
            x = flow.euler_step(x, v, sigma, sigma_next)
        else:
            mean, std = flow.SDE_KERNELS[kernel](x, v, sigma, sigma_next, noise_level, sigmas[1])
            x = mean + std * torch.randn_like(x)
    return x, sigmas[-1 - stop].item()


@pytest.mark.parametrize(
    ("kernel", "noise_level"),
    [(None, 0.0), ("flow_sde", 0.7), ("dance_sde", 0.3), ("dance_sde", 1.0), ("cps", 0.1)],
)
@pytest.mark.parametrize("stop", [0, 120])
def test_every_kernel_keeps_the_marginals_of_the_ode(kernel, noise_level, stop):
    x, sigma = carry(kernel, noise_level, steps=240, stop=stop)
    assert x.mean().item() == pytest.approx((1 - sigma) * MEAN, abs=0.015)
    assert x.std().item() == pytest.approx(math.hypot((1 - sigma) * SPREAD, sigma), rel=0.02)


def test_a_wrong_sign_of_the_score_would_be_noticed():
    right, _ = carry("dance_sde", 1.0, steps=240, stop=120)
    sigmas, x = flow.sigma_schedule(240, shift=1.5), torch.randn(60_000, 1, dtype=torch.float64)
    for index in range(120):
        v = exact_velocity(x, sigmas[index].double())
        delta = sigmas[index] - sigmas[index + 1]
        x = x - delta * v - 0.5 * flow.score(x, v, sigmas[index]) * delta + delta.sqrt() * torch.randn_like(x)
    assert abs(x.std() - right.std()) / right.std() > 0.2


@pytest.mark.parametrize("kernel", flow.SDE_KERNELS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("steps", [2, 8, 50])
def test_the_first_step_std_is_bounded(kernel, shift, steps):
    sigmas = flow.sigma_schedule(steps, shift)
    x, v = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    mean, std = flow.SDE_KERNELS[kernel](x, v, sigmas[0], sigmas[1], 0.7, sigmas[1])
    assert 0 < std.max() <= 1
    assert torch.isfinite(mean).all()
    assert mean.abs().max() < 3 * (x.abs().max() + v.abs().max())


@pytest.mark.parametrize("kernel", flow.SDE_KERNELS)
def test_without_noise_every_kernel_is_the_ode(kernel):
    sigmas = flow.sigma_schedule(6, 3.0)
    x, v = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    for step in range(5):
        mean, std = flow.SDE_KERNELS[kernel](x, v, sigmas[step], sigmas[step + 1], 0.0, sigmas[1])
        assert torch.allclose(mean, flow.euler_step(x, v, sigmas[step], sigmas[step + 1]), atol=1e-5)
        assert std.max() == 0


def test_cps_keeps_the_total_noise_level():
    x0, noise, fresh = torch.randn(3, 100_000), torch.randn(3, 100_000), torch.randn(3, 100_000)
    x = flow.interpolate(x0, noise, 0.8)
    mean, std = flow.cps_step(x, flow.velocity_target(x0, noise), 0.8, 0.6, 0.7)
    remaining = mean + std * fresh - (1 - 0.6) * x0
    assert remaining.std().item() == pytest.approx(0.6, rel=0.01)


def test_the_schedule_falls_from_one_to_zero_and_matches_the_closed_form():
    sigmas = flow.sigma_schedule(8, 3.0)
    assert sigmas.dtype == torch.float32
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    expected = [1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3, 0]
    assert sigmas.tolist() == pytest.approx(expected, abs=1e-4)
    assert (sigmas.diff() < 0).all()


def test_shift_goes_towards_noise_and_shift_three_has_median_three_quarters():
    random = torch.Generator().manual_seed(0)
    for uniform_share in (0.0, 0.3, 1.0):
        sigma = flow.sample_sigma(100_000, 3.0, random, uniform_share=uniform_share)
        assert sigma.median().item() == pytest.approx(0.75, abs=0.01)
    assert flow.sample_sigma(100_000, 1.0, random).median().item() == pytest.approx(0.5, abs=0.01)


def test_logit_normal_sigmas_have_the_asked_moments():
    sigma = flow.sample_sigma(200_000, 1.0, torch.Generator().manual_seed(0), mean=0.4, std=0.8)
    logit = torch.logit(sigma)
    assert logit.mean().item() == pytest.approx(0.4, abs=0.01)
    assert logit.std().item() == pytest.approx(0.8, abs=0.01)


def test_conversions_recover_the_sample_and_the_noise():
    x0, noise = torch.randn(4, 3, 2, 4, 4), torch.randn(4, 3, 2, 4, 4)
    sigma = torch.tensor([0.2, 0.5, 0.9, 1.0])
    x, v = flow.interpolate(x0, noise, sigma), flow.velocity_target(x0, noise)
    assert torch.allclose(flow.denoised(x, v, sigma), x0, atol=1e-5)
    assert torch.allclose(flow.predicted_noise(x, v, sigma), noise, atol=1e-5)
    assert torch.allclose(flow.euler_step(x, v, sigma, 0.0), x0, atol=1e-5)


def test_score_is_the_gradient_of_the_log_density():
    sigma = 0.6
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None].requires_grad_()
    std = math.hypot((1 - sigma) * SPREAD, sigma)
    log_density = torch.distributions.Normal((1 - sigma) * MEAN, std).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(log_density, x)
    assert torch.allclose(flow.score(x, exact_velocity(x, sigma), sigma), gradient)


def test_log_prob_and_kl_equal_those_of_torch_distributions():
    mean, other, x = (torch.randn(3, 2, 2, 4, 4, dtype=torch.float64) for _ in range(3))
    std = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    normal, reference = torch.distributions.Normal(mean, std), torch.distributions.Normal(other, std)
    expected = normal.log_prob(x).flatten(1).mean(1)
    assert torch.allclose(flow.gaussian_log_prob(x, mean, std), expected)
    kl = torch.distributions.kl_divergence(normal, reference).flatten(1).mean(1)
    assert torch.allclose(flow.gaussian_kl(mean, other, std), kl)


def test_kl_has_the_analytic_gradient():
    mean = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    reference, std = torch.randn_like(mean), torch.tensor(0.3, dtype=torch.float64)
    flow.gaussian_kl(mean, reference, std).sum().backward()
    assert torch.allclose(mean.grad, (mean.detach() - reference) / std**2 / mean[0].numel())
    assert mean.grad.abs().max() > 0


def test_guidance_one_is_the_conditional_branch():
    conditional, unconditional = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.allclose(flow.guide(conditional, unconditional, 1.0), conditional)
    assert torch.allclose(flow.guide(conditional, unconditional, 0.0), unconditional)
