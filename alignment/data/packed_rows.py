"""Rows of a fixed token budget, filled with examples of any size: what trainers read with `pack`."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from alignment.data.example_weights import as_fillers, whole_rounds
from alignment.data.latent_dataset import LatentDataset, collate
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, select
from generator.inputs.packing import pack_rows, sample_kept_tokens
from generator.output import InputError
from generator.seeds import ExampleStream

SHORTEST_ROW = 1024
logger = logging.getLogger(__name__)


@dataclass
class PackConfig:
    """Packing of examples of different sizes into a batch."""

    pack: bool = field(
        default=False,
        metadata={
            "help": "Patch n' pack: a batch is per_device_train_batch_size rows of pack_tokens tokens, each "
            "filled with examples of any size. Off: a batch is that many examples of one size."
        },
    )
    pack_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a row with pack; unset: 1024, or twice the longest example if that is more."
        },
    )


class RowDataset(Dataset):
    """Rows of a `LatentDataset`: the item of a tuple of indices is the list of their items."""

    def __init__(self, dataset: LatentDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: tuple[int, ...]) -> list[dict[str, Any]]:
        return [self.dataset[index] for index in row]


class RowBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of `batch_size` rows, in an order that depends only on seed and epoch.

    Which examples share a row is settled once, by best fit from their shuffled order; epochs differ in the order of the
    rows. The last batch is filled up from the start, and processes get equally many; what fills up does not count.

    Args:
        lengths: tokens of each example.
        row_length: tokens of a row, at least the longest example.
        batch_size: rows of a batch.
        seed: of both orders.
        processes: get equally many batches.
    """

    def __init__(
        self, lengths: Sequence[int], row_length: int, batch_size: int, seed: int, processes: int = 1
    ) -> None:
        self.processes = processes
        self.row_length = row_length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.drop_last = False
        order = list(range(len(lengths)))
        random.Random(f"{seed} rows").shuffle(order)
        self.rows = [tuple(row) for row in pack_rows(((i, lengths[i]) for i in order), row_length)]
        self.fill = sum(lengths) / (len(self.rows) * row_length)

    def fixed_length(self, compiled: bool) -> int | None:
        """Tokens to which a batch is filled up: that of its rows where the network is compiled for one shape, else
        none, as what is not there costs nothing."""
        return self.batch_size * self.row_length if compiled else None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        count = -(-len(self.rows) // self.batch_size)
        return count + -count % self.processes

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rows = self.rows.copy()
        random.Random(f"{self.seed} {self.epoch}").shuffle(rows)
        rows += as_fillers([rows[i % len(rows)] for i in range(-len(rows) % self.batch_size)])
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        yield from whole_rounds(batches, self.processes)


def example_lengths(generator: VideoGenerator, dataset: LatentDataset, table: Conditions) -> list[int]:
    """Tokens of each example of `dataset`: all its videos, each with the prompt of the row of `table`."""
    packing = generator.packing
    assert packing is not None
    lengths = []
    for sides, row in zip(dataset.latents, dataset.rows, strict=True):
        conditions = select(table, [row] * len(sides))
        lengths.append(sum(packing.segment_lengths(list(sides), conditions)))
    return lengths


def row_length(lengths: Sequence[int], wanted: int | None) -> int:
    """Tokens of a row: `wanted`, or 1024, or twice the longest example.

    Raises:
        InputError: the longest example does not fit into `wanted`.
    """
    longest = max(lengths)
    if wanted is not None and wanted < longest:
        raise InputError(
            f"pack_tokens is {wanted}, but the longest example takes {longest} tokens: pass --pack_tokens {longest} or "
            "more, or make the videos smaller with --num_frames, --height and --width."
        )
    return wanted or max(SHORTEST_ROW, 2 * longest)


class _Arguments(Protocol):
    pack: bool
    pack_tokens: int | None
    seed: int

    @property
    def train_batch_size(self) -> int: ...

    @property
    def world_size(self) -> int: ...


def packed_rows(
    generator: VideoGenerator, args: _Arguments, dataset: LatentDataset, table: Conditions
) -> RowBatchSampler | None:
    """The rows of the training data, or None without `args.pack`.

    Raises:
        InputError: the family takes clips of one size at a time, or an example does not fit into a row.
    """
    if not args.pack:
        return None
    if generator.packing is None:
        raise InputError(
            f"pack is set, but {generator.name} takes clips of one size at a time: leave it out, which makes batches "
            "of examples of one size."
        )
    if dataset.images is not None:
        raise InputError(
            "pack is set, but packed rows show no images of examples: leave pack or the images out."
        )
    lengths = example_lengths(generator, dataset, table)
    rows = RowBatchSampler(
        lengths, row_length(lengths, args.pack_tokens), args.train_batch_size, args.seed, args.world_size
    )
    logger.info("%d examples fill %d rows to %.1f %%.", len(lengths), len(rows.rows), 100 * rows.fill)
    return rows


def collate_rows(rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The items of all rows: as `collate`, but `latents` is a list of `[sides, C, F, H, W]`, and `ranks` are
    filled up with −1 to the largest number of sides."""
    items = [item for row in rows for item in row]
    batch: dict[str, Any] = collate(
        [{**item, "latents": torch.zeros(()), "ranks": torch.zeros(())} for item in items]
    )
    del batch["ranks"]
    batch["latents"] = [item["latents"] for item in items]
    if "ranks" in items[0]:
        ranks = [item["ranks"] for item in items]
        batch["ranks"] = torch.nn.utils.rnn.pad_sequence(ranks, batch_first=True, padding_value=-1)
    return batch


def kept_tokens(
    generator: VideoGenerator, clips: Sequence[Tensor], share: float, seeds: Sequence[int]
) -> list[np.ndarray] | None:
    """Patches of each clip that are kept where a `share` is dropped, each clip by its own seed; None for all."""
    if share <= 0:
        return None
    packing = generator.packing
    assert packing is not None
    kept = []
    for clip, seed in zip(clips, seeds, strict=True):
        random = np.random.default_rng([seed, ExampleStream.KEPT_TOKENS])
        kept += sample_kept_tokens([packing.video_tokens(clip)], share, random)
    return kept
