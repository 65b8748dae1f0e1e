"""Features of a video generator's first transformer blocks, for any family, and fingerprints of its
weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from generator.base import Conditions, VideoGenerator
from generator.output import InputError

_BLOCK_LISTS = ("transformer_blocks", "blocks", "layers")
_SAMPLED_VALUES = 4096


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
    return features.float() * is_real[..., None], is_video.expand(is_real.shape) & is_real


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
    for name in _BLOCK_LISTS:
        blocks = getattr(generator.transformer, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 0:
            return len(blocks)
    return None


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Named weights without adapters, under the names that they have before PEFT wraps their layers."""
    for name, value in sorted(module.state_dict().items()):
        if "lora_" in name:
            continue
        yield name.replace(".base_layer", "").replace("base_model.model.", ""), value


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (16 hex digits) over names, shapes and evenly spread values of the weights; adapters do not
    count.

    At most 4096 values of each weight enter, rounded to bfloat16, so a model of billions of parameters takes seconds.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_weights(module), key=lambda item: item[0]):
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(f"{name}{tuple(value.shape)}".encode())
        # Rounded, so that a model that was trained in bfloat16 on a GPU is known again in float32 on a CPU.
        rounded = sample.to(device="cpu", dtype=torch.bfloat16).float()
        digest.update(rounded.numpy().tobytes())
    return digest.hexdigest()[:16]


def latent_space_fingerprint(generator: VideoGenerator) -> str:
    """Fingerprint of everything that makes latents and conditions: all modules of the pipeline but the
    transformer."""
    digest = hashlib.sha256()
    components = getattr(generator.pipeline, "components", {})
    for name, component in sorted(components.items()):
        if (
            isinstance(component, nn.Module)
            and component is not generator.transformer
            and name != "transformer"
        ):
            digest.update(f"{name}{fingerprint(component)}".encode())
    return digest.hexdigest()[:16]
