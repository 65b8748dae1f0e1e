"""Sampling on top of `generator.flow`: videos from prompts, the ODE sampler, and stochastic trajectories."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from generator import flow
from generator.first_frames import (
    KNOWN_LATENTS,
    ImageFiles,
    check_takes_images,
    conditioned_velocity,
    conditions_of_files,
    known_frames,
    read_images,
)
from generator.guidance import guidance_scales, scale_at
from generator.inputs.conditions import Conditions, concatenate, repeat, select
from generator.lost_words import warn_of_lost_words
from generator.one_or_several import as_list
from generator.output import InputError, check_storable
from generator.solvers import OdeSolver
from generator.video_model import VideoModel

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`(latents [batch, ...], sigma [batch]) -> velocity`, with conditions and guidance bound in."""


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise `[len(seeds), *shape]` on the CPU; row i depends on `seeds[i]` alone."""
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return noise


def guided_velocity(
    generator: VideoModel,
    conditions: Conditions,
    negative_conditions: Conditions | None = None,
    guidance_scale: float = 1.0,
    transformer: torch.nn.Module | None = None,
    guidance_scale_2: float | None = None,
    unconditional: Tensor | None = None,
    noted: Callable[[Tensor], None] | None = None,
) -> Velocity:
    """The velocity under `conditions`, with classifier-free guidance in one batched call of the network.

    Args:
        conditions: one row a latent.
        negative_conditions: one row, for all latents, or one row a latent; needed when `guidance_scale` is not 1.
        transformer: called in place of `generator.transformer`.
        guidance_scale_2: at noise levels below `generator.boundary`; `guidance_scale` where not given.
        unconditional: velocities of the unconditional branch, which then does not run; `noted` is given them else.
    """
    if guidance_scale == 1 and guidance_scale_2 in (None, 1):
        return lambda latents, sigma: conditioned_velocity(generator, latents, sigma, conditions, transformer)
    if negative_conditions is None:
        raise ValueError(f"guidance_scale is {guidance_scale}, which needs negative_conditions.")
    rows = next(iter(conditions.values())).shape[0]
    negative_rows = next(iter(negative_conditions.values())).shape[0]
    negative = repeat(negative_conditions, rows // negative_rows)
    both = concatenate([conditions, negative])

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        scale = scale_at(generator, sigma, guidance_scale, guidance_scale_2)
        if unconditional is not None:
            conditional = conditioned_velocity(generator, latents, sigma, conditions, transformer)
            return flow.guide(conditional, unconditional, scale)
        doubled = latents.repeat(2, 1, 1, 1, 1)
        predicted = conditioned_velocity(generator, doubled, sigma.repeat(2), both, transformer)
        conditional, other = predicted.chunk(2)
        if noted is not None:
            noted(other)
        return flow.guide(conditional, other, scale)

    return velocity


@torch.no_grad()
def sample_latents(
    velocity: Velocity,
    latents: Tensor,
    sigmas: Tensor,
    solver: str = "euler",
    stepped: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents `[batch, ...]` carried along the ODE from the noise level `sigmas[0]` to `sigmas[-1]`.

    Args:
        velocity: from `guided_velocity`.
        latents: float32, at the noise level `sigmas[0]`.
        sigmas: falling noise levels `[steps + 1]`, from `flow.sigma_schedule`.
        solver: one of `generator.solvers.SOLVERS`.
        stepped: is given the number of latents after each step.

    Raises:
        InputError: there is no such solver.
    """
    ode = OdeSolver(solver, velocity)
    sigmas = sigmas.to(latents.device)
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        predicted = velocity(latents, sigma.expand(latents.shape[0]))
        latents = ode.step(latents, predicted, sigma, sigma_next, last=step == len(sigmas) - 2)
        if stepped is not None:
            stepped(len(latents))
    return latents


