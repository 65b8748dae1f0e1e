"""Regional `torch.compile`: repeated blocks share their code, and every shape that occurs is compiled as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

MOST_SHAPES = 64
"""Shapes and kinds of blocks that are compiled, at most; PyTorch gives up after 8 and runs all others uncompiled."""


def compile_each(blocks: Iterable[torch.nn.Module], **options: Any) -> None:
    """Compiles each block when it first runs.

    Args:
        blocks: of one class, which share the compiled code.
        options: for `torch.compile`, over `dynamic=False`.
    """
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)
    for block in blocks:
        block.compile(**{"dynamic": False, **options})
