"""Videos that begin with an image: what a transformer sees of it, and which latents are then known.

Some families see the image beside the noise (`VideoModel.image`: Wan I2V, CogVideoX I2V) and generate every frame.
Others have a noise level for each frame (`VideoModel.frames`: Wan 2.2 TI2V, LTX-Video, the built-in model); their first
latent frame is the image itself, at level 0, and is no part of what is sampled or learnt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from generator.inputs.conditions import KNOWN_LATENTS, Conditions, concatenate
from generator.output import InputError
from generator.video import read_clip
from generator.video_files.control_files import ControlFiles
from generator.video_files.shape import video_shape
from generator.video_model import VideoModel

logger = logging.getLogger(__name__)

MOST_CUT = 0.1
"""Share of a side of an image that may be cut away without a word."""
LOOKED_AT = 64
"""Images whose shapes are looked at."""

ImageFiles = tuple[str | Path, str | Path | None]
"""Files of the first image of a video and of its last one, if that is given too; or `ControlFiles`."""


def check_takes_images(
    generator: VideoModel,
    files: Sequence[ImageFiles | None] | None,
    num_prompts: int,
    size: Sequence[int] | None = None,
) -> None:
    """Raises `InputError` where a model cannot begin, or end, videos with the images of prompts, or lacks one.

    Args:
        files: one a prompt; None where a prompt has no image, or where no prompt has one.
        num_prompts: how many there must be.
        size: height and width of the videos, for a warning of images of which much is cut away.
    """
    files = files or [None] * num_prompts
    if len(files) != num_prompts:
        raise InputError(f"{len(files)} images were given for {num_prompts} prompts: give one a prompt.")
    if any(isinstance(each, ControlFiles) for each in files) and not generator.takes_control:
        raise InputError(
            f"{generator.name} takes no control video, but prompts name one: use a VACE model, or leave it out."
        )
    given = [each for each in files if each is not None and not isinstance(each, ControlFiles)]
    if generator.image is not None and len(given) < len(files):
        raise InputError(
            f"{generator.name} animates images, and none was given: pass --image FILE to generate, name an `image` "
            "with every prompt in a .jsonl file, or use a text-to-video model."
        )
    if given and generator.image is None and generator.frames is None:
        raise InputError(
            f"{generator.name} makes videos from text alone, but prompts name an image: use an image-to-video model, "
            "such as Wan I2V, Wan 2.2 TI2V or LTX-Video, or leave the images out."
        )
    last = "never" if generator.image is None else generator.image.last_image
    if last == "never" and any(each[1] is not None for each in given):
        raise InputError(
            f"{generator.name} takes no last image, but prompts name a `last_image`: leave it out, or use Wan 2.2 I2V "
            "or Wan 2.1 FLF2V."
        )
    if last == "always" and any(each[1] is None for each in given):
        raise InputError(
            f"{generator.name} leads from a first to a last image, but prompts name no `last_image`: give one with "
            "every prompt."
        )
    if given and size is not None:
        _warn_of_cuts(list(dict.fromkeys(str(each[0]) for each in given)), *size)


def _warn_of_cuts(files: Sequence[str], height: int, width: int) -> None:
    """Says how many of the first images have another shape than the videos, and how much they lose."""
    lost = {}
    for file in files[:LOOKED_AT]:
        shape = video_shape(file)
        ratio = shape.width * height / (shape.height * width)
        lost[file] = 1 - min(ratio, 1 / ratio)
    cut = [file for file, share in lost.items() if share > MOST_CUT]
    if cut:
        logger.warning(
            f"{len(cut)} of {len(lost)} images have another shape than the videos ({height}x{width}) and lose up to "
            f"{100 * max(lost.values()):.0f} % of a side, such as {cut[0]}, as they are cut around the centre: set "
            "another --height and --width, or cut them yourself."
        )


def read_images(files: Sequence[str | Path], height: int, width: int) -> Tensor:
    """Images, or the first frames of videos, `[len(files), 3, height, width]` in [-1, 1], scaled to cover this size
    and cut around the centre."""
    return torch.cat([read_clip(file, 1, height, width).transpose(0, 1) for file in files])


@torch.no_grad()
def first_frame_conditions(
    generator: VideoModel, images: Tensor, num_frames: int, last_images: Tensor | None = None
) -> Conditions:
    """Conditions, for both branches of guidance, of videos that begin with images.

    Args:
        images: `[batch, 3, height, width]` in [-1, 1].
        num_frames: of the videos.
        last_images: with which they end, where the model takes these.
    """
    images = images.to(generator.device)
    # In their own precision inside a trainer's autocast too, so that training shows what generating does.
    with torch.autocast(generator.device.type, enabled=False):
        if generator.image is not None:
            return generator.image(images, num_frames, last_images)
        return {KNOWN_LATENTS: generator.encode(images[:, :, None])}


def conditions_of_files(
    generator: VideoModel, files: Sequence[ImageFiles], size: tuple[int, int, int]
) -> Conditions:
    """Conditions of videos that begin, and perhaps end, with the images of `files`, one row each.

    Each is encoded by itself, so that a row depends on its own files only.

    Args:
        size: frames, height and width of the videos.
    """
    parts = []
    for each in files:
        if isinstance(each, ControlFiles):
            parts.append(control_conditions(generator, each, size))
            continue
        first, last = each
        end = None if last is None else read_images([last], *size[1:])
        parts.append(first_frame_conditions(generator, read_images([first], *size[1:]), size[0], end))
    return concatenate(parts)


@torch.no_grad()
def control_conditions(generator: VideoModel, files: ControlFiles, size: tuple[int, int, int]) -> Conditions:
    """Conditions of a video that is steered by the control video of `files`, one row.

    Args:
        size: frames, height and width of the video.
    """
    video = read_clip(files.control_video, *size)[None].to(generator.device)
    mask = torch.ones_like(video[:, :1])
    if files.mask is not None:
        mask = (read_clip(files.mask, *size).mean(dim=0)[None, None] + 1).to(video) / 2
    with torch.autocast(generator.device.type, enabled=False):
        return generator.control(video, mask)


def known_frames(generator: VideoModel, files: Sequence[ImageFiles | None]) -> int:
    """Number of latent frames at the beginning that images make known."""
    images = [each for each in files if each is not None and not isinstance(each, ControlFiles)]
    return int(generator.image is None and bool(images))


def without_known_frames(latents: Tensor, conditions: Conditions) -> Tensor:
    """Latents `[batch, C, F, H, W]` without the frames that the images in `conditions` make known."""
    return latents[:, :, conditions[KNOWN_LATENTS].shape[2] :] if KNOWN_LATENTS in conditions else latents


def conditioned_velocity(
    generator: VideoModel,
    latents: Tensor,
    sigma: Tensor,
    conditions: Conditions,
    transformer: torch.nn.Module | None = None,
) -> Tensor:
    """`generator.velocity` of the latent frames that are not known.

    Args:
        latents: `[batch, C, F, H, W]`; without the known frames where `conditions` hold `KNOWN_LATENTS`.
        sigma: `[batch]`, of the frames that are not known; the others have noise level 0.
        conditions: of the prompts, and of images.
        transformer: called in place of `generator.transformer`.
    """
    if KNOWN_LATENTS not in conditions:
        return generator.velocity(latents, sigma, conditions, transformer)
    assert generator.frames is not None
    known = conditions[KNOWN_LATENTS].to(latents)
    others = {name: value for name, value in conditions.items() if name != KNOWN_LATENTS}
    whole = torch.cat([known, latents], dim=2)
    levels = sigma[:, None].repeat(1, whole.shape[2])
    levels[:, : known.shape[2]] = 0
    velocity = generator.frames(whole, levels, others, transformer=transformer)
    return velocity[:, :, known.shape[2] :]
