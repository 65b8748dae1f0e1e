"""Checks of a model by itself: exact predictions, step formulas, batches, log-probabilities."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from alignment.proof.result import Result
from alignment.proof.subject import Subject, relative_distance
from alignment.trainers.ppo_config import DEFAULT_NOISE_LEVELS
from generator import flow
from generator.sampling import (
    SdeSettings,
    sample_latents,
    sample_trajectories,
    sde_step,
    seeded_noise,
)
from generator.solvers import SOLVERS
from generator.stock_pipelines import ExactPrediction

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative distance of latents that are computed twice by different kernels, guidance included."""
LOG_PROB = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest difference of a log-probability that is computed twice, the mean over elements; PPO clips at `epsilon`."""


def check_oracle(subject: Subject) -> list[Result]:
    """An exact prediction in the transformer's own layout carries the noise to the clean latents."""
    generator, noise = subject.generator, subject.noise
    x0 = seeded_noise([100, 101], noise.shape[1:]).to(noise.device)
    exact = ExactPrediction(generator.pipeline, x0, noise)

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        return generator.velocity(latents, sigma, subject.conditions, exact)

    results = []
    for steps, solver in [(1, "euler"), *((8, solver) for solver in SOLVERS)]:
        sigmas = generator.sigma_schedule(steps, noise.shape[1:])
        found = sample_latents(velocity, flow.interpolate(x0, noise, sigmas[0]), sigmas, solver)
        error = float((found - x0).abs().max())
        said = "1 step" if steps == 1 else f"{steps} steps"
        results.append(Result("oracle", f"an exact prediction goes home in {said}, {solver}", error, 1e-4))
    return results


def check_steps(subject: Subject) -> list[Result]:
    """The schedule, and each kernel's mean, against closed forms in float64.

    With data x₀ and noise ε known, an SDE's mean is the ODE's step minus ½ std² ε / σ (a Langevin step along the
    score −ε / σ), and that of a coefficients-preserving step is (1 − σ') x₀ + √(σ'² − std²) ε.
    """
    sigmas = subject.sigmas
    first, sigma_max = float(sigmas[0]), subject.generator.sigma_max
    ends = max(abs(first - 1) if sigma_max == 1 else max(first - sigma_max, 0), abs(float(sigmas[-1])))
    falling = bool((sigmas.diff() < 0).all())
    schedule = f"the schedule falls from {1 if sigma_max == 1 else f'{first:.3f}'} to 0"
    results = [Result("steps", schedule, ends, 1e-6, "" if falling else "it does not fall", not falling)]
    x0, noise = seeded_noise([100], (4096,)), seeded_noise([0], (4096,))
    for kernel, step_of in flow.SDE_KERNELS.items():
        worst = 0.0
        for sigma, following in itertools.pairwise(sigmas[:-1].cpu()):
            x, v = flow.interpolate(x0, noise, sigma), noise - x0
            mean, std = step_of(x, v, sigma, following, DEFAULT_NOISE_LEVELS[kernel], sigmas[1].cpu())
            expected = _expected_mean(kernel, x0, noise, float(sigma), float(following), std)
            worst = max(worst, relative_distance(mean, expected))
        results.append(Result("steps", f"the mean of {kernel} is its equation's", worst, 1e-4))
    return results


def _expected_mean(
    kernel: str, x0: Tensor, noise: Tensor, sigma: float, following: float, std: Tensor
) -> Tensor:
    x0, noise, std = x0.double(), noise.double(), std.double()
    if kernel == "cps":
        return (1 - following) * x0 + (following**2 - std**2).sqrt() * noise
    return (1 - following) * x0 + following * noise - std**2 / 2 * noise / sigma


def check_batch(subject: Subject) -> list[Result]:
    """Two videos made together are those made one by one."""
    alone = torch.cat([subject.sample([row]) for row in (0, 1)])
    error = relative_distance(subject.sample(), alone)
    return [Result("batch", "a batch equals its members", error, ROUNDING[subject.generator.dtype])]


def check_log_prob(subject: Subject) -> list[Result]:
    """Log-probabilities of a rollout of two videos against those computed again, one by one, as an update does."""
    dtype = subject.generator.dtype
    device = subject.generator.device.type
    precisions: list[tuple[str, torch.dtype, Callable[[], contextlib.AbstractContextManager[object]]]] = [
        (f"{str(dtype).removeprefix('torch.')} weights", dtype, contextlib.nullcontext)
    ]
    if dtype == torch.float32:
        autocast = torch.autocast(device, dtype=torch.bfloat16)
        precisions.append(("bfloat16 autocast", torch.bfloat16, lambda: autocast))
    results = []
    for said, computed_in, context in precisions:
        with context():
            error = log_prob_error(subject)
        what = f"log-probabilities recomputed are the rollout's, {said}"
        results.append(Result("log_prob", what, error, LOG_PROB[computed_in]))
    return results


@torch.no_grad()
def log_prob_error(subject: Subject, kernel: str = "flow_sde") -> float:
    """Largest difference of log-probabilities between a rollout and its recomputation; infinite where one is not
    finite."""
    count = subject.steps - 1
    settings = SdeSettings(kernel, DEFAULT_NOISE_LEVELS[kernel], 0, count)
    shape = subject.noise.shape[1:]
    rows = range(len(subject.noise))
    noise = torch.stack([seeded_noise(range(10 * row, 10 * row + 1 + count), shape) for row in rows])
    rollout = sample_trajectories(
        subject.velocity(), noise.to(subject.noise.device), subject.sigmas, settings
    )
    sigmas, worst = rollout.sigmas, 0.0
    for row, step in itertools.product(rows, range(count)):
        before, after = rollout.states[row : row + 1, step], rollout.states[row : row + 1, step + 1]
        velocity = subject.velocity([row])(before, sigmas[step].expand(1))
        mean, std = sde_step(settings, sigmas, step, before, velocity)
        again = flow.gaussian_log_prob(after, mean, std)
        difference = float((again - rollout.log_probs[row : row + 1, step]).abs())
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst
