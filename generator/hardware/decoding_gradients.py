"""Gradients through an autoencoder's decoder: block by block, and past the clamp of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

_CLAMPS = (torch.clamp, Tensor.clamp, torch.clip, Tensor.clip)


class StraightThroughClamps(TorchFunctionMode):
    """Inside, `clamp` has its values and the gradient of doing nothing: a pixel at a bound is still moved."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _CLAMPS and isinstance(args[0], Tensor) and args[0].requires_grad:
            return args[0] + (result - args[0]).detach()
        return result


@contextmanager
def differentiable_decoding(vae: Any) -> Iterator[None]:
    """Inside, `vae.decode` passes gradients to latents; the blocks' activations are computed again in the backward
    pass. The weights are frozen."""
    vae.requires_grad_(False)
    with ExitStack() as stack:
        stack.enter_context(StraightThroughClamps())
        if getattr(vae, "_supports_gradient_checkpointing", False):
            # It stays, as the backward pass comes later and has to run the very same code; it acts with gradients only.
            vae.enable_gradient_checkpointing()
        else:
            for block in vae.modules():
                if type(block).__name__ == "WanResidualBlock":
                    stack.enter_context(_checkpointed(block))
        yield


CACHED = 2
"""Causal convolutions of one residual block of Wan's autoencoder, each with its last frames in a list of caches."""


@contextmanager
def _checkpointed(block: nn.Module) -> Iterator[None]:
    """Computes a residual block of Wan's autoencoder again in the backward pass.

    It reads and replaces entries of a list that goes on to the next frames; a second run must find the entries of the
    first, so they become arguments and results.
    """
    forward: Callable[..., Tensor] = block.forward

    def pure(x: Tensor, *caches: Tensor | None) -> tuple[Tensor | None, ...]:
        own = list(caches)
        return forward(x, own, [0]), *own

    def with_list(
        x: Tensor, feat_cache: list[Any] | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        if feat_cache is None or feat_idx is None:
            return checkpoint(forward, x, use_reentrant=False)
        first = feat_idx[0]
        found = checkpoint(pure, x, *feat_cache[first : first + CACHED], use_reentrant=False)
        feat_cache[first : first + CACHED] = found[1:]
        feat_idx[0] += CACHED
        return found[0]

    block.forward = with_list
    try:
        yield
    finally:
        del block.forward
