"""Images and videos as prompts: animate, extend, connect, interpolate, and long videos from key frames.

A model with a noise level for each latent frame takes known frames as they are, at level 0, and denoises the others
(Ho et al., arXiv 2204.03458, replace this by guidance; LTX-Video, Open-Sora 1.1 and Wan 2.2 TI2V train on it, as the
built-in model does). Image-to-video models of another kind see the image beside the noise in all steps (Wan I2V,
CogVideoX I2V); they can animate and edit (`generator/editing/flow_edit.py`, which works with every family). Long videos
follow Video LDM (arXiv 2304.08818, section 3.2): sparse key frames, then interpolation twice, each with one model.

Known pixels are returned as they came: only new frames pass through the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from generator import flow
from generator.base import VideoGenerator
from generator.editing.first_frames import velocity_with_image
from generator.guidance import guidance_scales
from generator.inputs.conditions import concatenate, repeat
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import sample_latents, seeded_noise

KEY_FRAME_FPS = 2.0
KEY_FRAME_WINDOW = 9
KEY_FRAMES_KEPT = 4


@dataclass(frozen=True)
class Sampling:
    """Settings by which frames are sampled.

    Attributes:
        num_inference_steps: Euler steps; the model's own number by default.
        guidance_scale: weight of classifier-free guidance; the model's own by default.
        seed: of the noise; video i takes `seed + i`.
        guidance_scale_2: weight for the transformer of low noise; see `generator.guidance.guidance_scales`.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    guidance_scale_2: float | None = None

    def scale(self, generator: VideoGenerator) -> float:
        """The weight of guidance, the model's own if none is set."""
        return self.scales(generator)[0]

    def scales(self, generator: VideoGenerator) -> tuple[float, float]:
        """The weights of guidance of each of two transformers; the same twice where there is one."""
        return guidance_scales(generator, self.guidance_scale, self.guidance_scale_2)

    def steps(self, generator: VideoGenerator) -> int:
        """The number of steps, the model's own if none is set."""
        return self.num_inference_steps or generator.defaults.num_inference_steps


def sample_unknown_frames(
    generator: VideoGenerator,
    prompts: Sequence[str],
    latents: Tensor,
    known: Tensor,
    sampling: Sampling,
    seconds_per_frame: float | None = None,
    key_frames: bool = False,
) -> Tensor:
    """Latents whose unknown frames are sampled given the known ones.

    Args:
        generator: of a family with `frames`.
        prompts: one a video.
        latents: `[batch, channels, frames, height, width]`, right where `known`.
        known: which frames are given, `[frames]`.
        sampling: steps, guidance, seed.
        seconds_per_frame: between latent frames; the family's own by default.
        key_frames: every latent frame is an image of its own.

    Returns:
        Latents of the same shape; known frames are unchanged.

    Raises:
        InputError: the family takes no known frames.
    """
    prompts = as_list(prompts)
    frame_velocity = generator.frames
    if frame_velocity is None:
        raise InputError(
            f"{generator.name} takes no frames as a prompt, but this needs a model with a noise level for each frame: "
            "use the built-in model, LTX-Video or Wan 2.2 TI2V, or --edit, which works with all."
        )
    scale = sampling.scale(generator)
    sigmas = generator.sigma_schedule(sampling.steps(generator), latents.shape[1:])
    conditions = generator.encode_prompts(list(prompts))
    both = conditions
    if scale != 1:
        both = concatenate([conditions, repeat(generator.encode_prompts([""]), len(prompts))])
    latents = latents.to(generator.device)
    given = known.to(generator.device)[None, :]
    mask = given[:, None, :, None, None]

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma[:, None] * ~given
        if scale == 1:
            predicted = frame_velocity(x, levels, both, seconds_per_frame, key_frames)
        else:
            conditional, unconditional = frame_velocity(
                x.repeat(2, 1, 1, 1, 1), levels.repeat(2, 1), both, seconds_per_frame, key_frames
            ).chunk(2)
            predicted = flow.guide(conditional, unconditional, scale)
        return torch.where(mask, 0.0, predicted)

    seeds = [sampling.seed + i for i in range(len(prompts))]
    noise = seeded_noise(seeds, latents.shape[1:]).to(generator.device)
    return sample_latents(velocity, torch.where(mask, latents, noise), sigmas)


