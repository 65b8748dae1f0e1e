"""The mathematics of rectified flow as pure functions: schedules, sampler steps, log-probabilities, KL.

Notation: `sigma` in [0, 1] with 1 = noise, `x_sigma = (1 - sigma) x_0 + sigma noise`, velocity `v = noise - x_0`.
A sampler step goes from `sigma` to `sigma_next < sigma`, and Δ is their difference.
Latents are `[batch, ...]`; a sigma is a float, a scalar tensor, or `[batch]`, and is broadcast over the rest.

A stochastic kernel returns `(mean, std)` of the Gaussian from which the next latents are drawn, `mean` shaped
like the latents and `std` broadcastable to it. All kernels leave the marginals of the ODE unchanged as the
steps become many (for `cps_step`: as `noise_level` becomes small with them).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sigma = float | Tensor


def expand(sigma: Sigma, like: Tensor) -> Tensor:
    """`sigma` as a float32 tensor that broadcasts over `like` `[batch, ...]`."""
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=like.device)
    return sigma.reshape(-1, *[1] * (like.ndim - 1)) if sigma.ndim else sigma


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves noise levels towards noise: s σ / (1 + (s − 1) σ) (arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_schedule(num_inference_steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels `[num_inference_steps + 1]`, float32, falling from exactly 1 to exactly 0."""
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}, but at least one step is needed.")
    return shift_sigma(torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64), shift).float()


def sample_sigma(
    batch: int,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    uniform_share: float = 0.0,
) -> Tensor:
    """Noise levels `[batch]` for training: logit-normal, then shifted (arXiv 2403.03206, section 3.1).

    Args:
        shift: time shift towards noise; the median becomes s σ / (1 + (s − 1) σ) of σ = sigmoid(mean).
        generator: a generator on the CPU; the values are the same for every device.
        mean, std: of the normal variable whose sigmoid is taken.
        uniform_share: share in [0, 1] drawn uniformly instead, which keeps both ends of the schedule trained.
    """
    sigma = torch.sigmoid(mean + std * torch.randn(batch, generator=generator))
    uniform = torch.rand(batch, generator=generator)
    choice = torch.rand(batch, generator=generator)
    return shift_sigma(torch.where(choice < uniform_share, uniform, sigma), shift)


