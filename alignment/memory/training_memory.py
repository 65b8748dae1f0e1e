"""Forecast of the memory that training on a video takes where there is no GPU, whose system ends what takes too much.

On a GPU an allocation that does not fit is an error that can be explained; on a CPU the process is killed without a
word. `alignment.memory.forecast` says more, of models on GPUs, before anything is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from generator.base import VideoGenerator
from generator.data.latent_cache import Size
from generator.hardware.compute import count_tokens, width_of
from generator.hardware.memory_tracker import StorageTracker
from generator.output import InputError

if TYPE_CHECKING:
    from transformers import TrainingArguments

ACTIVATION_VALUES = 17
"""Values that a transformer block keeps for the backward pass, for each token and channel: 34 bytes at 16 bits, without
the attention's scores, which fused kernels do not keep (Korthikanti et al., arXiv 2205.05198, section 4.1)."""


def activation_bytes(tokens: int, channels: int, blocks: int, bytes_a_value: int, checkpointed: bool) -> int:
    """Memory of the activations that the backward pass of a transformer needs.

    Args:
        tokens: of all videos in the batch.
        channels: width of the blocks.
        checkpointed: whether only the input of each block is kept, and one block is computed again at a time.
    """
    of_a_block = ACTIVATION_VALUES * tokens * channels * bytes_a_value
    if checkpointed:
        return blocks * tokens * channels * bytes_a_value + of_a_block
    return blocks * of_a_block


def update_bytes(generator: VideoGenerator, size: Size, videos: int, args: TrainingArguments) -> int:
    """Memory of one forward and backward pass on `videos` videos of a size, in each of the processes that share it."""
    tokens = videos * count_tokens(generator, generator.latent_shape(*size))
    tokens //= getattr(args, "context_parallel", 1)
    bytes_a_value = 2 if args.bf16 or args.fp16 or generator.dtype != torch.float32 else 4
    return activation_bytes(
        tokens, width_of(generator), len(generator.blocks()), bytes_a_value, bool(args.gradient_checkpointing)
    )


def encoding_bytes_a_pixel(generator: VideoGenerator) -> float:
    """Memory that the autoencoder takes for each pixel of each frame, measured on the smallest video."""
    side, time = generator.size_multiples()
    videos = torch.zeros(1, 3, time + 1, 2 * side, 2 * side, device=generator.device)
    with StorageTracker() as tracker, torch.no_grad():
        generator.encode(videos)
    return 3 * videos.element_size() + tracker.peak / (videos.numel() / 3)


def free_bytes() -> int:
    """Memory that this process can still take, within the limit of its container; all there is where only that is
    known."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def memory_check(
    generator: VideoGenerator, args: TrainingArguments, videos: int, tiling: bool = False
) -> Callable[[Path, Size, bool], None] | None:
    """Refuses videos that are too large to be encoded and trained on; None on a GPU.

    Args:
        videos: in one forward and backward pass.
        tiling: whether the autoencoder works tile by tile.

    Returns:
        A function of a file, the size at which it is trained on, and whether it is encoded already, which raises
        `InputError`.
    """
    if generator.device.type != "cpu":
        return None
    free, own = free_bytes(), generator.defaults
    a_pixel = cache(lambda: 3 * 4.0 if tiling else encoding_bytes_a_pixel(generator))
    checked: set[tuple[Size, bool]] = set()

    def check(path: Path, size: Size, is_encoded: bool) -> None:
        if (size, is_encoded) in checked:
            return
        encoding = 0.0 if is_encoded else math.prod(size) * a_pixel()
        needed = max(encoding, update_bytes(generator, size, videos, args))
        if needed > free:
            tokens = count_tokens(generator, generator.latent_shape(*size))
            raise InputError(
                f"Training on {path} at {size[0]} frames of {size[1]}x{size[2]} ({tokens} tokens, {videos} such "
                f"videos at a time) takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: "
                f"pass smaller --num_frames, --height and --width (the model's own are {own.num_frames}, "
                f"{own.height} and {own.width}), leave --native_size out, or lower --per_device_train_batch_size."
            )
        checked.add((size, is_encoded))

    return check