def _time(generator: VideoGenerator) -> int:
    """Frames that one latent frame after the first holds."""
    return generator.size_multiples()[1]


def _whole(generator: VideoGenerator, frames: int) -> int:
    """The largest valid number of frames up to `frames`."""
    time = _time(generator)
    return (frames - 1) // time * time + 1


def animate(
    generator: VideoGenerator,
    images: Tensor,
    prompts: Sequence[str],
    num_frames: int | None = None,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """Videos `[batch, 3, num_frames, height, width]` that begin with `images [batch, 3, height, width]` in [-1, 1]."""
    prompts = as_list(prompts)
    frames = num_frames or generator.defaults.num_frames
    generator.check_size(frames, *images.shape[2:])
    if generator.image is not None:
        velocity = velocity_with_image(generator, prompts, sampling.scales(generator), images, frames)
        shape = generator.latent_shape(frames, *images.shape[2:])
        sigmas = generator.sigma_schedule(sampling.steps(generator), shape)
        noise = seeded_noise([sampling.seed + i for i in range(len(prompts))], shape).to(generator.device)
        # These models' first frame is decoded as all others are.
        start = flow.initial_state(noise, sigmas[0])
        return generator.decode(sample_latents(velocity, start, sigmas)).cpu()
    first = generator.encode(images[:, :, None].to(generator.device))
    count = generator.latent_shape(frames, *images.shape[2:])[1]
    latents = first.expand(-1, -1, count, -1, -1).clone()
    known = torch.arange(count) < 1
    video = generator.decode(sample_unknown_frames(generator, prompts, latents, known, sampling)).cpu()
    video[:, :, 0] = images
    return video


def extend(
    generator: VideoGenerator,
    videos: Tensor,
    prompts: Sequence[str],
    num_new_frames: int,
    direction: str = "forward",
    context_frames: int = 9,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """Videos with new frames after (`forward`) or before (`backward`) the given ones, or that loop (`loop`).

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        prompts: one a video.
        num_new_frames: how many; with `loop` they lead from the end back to the beginning.
        direction: `forward`, `backward` or `loop`.
        context_frames: how many frames the model sees of the video.
        sampling: steps, guidance, seed.

    Returns:
        The given frames, unchanged, with the new ones.

    Raises:
        InputError: no frames were asked for, or the direction is unknown.
    """
    prompts = as_list(prompts)
    if num_new_frames < 1:
        raise InputError(f"{num_new_frames} new frames were asked for: ask for at least one.")
    if direction == "loop":
        return connect(generator, videos, videos, prompts, num_new_frames, context_frames, sampling)[
            :, :, : videos.shape[2] + num_new_frames
        ]
    if direction not in ("forward", "backward"):
        raise InputError(f"The direction is {direction!r}, but must be forward, backward or loop.")
    time = _time(generator)
    made: Tensor | None = None
    while made is None or made.shape[2] < num_new_frames:
        whole = videos if made is None else _join(videos, made, direction)
        step = _extend_once(generator, whole, prompts, direction, context_frames, 2 * time, sampling)
        made = step if made is None else _join(made, step, direction)
        sampling = replace(sampling, seed=sampling.seed + len(prompts))
    new = made[:, :, :num_new_frames] if direction == "forward" else made[:, :, -num_new_frames:]
    return _join(videos, new, direction)


def _join(videos: Tensor, new: Tensor, direction: str) -> Tensor:
    return torch.cat([videos.cpu(), new] if direction == "forward" else [new, videos.cpu()], dim=2)


def _extend_once(
    generator: VideoGenerator,
    videos: Tensor,
    prompts: Sequence[str],
    direction: str,
    context_frames: int,
    num_new_frames: int,
    sampling: Sampling,
) -> Tensor:
    """`num_new_frames` (a multiple of the autoencoder's) frames next to the end or the beginning of `videos`."""
    time = _time(generator)
    if direction == "forward":
        frames = _whole(generator, min(context_frames, videos.shape[2]))
        context = generator.encode(videos[:, :, -frames:].to(generator.device))
        more = num_new_frames // time
        latents = torch.cat([context, context[:, :, -1:].expand(-1, -1, more, -1, -1)], dim=2)
        known = torch.arange(latents.shape[2]) < context.shape[2]
        video = generator.decode(sample_unknown_frames(generator, prompts, latents, known, sampling))
        return video[:, :, -num_new_frames:].cpu()
    # The encoder looks back in time, so what comes before is held still where nothing is known yet.
    seen = min(context_frames, videos.shape[2])
    seen = max(seen // time * time, min(time, videos.shape[2]))
    before = videos[:, :, :1].expand(-1, -1, num_new_frames + 1, -1, -1)
    padded = torch.cat([before, videos[:, :, :seen]], dim=2)[:, :, : num_new_frames + 1 + seen // time * time]
    latents = generator.encode(padded.to(generator.device))
    known = torch.arange(latents.shape[2]) > num_new_frames // time
    video = generator.decode(sample_unknown_frames(generator, prompts, latents, known, sampling))
    return video[:, :, 1 : num_new_frames + 1].cpu()


def connect(
    generator: VideoGenerator,
    first: Tensor,
    second: Tensor,
    prompts: Sequence[str],
    num_new_frames: int,
    context_frames: int = 5,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """`first`, then new frames that lead over, then `second`; both stay as they are.

    Args:
        first, second: `[batch, 3, frames, height, width]` of one size, in [-1, 1].
        prompts: one a pair.
        num_new_frames: frames between them, a multiple of the autoencoder's compression in time.
        context_frames: how many frames the model sees of either.
        sampling: steps, guidance, seed.

    Raises:
        InputError: the sizes differ, or the number of frames is not such a multiple.
    """
    prompts = as_list(prompts)
    time = _time(generator)
    if first.shape[3:] != second.shape[3:]:
        raise InputError(
            f"The videos to connect are {first.shape[4]}x{first.shape[3]} and {second.shape[4]}x{second.shape[3]} "
            "pixels: give two of one size."
        )
    if num_new_frames < time or num_new_frames % time:
        raise InputError(
            f"{num_new_frames} frames were asked for between the videos, but this model makes multiples of {time}."
        )
    frames = _whole(generator, min(context_frames, first.shape[2]))
    start = first[:, :, -frames:]
    seen = max(min(context_frames, second.shape[2]) // time * time, time)
    end = second[:, :, :seen]
    if end.shape[2] < seen:
        end = torch.cat([end, end[:, :, -1:].expand(-1, -1, seen - end.shape[2], -1, -1)], dim=2)
    half = num_new_frames // 2
    held = [
        start[:, :, -1:].expand(-1, -1, num_new_frames - half, -1, -1),
        end[:, :, :1].expand(-1, -1, half, -1, -1),
    ]
    latents = generator.encode(torch.cat([start, *held, end], dim=2).to(generator.device))
    place = torch.arange(latents.shape[2])
    begin = (frames - 1) // time + 1
    known = (place < begin) | (place >= begin + num_new_frames // time)
    video = generator.decode(sample_unknown_frames(generator, prompts, latents, known, sampling)).cpu()
    return torch.cat([first.cpu(), video[:, :, frames : frames + num_new_frames], second.cpu()], dim=2)


def interpolate(
    generator: VideoGenerator,
    videos: Tensor,
    prompts: Sequence[str],
    fps: float,
    factor: int = 2,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """Videos `[batch, 3, factor * (frames - 1) + 1, height, width]` with new frames between the given ones.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        prompts: one a video.
        fps: frames a second of `videos`.
        factor: a power of two; each doubling is one pass over windows of `KEY_FRAME_WINDOW` frames.
        sampling: steps, guidance, seed.

    Raises:
        InputError: the factor is not a power of two, or there is only one frame.
    """
    prompts = as_list(prompts)
    if factor < 2 or factor & (factor - 1):
        raise InputError(f"The factor is {factor}, but must be 2, 4, 8 or another power of two.")
    if videos.shape[2] < 2:
        raise InputError("A video of one frame has nothing between its frames: give at least two.")
    known = KEY_FRAME_WINDOW // 2 + 1
    pieces: list[Tensor] = []
    for start in range(0, videos.shape[2] - 1, known - 1):
        window = videos[:, :, start : start + known]
        doubled = window.repeat_interleave(2, dim=2)[:, :, :-1].clone()
        given = torch.arange(doubled.shape[2]) % 2 == 0
        latents = encode_images(generator, doubled)
        sampled = sample_unknown_frames(generator, prompts, latents, given, sampling, 1 / (2 * fps), True)
        new = decode_images(generator, sampled[:, :, 1::2])
        doubled[:, :, 1::2] = new
        pieces.append(doubled if not pieces else doubled[:, :, 1:])
    joined = torch.cat(pieces, dim=2)
    return joined if factor == 2 else interpolate(generator, joined, prompts, 2 * fps, factor // 2, sampling)


def encode_images(generator: VideoGenerator, videos: Tensor) -> Tensor:
    """Latents `[batch, channels, frames, height, width]` of each frame of `videos` as an image of its own."""
    batch, _, frames = videos.shape[:3]
    images = videos.to(generator.device).transpose(1, 2).flatten(0, 1)[:, :, None]
    latents = generator.encode(images)[:, :, 0]
    return latents.unflatten(0, (batch, frames)).transpose(1, 2)


def decode_images(generator: VideoGenerator, latents: Tensor) -> Tensor:
    """The inverse of `encode_images`, on the CPU."""
    batch, _, frames = latents.shape[:3]
    images = generator.decode(latents.transpose(1, 2).flatten(0, 1)[:, :, None])[:, :, 0].cpu()
    return images.unflatten(0, (batch, frames)).transpose(1, 2)


def generate_long(
    generator: VideoGenerator,
    prompts: Sequence[str],
    seconds: float,
    height: int | None = None,
    width: int | None = None,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """Videos of any length: key frames, interpolation I, interpolation II, decoding.

    Key frames are `1 / KEY_FRAME_FPS` seconds apart and come in windows of `KEY_FRAME_WINDOW`; each window is given
    the last `KEY_FRAMES_KEPT` of the one before. Two passes of `interpolate` then multiply the rate by four.

    Args:
        prompts: one a video.
        seconds: length of the videos.
        height, width: pixels; the model's own by default.
        sampling: steps, guidance, seed.

    Returns:
        Videos `[batch, 3, 4 * k + 1, height, width]` at `4 * KEY_FRAME_FPS` frames a second, at least `seconds` long.
    """
    prompts = as_list(prompts)
    if seconds <= 0:
        raise InputError(f"{seconds:g} seconds were asked for: ask for more than 0.")
    height, width = height or generator.defaults.height, width or generator.defaults.width
    generator.check_size(1, height, width)
    channels, _, rows, columns = generator.latent_shape(1, height, width)
    needed = max(int(seconds * KEY_FRAME_FPS + 0.999) + 1, 2)
    latents = torch.zeros(len(prompts), channels, KEY_FRAME_WINDOW, rows, columns)
    known = torch.zeros(KEY_FRAME_WINDOW, dtype=torch.bool)
    frames: Tensor | None = None
    while frames is None or frames.shape[2] < needed:
        window = sample_unknown_frames(
            generator, prompts, latents, known, sampling, 1 / KEY_FRAME_FPS, key_frames=True
        )
        new = window if frames is None else window[:, :, KEY_FRAMES_KEPT:]
        frames = new if frames is None else torch.cat([frames, new], dim=2)
        known = torch.arange(KEY_FRAME_WINDOW) < KEY_FRAMES_KEPT
        latents = torch.zeros_like(window)
        latents[:, :, :KEY_FRAMES_KEPT] = frames[:, :, -KEY_FRAMES_KEPT:]
        sampling = replace(sampling, seed=sampling.seed + len(prompts))
    videos = decode_images(generator, frames[:, :, :needed])
    return interpolate(generator, videos, prompts, KEY_FRAME_FPS, 4, sampling)