def interpolate(x0: Tensor, noise: Tensor, sigma: Sigma) -> Tensor:
    """x_σ = (1 − σ) x₀ + σ ε."""
    sigma = expand(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def weights_norm(sigma: Tensor) -> Tensor:
    """√((1 − σ)² + σ²), the standard deviation of x_σ of data of unit variance. Where α and s are the weights of a
    variance-preserving process with σ = s / (α + s), it is 1 / (α + s): z_t = x_σ / √(…)."""
    return torch.sqrt((1 - sigma) ** 2 + sigma**2)


def initial_state(noise: Tensor, sigma: Sigma) -> Tensor:
    """State that sampling begins with at the noise level `sigma`: ε √((1 − σ)² + σ²), which is ε at σ = 1.

    It has the variance that x_σ has of data of unit variance. A variance-preserving process that begins with z = ε
    begins with this in rectified flow.
    """
    return noise * weights_norm(expand(sigma, noise))


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """v = ε − x₀, what the network learns to predict."""
    return noise - x0


def denoised(x: Tensor, v: Tensor, sigma: Sigma) -> Tensor:
    """The clean sample that a velocity implies: x̂₀ = x − σ v."""
    return x - expand(sigma, x) * v


def predicted_noise(x: Tensor, v: Tensor, sigma: Sigma) -> Tensor:
    """The noise that a velocity implies: ε̂ = x + (1 − σ) v."""
    return x + (1 - expand(sigma, x)) * v


def score(x: Tensor, v: Tensor, sigma: Sigma) -> Tensor:
    """∇ log p_σ(x) = −(x − (1 − σ) x̂₀) / σ² = −ε̂ / σ, for σ > 0."""
    return -predicted_noise(x, v, sigma) / expand(sigma, x)


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance: v_u + w (v_c − v_u) (arXiv 2207.12598, with 1 for none)."""
    return unconditional + guidance_scale * (conditional - unconditional)


def euler_step(x: Tensor, v: Tensor, sigma: Sigma, sigma_next: Sigma) -> Tensor:
    """A step of the probability-flow ODE: x − (σ − σ') v."""
    return x - (expand(sigma, x) - expand(sigma_next, x)) * v


def heun_step(x: Tensor, v: Tensor, v_next: Tensor, sigma: Sigma, sigma_next: Sigma) -> Tensor:
    """A step of Heun's method: x − (σ − σ') (v + v') / 2, with v' the velocity where an Euler step ends."""
    return euler_step(x, (v + v_next) / 2, sigma, sigma_next)


def adams_bashforth_step(
    x: Tensor, v: Tensor, v_previous: Tensor, sigma_previous: Sigma, sigma: Sigma, sigma_next: Sigma
) -> Tensor:
    """A step of the two-step Adams–Bashforth method with steps of any length, by the line through two velocities.

    x − Δ ((1 + r/2) v − r/2 v₋) with r = Δ / Δ₋ (Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations
    I, section III.5).

    Args:
        v_previous, sigma_previous: velocity and noise level of the step before.
    """
    half = (expand(sigma, x) - expand(sigma_next, x)) / (expand(sigma_previous, x) - expand(sigma, x)) / 2
    return euler_step(x, v + half * (v - v_previous), sigma, sigma_next)


def dpm_solver_step(
    x: Tensor, x0: Tensor, x0_previous: Tensor, sigma_previous: Sigma, sigma: Sigma, sigma_next: Sigma
) -> Tensor:
    """A step of DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2) with α = 1 − σ.

    x' = (σ'/σ) x + (α' − α σ'/σ) D, D = x̂₀ + (x̂₀ − x̂₀₋) / 2r, r = h₋ / h and h the step in λ = log(α/σ). Where
    λ is infinite, after the first step (from λ = −∞) and in the last (to λ = ∞), D = x̂₀ and the step is Euler's.

    Args:
        x0, x0_previous: clean samples that the velocities of this and the step before imply.
    """
    sigma_previous, sigma, sigma_next = (expand(s, x) for s in (sigma_previous, sigma, sigma_next))
    before, now, then = (torch.log((1 - s) / s) for s in (sigma_previous, sigma, sigma_next))
    half = torch.where(
        before.isinf() | then.isinf(), torch.zeros_like(now), (then - now) / (now - before) / 2
    )
    clean = x0 + half * (x0 - x0_previous)
    ratio = sigma_next / sigma
    return ratio * x + (1 - sigma_next - (1 - sigma) * ratio) * clean


def flow_sde_step(
    x: Tensor, v: Tensor, sigma: Sigma, sigma_next: Sigma, noise_level: float, sigma_second: Sigma
) -> tuple[Tensor, Tensor]:
    """Mean and std of a step of Flow-GRPO's SDE (Liu et al. 2025, arXiv 2505.05470, eq. 9).

    s = a √(σ / (1 − min(σ, σ₂))), mean = x (1 − s² Δ / 2σ) − v (1 + s² (1 − σ) / 2σ) Δ, std = s √Δ.

    Args:
        noise_level: a; the paper uses 0.7.
        sigma_second: σ₂, the second-largest noise level of the schedule; it bounds the first step (σ = 1).
    """
    sigma, sigma_next = expand(sigma, x), expand(sigma_next, x)
    delta = sigma - sigma_next
    diffusion = noise_level * torch.sqrt(sigma / (1 - torch.minimum(sigma, expand(sigma_second, x))))
    half = diffusion**2 / (2 * sigma)
    mean = x * (1 - half * delta) - v * (1 + half * (1 - sigma)) * delta
    return mean, diffusion * torch.sqrt(delta)


def dance_sde_step(
    x: Tensor, v: Tensor, sigma: Sigma, sigma_next: Sigma, noise_level: float, sigma_second: Sigma = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean and std of a step of DanceGRPO's SDE (Xue et al. 2025, arXiv 2505.07818, eq. 8).

    mean = x − Δ v + ½ η² ∇log p_σ(x) Δ, std = η √Δ: the ODE plus a Langevin step that leaves p_σ unchanged.

    Args:
        noise_level: η; the paper uses 0.3.
        sigma_second: not used; every kernel has the same signature.
    """
    delta = expand(sigma, x) - expand(sigma_next, x)
    mean = x - delta * v + 0.5 * noise_level**2 * score(x, v, sigma) * delta
    return mean, noise_level * torch.sqrt(delta)


def cps_step(
    x: Tensor, v: Tensor, sigma: Sigma, sigma_next: Sigma, noise_level: float, sigma_second: Sigma = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean and std of a coefficients-preserving step (Wang & Yu 2025, arXiv 2509.05952).

    mean = (1 − σ') x̂₀ + √(σ'² − std²) ε̂, std = σ' sin(a π / 2): the old and the new noise together have exactly
    the level σ', so no step leaves the noise that the network expects.

    Args:
        noise_level: a in [0, 1]: 0 is the ODE, 1 replaces all noise at each step.
        sigma_second: not used; every kernel has the same signature.
    """
    angle = noise_level * math.pi / 2
    sigma_next = expand(sigma_next, x)
    kept = sigma_next * math.cos(angle)
    mean = (1 - sigma_next) * denoised(x, v, sigma) + kept * predicted_noise(x, v, sigma)
    return mean, sigma_next * math.sin(angle)


SdeKernel = Callable[[Tensor, Tensor, Sigma, Sigma, float, Sigma], tuple[Tensor, Tensor]]

SDE_KERNELS: dict[str, SdeKernel] = {"flow_sde": flow_sde_step, "dance_sde": dance_sde_step, "cps": cps_step}


def gaussian_log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density `[batch]` of `sample` `[batch, ...]`, the mean over its elements (DDPO, arXiv 2305.13301).

    The mean instead of the sum makes clip ranges independent of the size of a video.
    """
    log_prob = -((sample - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return log_prob.expand_as(sample).flatten(1).mean(1)


def gaussian_kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL `[batch]` of two Gaussians of the same std: ‖mean − reference‖² / 2 std², the mean over elements."""
    return ((mean - reference_mean) ** 2 / (2 * std**2)).flatten(1).mean(1)
