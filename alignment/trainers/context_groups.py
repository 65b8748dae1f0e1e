"""Training by groups of processes that share out the tokens of every video (`--context_parallel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import DataLoader

from generator.base import VideoGenerator
from generator.editing.image_cache import size_of_latents
from generator.hardware.context_parallel import ContextGroup, check_accelerator, check_tokens, video_text
from generator.output import InputError
from generator.training.checks import check_context_groups

if TYPE_CHECKING:
    from alignment.trainers.base_config import AlignmentConfig


def group_of(generator: VideoGenerator, args: AlignmentConfig) -> ContextGroup | None:
    """The group of this process, which shares out the tokens of the generator from now on; None where each process has
    batches of its own.

    Raises:
        InputError: there are no whole groups, or no GPUs, or the attention kernel cannot share out tokens.
    """
    check_context_groups(args.context_parallel, args.world_size)
    check_accelerator(args.context_parallel)
    if args.context_parallel == 1:
        return None
    group = ContextGroup(args.context_parallel, generator.device)
    group.share_tokens(generator)
    return group


def check_engine(size: int, divided_by: str) -> None:
    """Raises `InputError` where an engine that divides the weights does not go with groups of `size` processes."""
    if size > 1 and divided_by == "DeepSpeed ZeRO-3":
        raise InputError(
            f"context_parallel is {size} with DeepSpeed ZeRO-3, which is not supported: use fsdp, which divides the "
            "weights too."
        )


def check_latents(generator: VideoGenerator, args: AlignmentConfig, shape: Sequence[int]) -> None:
    """Raises `InputError` where the tokens of latents `(channels, frames, height, width)` cannot be shared out."""
    if args.context_parallel == 1:
        return
    check_tokens(generator, args.context_parallel, shape, video_text(*size_of_latents(generator, shape)))


def prepare_batches(accelerator: Any, loader: DataLoader, args: AlignmentConfig) -> DataLoader:
    """`Accelerator.prepare` of batches, of which each group of processes gets its own."""
    if args.context_parallel == 1:
        return accelerator.prepare(loader)
    prepared: DataLoader = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=args.data_parallel_size,
        process_index=args.data_parallel_rank,
        put_on_device=accelerator.device_placement,
        rng_types=accelerator.rng_types.copy(),
        dispatch_batches=accelerator.dispatch_batches,
        even_batches=accelerator.even_batches,
        use_seedable_sampler=accelerator.use_seedable_sampler,
        non_blocking=accelerator.non_blocking,
    )
    accelerator._dataloaders.append(prepared)
    return prepared


def rows_of_groups(rows: Tensor, args: AlignmentConfig) -> Tensor:
    """Rows that were gathered from all processes, with those of each group once."""
    of_processes = rows.reshape(args.world_size, -1, *rows.shape[1:])
    return of_processes[:: args.context_parallel].flatten(0, 1)