@dataclass(frozen=True)
class SdeSettings:
    """Exploration of trajectories.

    Attributes:
        kernel: name in `flow.SDE_KERNELS`.
        noise_level: the kernel's strength.
        first_step, num_steps: the window of consecutive stochastic steps; every other step is the ODE's. It
            is the same for all members of a group, so that their rewards differ by what these steps did
            (MixGRPO, arXiv 2507.21802). The last step ends without noise and can never be in it.
    """

    kernel: str
    noise_level: float
    first_step: int
    num_steps: int

    def __post_init__(self) -> None:
        if self.kernel not in flow.SDE_KERNELS:
            raise InputError(
                f"The SDE kernel is {self.kernel!r}: choose one of {', '.join(flow.SDE_KERNELS)}."
            )
        if self.first_step < 0 or self.num_steps < 1:
            raise ValueError(
                f"The window starts at {self.first_step} and has {self.num_steps} steps: one is the least."
            )


def sde_step(
    settings: SdeSettings, sigmas: Tensor, step: int | Tensor, latents: Tensor, velocity: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and std of the stochastic step(s) `step` (an index, or one a row of `latents`) of the schedule."""
    kernel = flow.SDE_KERNELS[settings.kernel]
    return kernel(
        latents,
        velocity,
        sigmas[step],
        sigmas[step + 1],
        settings.noise_level,
        sigmas[min(1, len(sigmas) - 1)],
    )


@dataclass
class Trajectories:
    """Sampled latents with all that a policy-gradient update needs. All tensors are float32.

    Attributes:
        final: clean latents `[batch, C, F, H, W]`.
        states: latents `[batch, W + 1, C, F, H, W]` before each of the W stochastic steps and after the last one.
        log_probs: `[batch, W]`, of each stochastic step under the policy that took it.
        reference_means: `[batch, W, C, F, H, W]`, the means that the reference gives for the same steps, or None.
        kl: `[compared, W]`, the divergence of each stochastic step from the reference's, or None.
        sigmas: the schedule `[steps + 1]`.
        settings: the kernel and its window; None where every step was the ODE's.
        means: `[batch, W, C, F, H, W]`, the means of the stochastic steps under the policy that took them; None where
            they were not kept.
        unconditional: the same of the unconditional velocities at the stochastic steps.
    """

    final: Tensor
    states: Tensor
    log_probs: Tensor
    reference_means: Tensor | None
    kl: Tensor | None
    sigmas: Tensor
    settings: SdeSettings | None
    means: Tensor | None = None
    unconditional: Tensor | None = None


def join_trajectories(parts: Sequence[Trajectories]) -> Trajectories:
    """One batch of the trajectories of several, all with the same schedule and window."""

    def join(values: list[Tensor | None]) -> Tensor | None:
        tensors = [value for value in values if value is not None]
        return torch.cat(tensors) if tensors else None

    return Trajectories(
        final=torch.cat([part.final for part in parts]),
        states=torch.cat([part.states for part in parts]),
        log_probs=torch.cat([part.log_probs for part in parts]),
        reference_means=join([part.reference_means for part in parts]),
        kl=join([part.kl for part in parts]),
        sigmas=parts[0].sigmas,
        settings=parts[0].settings,
        means=join([part.means for part in parts]),
        unconditional=join([part.unconditional for part in parts]),
    )


@dataclass(frozen=True)
class Reference:
    """Reference that trajectories are compared with.

    Attributes:
        velocity: the reference policy's, of the trajectories `rows`.
        rows: `[m]`, the trajectories that are compared; all where None.
        keep_means: whether the means of the reference are kept, for a KL term in the loss.
    """

    velocity: Velocity
    rows: Tensor | None = None
    keep_means: bool = True


@torch.no_grad()
def sample_trajectories(
    velocity: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    settings: SdeSettings,
    reference: Reference | None = None,
    stepped: Callable[[int], None] | None = None,
    keep_means: bool = False,
    solver: str = "euler",
) -> Trajectories:
    """Samples latents with stochastic steps inside the window and ODE steps elsewhere.

    Args:
        velocity: from `guided_velocity`.
        noise: `[batch, 1 + W, C, F, H, W]`, float32: the start, then the noise of each stochastic step.
        sigmas: the schedule `[steps + 1]`.
        reference: with it, the divergence from it is recorded.
        stepped: is given the number of latents after each step.
        keep_means: whether the means of the stochastic steps are kept.
        solver: of the other steps, which begins anew behind the window (MixGRPO-Flash, arXiv 2507.21802).
    """
    window = range(settings.first_step, settings.first_step + settings.num_steps)
    _check_window(window, len(sigmas) - 1)
    sigmas = sigmas.to(noise.device)
    latents = flow.initial_state(noise[:, 0], sigmas[0])
    states: list[Tensor] = []
    log_probs: list[Tensor] = []
    reference_means: list[Tensor] = []
    kl: list[Tensor] = []
    means: list[Tensor] = []
    ode = OdeSolver(solver, velocity)
    for step in range(len(sigmas) - 1):
        if stepped is not None and step > 0:
            stepped(len(latents))
        sigma = sigmas[step].expand(latents.shape[0])
        predicted = velocity(latents, sigma)
        if step not in window:
            latents = ode.step(latents, predicted, sigmas[step], sigmas[step + 1], step == len(sigmas) - 2)
            continue
        ode.forget()
        mean, std = sde_step(settings, sigmas, step, latents, predicted)
        states.append(latents)
        if keep_means:
            means.append(mean)
        if reference is not None:
            rows = slice(None) if reference.rows is None else reference.rows
            compared = latents[rows]
            other = reference.velocity(compared, sigma[: len(compared)])
            reference_mean, _ = sde_step(settings, sigmas, step, compared, other)
            kl.append(flow.gaussian_kl(mean[rows], reference_mean, std))
            if reference.keep_means:
                reference_means.append(reference_mean)
        latents = mean + std * noise[:, 1 + len(log_probs)]
        log_probs.append(flow.gaussian_log_prob(latents, mean, std))
        if step == window.stop - 1:
            states.append(latents)
    if stepped is not None:
        stepped(len(latents))
    return Trajectories(
        final=latents,
        states=torch.stack(states, dim=1),
        log_probs=torch.stack(log_probs, dim=1),
        reference_means=torch.stack(reference_means, dim=1) if reference_means else None,
        kl=torch.stack(kl, dim=1) if kl else None,
        sigmas=sigmas,
        settings=settings,
        means=torch.stack(means, dim=1) if means else None,
    )


def _check_window(window: range, steps: int) -> None:
    if window.stop > steps - 1:
        raise InputError(
            f"The stochastic steps end at step {window.stop}, but only the first {steps - 1} of {steps} steps can be "
            "stochastic: use a smaller window or more inference steps."
        )


def encode_unique_prompts(
    generator: VideoModel, prompts: Sequence[str], batch_size: int = 64
) -> tuple[Conditions, Tensor]:
    """Conditions of the distinct prompts, each encoded once, and the row `[len(prompts)]` of every prompt."""
    prompts = as_list(prompts)
    check_storable(prompts, "A prompt cannot be encoded")
    warn_of_lost_words(generator, prompts)
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    distinct = list(rows)
    with torch.no_grad():
        parts = [
            generator.encode_prompts(distinct[start : start + batch_size])
            for start in range(0, len(distinct), batch_size)
        ]
    return concatenate(parts), torch.tensor([rows[prompt] for prompt in prompts])


def video_size(
    generator: VideoModel, num_frames: int | None, height: int | None, width: int | None
) -> tuple[int, int, int]:
    """The size asked for, the family's own where nothing is said; `InputError` if it cannot be made."""
    defaults = generator.defaults
    size = (num_frames or defaults.num_frames, height or defaults.height, width or defaults.width)
    generator.check_size(*size)
    return size


def one_seed_each(seed: int | Sequence[int], count: int) -> list[int]:
    """Seeds `seed, seed + 1, …` for an integer; a sequence of `count` seeds as it is."""
    if isinstance(seed, int):
        return list(range(seed, seed + count))
    if len(seed) != count:
        raise InputError(
            f"{len(seed)} seeds were given for {count} prompts: give one seed a prompt or one integer."
        )
    return list(seed)


def one_text_each(text: str | Sequence[str], count: int) -> list[str]:
    """`count` times one text; a sequence of `count` texts as it is."""
    texts = as_list(text)
    if len(texts) == 1:
        return texts * count
    if len(texts) != count:
        raise InputError(
            f"{len(texts)} negative prompts were given for {count} prompts: give one a prompt, or one for all."
        )
    return texts


@torch.no_grad()
def generate_latents(
    generator: VideoModel,
    prompts: Sequence[str],
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | Sequence[int] = 0,
    negative_prompt: str | Sequence[str] = "",
    batch_size: int = 8,
    progress: bool = False,
    solver: str = "euler",
    stepped: Callable[[int], None] | None = None,
    guidance_scale_2: float | None = None,
    images: Sequence[ImageFiles] | None = None,
) -> Tensor:
    """Clean latents `[len(prompts), C, F, H, W]` on the CPU; the arguments are those of `generate_videos`."""
    prompts = as_list(prompts)
    if not prompts:
        raise InputError("No prompt was given: give at least one.")
    check_takes_images(generator, images, len(prompts))
    known = known_frames(generator, images or [])
    size = video_size(generator, num_frames, height, width)
    seeds = one_seed_each(seed, len(prompts))
    scale, scale_2 = guidance_scales(generator, guidance_scale, guidance_scale_2)
    steps = num_inference_steps or generator.defaults.num_inference_steps
    latent_shape = generator.latent_shape(*size)
    sigmas = generator.sigma_schedule(steps, latent_shape)
    conditions, rows = encode_unique_prompts(generator, prompts)
    negatives = None
    if scale != 1 or scale_2 != 1:
        texts = one_text_each(negative_prompt, len(prompts))
        negatives, negative_rows = encode_unique_prompts(generator, texts)
    finished = []
    with tqdm(total=len(prompts), desc="Generating", unit="video", disable=not progress) as bar:
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            noise = seeded_noise(seeds[batch], latent_shape).to(generator.device)[:, :, known:]
            seen = conditions_of_files(generator, images[batch], size) if images else {}
            negative = None if negatives is None else {**select(negatives, negative_rows[batch]), **seen}
            chosen = select(conditions, rows[batch]) | seen
            velocity = guided_velocity(generator, chosen, negative, scale, guidance_scale_2=scale_2)
            sampled = sample_latents(velocity, flow.initial_state(noise, sigmas[0]), sigmas, solver, stepped)
            finished.append(torch.cat([seen[KNOWN_LATENTS], sampled], 2).cpu() if known else sampled.cpu())
            bar.update(len(noise))
    return torch.cat(finished)


@torch.no_grad()
def generate_videos(
    generator: VideoModel,
    prompts: Sequence[str],
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | Sequence[int] = 0,
    negative_prompt: str | Sequence[str] = "",
    batch_size: int = 8,
    progress: bool = False,
    solver: str = "euler",
    stepped: Callable[[int], None] | None = None,
    guidance_scale_2: float | None = None,
    images: Sequence[ImageFiles] | None = None,
) -> Tensor:
    """Videos `[len(prompts), 3, frames, height, width]` on the CPU; see `VideoGenerator.generate`."""
    latents = generate_latents(
        generator,
        prompts,
        num_frames=num_frames,
        height=height,
        width=width,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        progress=progress,
        solver=solver,
        stepped=stepped,
        guidance_scale_2=guidance_scale_2,
        images=images,
    )
    parts = latents.split(batch_size)
    videos = torch.cat([generator.decode(part.to(generator.device)).cpu() for part in parts])
    if images and known_frames(generator, images):  # known pixels are returned as they came
        videos[:, :, 0] = read_images([first for first, _ in images], *videos.shape[3:])
    return videos
