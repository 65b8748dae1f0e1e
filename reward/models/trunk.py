"""Features of a video generator's first transformer blocks, for any family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generator.adapters.loaded_from import weights_fingerprint
from generator.base import VideoGenerator
from generator.editing.first_frames import with_first_frame
from generator.inputs.conditions import Conditions, split_images
from generator.output import InputError
from generator.provenance import fingerprint, latent_space_fingerprint
from generator.video_model import BLOCK_LISTS
from reward.models.latent_config import LatentRewardConfig


def trunk_features(
    generator: VideoGenerator, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
) -> tuple[Tensor, Tensor]:
    """Hidden states after the first `num_blocks` blocks of the generator's transformer, and which are the
    video's.

    A token is the video's if it depends on the latents before the first block, where no token has seen
    another.

    Args:
        latents: `[batch, channels, frames, height, width]`.
        sigma: `[batch]` noise level of each latent.
        num_blocks: how many blocks, from 1 on.

    Returns:
        Features `[batch, tokens, dim]` in float32, zero where a token is padding, and a mask `[batch,
        tokens]` of the video tokens.
    """
    features, is_real = generator.features(latents, sigma, conditions, num_blocks)
    with torch.no_grad():
        embedded, _ = generator.features(latents, sigma, conditions, 0)
        others, _ = generator.features(-1 - latents, sigma, conditions, 0)
        is_video = (embedded != others).any(dim=2).any(dim=0)
    if (
        embedded.shape[1] != features.shape[1]
    ):  # the blocks of a U-Net have fewer places, and no token of text
        is_video = is_real.new_ones(features.shape[1])
    return features.float() * is_real[..., None], is_video.expand(is_real.shape) & is_real


def split_conditions(
    generator: VideoGenerator, latents: Tensor, conditions: Conditions
) -> tuple[Conditions, Conditions]:
    """Conditions of the prompts, and of the images that a generator needs which animates images; none for others.

    Where `conditions` hold none of an image, it is the first frame of `latents` `[batch, channels, frames, height,
    width]`.
    """
    text, shown = split_images(conditions)
    if generator.image is None:
        return text, {}
    return text, shown or with_first_frame(generator, {}, latents.detach())


def text_tokens(conditions: Conditions) -> Tensor:
    """The prompts' token embeddings `[batch, words, dim]` in float32, zero where a word is padding.

    They are the three-dimensional tensor of the conditions (the widest, where a family has several text
    encoders); a mask of its length names the padding, where there is one.

    Raises:
        InputError: the conditions have no such tensor.
    """
    embeddings = [value for value in conditions.values() if value.ndim == 3 and value.is_floating_point()]
    if not embeddings:
        raise InputError(
            "This family keeps no token embeddings of the prompt: use --architecture pooled for its reward model."
        )
    text = max(embeddings, key=lambda value: value.shape[2]).float()
    for value in conditions.values():
        if value.shape == text.shape[:2]:
            text = text * (value != 0)[..., None]
            break
    return text


def num_transformer_blocks(generator: VideoGenerator) -> int | None:
    """Number of blocks of the transformer, or None where its blocks do not stand in one list."""
    for name in BLOCK_LISTS:
        blocks = getattr(generator.transformer, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 0:
            return len(blocks)
    return len(generator.blocks()) if hasattr(generator.transformer, "mid_block") else None


def match_fingerprints(config: LatentRewardConfig, generator: VideoGenerator) -> None:
    """Fills in the fingerprints of the trunk that are empty.

    Raises:
        InputError: another one is stored.
    """
    space, trunk = latent_space_fingerprint(generator), weights_fingerprint(generator)
    if config.trunk == fingerprint(generator.transformer):
        config.trunk = trunk  # as it was taken before, of weights with merged adapters
    for name, stored, found in (
        ("autoencoder or text encoder", config.latent_space, space),
        ("transformer", config.trunk, trunk),
    ):
        if stored and stored != found:
            raise InputError(
                f"The {name} of {config.base_model!r} is not the one that this reward model was trained on "
                f"(fingerprint {found}, expected {stored}): train the reward model again on this generator."
            )
    config.latent_space, config.trunk = space, trunk
