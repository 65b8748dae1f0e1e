"""Features of a video generator's first transformer blocks, for any family, and fingerprints of its
weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from generator.base import Conditions, VideoGenerator
from generator.output import InputError

_BLOCK_LISTS = ("transformer_blocks", "blocks", "layers")
_SAMPLED_VALUES = 4096


class _BlockReached(Exception):
    """Ends a forward pass once the features are captured."""


def _blocks(transformer: nn.Module) -> nn.ModuleList:
    for name in _BLOCK_LISTS:
        blocks = getattr(transformer, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 0:
            return blocks
    raise InputError(
        f"{type(transformer).__name__} has no list of blocks called {' or '.join(_BLOCK_LISTS)}: "
        "give its VideoGenerator a method `features`."
    )


def trunk_features(
    generator: VideoGenerator, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
) -> tuple[Tensor, Tensor]:
    """Hidden states after the first `num_blocks` blocks of the generator's transformer.

    A generator with a method `features` answers itself. For any other diffusers transformer the forward pass
    is run until the hook on its block number `num_blocks` captures the output. A block that returns (video,
    text) streams gives both, joined; a block that returns one stream is taken to hold video tokens only.

    Args:
        latents: `[batch, channels, frames, height, width]`.
        sigma: `[batch]` noise level of each latent.
        num_blocks: how many blocks, from 1 on.

    Returns:
        Features `[batch, tokens, dim]`, where an all-zero token is padding, and a mask `[batch, tokens]` of
        the video tokens.
    """
    native = getattr(generator, "features", None)
    if native is not None:
        features, is_video = native(latents, sigma, conditions, num_blocks)
        return features.float(), is_video
    blocks = _blocks(generator.transformer)
    if not 1 <= num_blocks <= len(blocks):
        raise InputError(
            f"The trunk of the reward model asks for {num_blocks} blocks, but the transformer has "
            f"{len(blocks)}."
        )
    captured: list[Any] = []

    def capture(module: nn.Module, arguments: Any, output: Any) -> None:
        captured.append(output)
        raise _BlockReached

    handle = blocks[num_blocks - 1].register_forward_hook(capture)
    try:
        generator.velocity(latents, sigma, conditions)
    except _BlockReached:
        pass
    finally:
        handle.remove()
    if not captured:
        raise RuntimeError(f"Block {num_blocks} of {type(generator.transformer).__name__} was not run.")
    streams = (
        [captured[0]] if isinstance(captured[0], Tensor) else [s for s in captured[0] if s is not None][:2]
    )
    features = torch.cat(streams, dim=1).float()
    is_video = torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
    is_video[:, : streams[0].shape[1]] = True
    return features, is_video


def num_transformer_blocks(generator: VideoGenerator) -> int | None:
    """Number of blocks of the transformer, or None where its blocks do not stand in one list."""
    try:
        return len(_blocks(generator.transformer))
    except InputError:
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

    At most 4096 values of each weight enter, in float32, so a model of billions of parameters takes seconds.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_weights(module), key=lambda item: item[0]):
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.to(device="cpu", dtype=torch.float32).numpy().tobytes())
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
