"""Latents with the rows of their prompts, batched by shape."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from alignment.data.example_images import ExampleImages
from alignment.data.example_weights import Filler, as_fillers
from generator.base import VideoGenerator
from generator.data.latent_cache import encode_prompts_cached
from generator.inputs.conditions import Conditions, concatenate
from generator.one_or_several import as_list
from generator.output import InputError


@dataclass
class PromptTable:
    """Conditions of all prompts of a data set; row 0 is the unconditional prompt."""

    conditions: Conditions
    rows: Tensor

    @classmethod
    def encode(cls, generator: VideoGenerator, prompts: Sequence[str]) -> PromptTable:
        """Encodes each distinct prompt once (large text encoders: once ever); `rows[i]` is the row of
        `prompts[i]`."""
        prompts = as_list(prompts)
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        conditions = encode_prompts_cached(generator, list(row_of))
        rows = torch.tensor([row_of[prompt] for prompt in prompts], dtype=torch.long)
        return cls({name: value.cpu() for name, value in conditions.items()}, rows)


class LatentDataset(Dataset):
    """Rows of latents (one each for SFT; those of a ranking for DPO) with the row of their prompt.

    An item is `{"latents": [sides, C, F, H, W], "row": int, "key": int, "weight": float}`, and `"ranks": [sides]`
    where ranks are given, and `"images"`, conditions of one row a side, where images are; all sides of an item have one
    shape. The weight is 0 for a `Filler`, else 1.
    """

    def __init__(
        self,
        latents: Sequence[Sequence[Tensor]],
        rows: Tensor,
        ranks: Sequence[Sequence[int]] | None = None,
        images: ExampleImages | None = None,
    ) -> None:
        self.latents = latents
        self.images = images
        self.rows = rows.tolist()
        self.ranks = ranks
        for sides in latents:
            shapes = [tuple(side.shape) for side in sides]
            if len(set(shapes)) > 1:
                raise InputError(
                    f"The videos of one row have latents of different shapes {shapes}: give --num_frames, "
                    "--height and --width, so that they become equal."
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {
            "latents": torch.stack(list(self.latents[index])),
            "row": self.rows[index],
            "key": int(index),
            "weight": float(not isinstance(index, Filler)),
        }
        if self.ranks is not None:
            item["ranks"] = torch.tensor(self.ranks[index])
        if self.images is not None:
            item["images"] = self.images.of(index, item["latents"].shape[1:])
        return item

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(sides[0].shape) for sides in self.latents]

    @property
    def buckets(self) -> list[tuple[int, ...]]:
        """Number of sides and their shape; items of one bucket can stand in one batch."""
        return [(len(sides), *shape) for sides, shape in zip(self.latents, self.shapes)]

    @property
    def identities(self) -> list[tuple[int, ...]]:
        """Equal for items that are repetitions of one example."""
        return [(row, *map(id, sides)) for row, sides in zip(self.rows, self.latents)]


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`latents [batch, sides, C, F, H, W]`, `rows [batch]`, `keys [batch, 2]`: index of the row and its
    occurrence; `weights [batch]`; and where the items have them `ranks [batch, sides]` and `images`, conditions
    `[batch · sides, …]`."""
    seen: dict[int, int] = {}
    keys = []
    for item in items:
        keys.append((item["key"], seen.get(item["key"], 0)))
        seen[item["key"]] = seen.get(item["key"], 0) + 1
    batch: dict[str, Any] = {
        "latents": torch.stack([item["latents"] for item in items]),
        "rows": torch.tensor([item["row"] for item in items]),
        "keys": torch.tensor(keys),
        "weights": torch.tensor([item["weight"] for item in items]),
    }
    if "ranks" in items[0]:
        batch["ranks"] = torch.stack([item["ranks"] for item in items])
    if "images" in items[0]:
        batch["images"] = concatenate([item["images"] for item in items])
    return batch


def collate_counted(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`collate` of the items that are no fillers, so that none is computed; of one where all are."""
    return collate([item for item in items if item["weight"] > 0] or items[:1])


class BucketBatchSampler(Sampler[list[int]]):
    """Batches whose latents have one shape, in an order that depends only on seed and epoch.

    A shape comes up as often as its examples fill a round of batches, one for each process, so that no process waits
    for another one's larger videos. Its last round is shared out evenly. Every batch is full: what it lacks is filled
    up with `Filler`s, which do not count and which `collate_counted` leaves out.

    Args:
        shapes: of the examples.
        batch_size: examples of a batch.
        seed: of the order.
        processes: get one batch each of a round.
        identities: equal for repetitions of one example, which come as far from each other as the order allows.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        batch_size: int,
        seed: int,
        processes: int = 1,
        identities: Sequence[Any] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.processes = processes
        self.seed = seed
        self.epoch = 0
        self.drop_last = False
        self.buckets: dict[tuple[int, ...], list[int]] = {}
        self.repetitions: list[int] = []
        seen: dict[Any, int] = {}
        for index, shape in enumerate(shapes):
            self.buckets.setdefault(shape, []).append(index)
            identity = index if identities is None else identities[index]
            self.repetitions.append(seen.get(identity, 0))
            seen[identity] = self.repetitions[-1] + 1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        a_round = self.batch_size * self.processes
        return sum(math.ceil(len(bucket) / a_round) for bucket in self.buckets.values()) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        order = random.Random(f"{self.seed} {self.epoch}")
        a_round, rounds = self.batch_size * self.processes, []
        for bucket in self.buckets.values():
            indices = self._ordered(bucket, order)
            rounds += [self._batches(indices[i : i + a_round]) for i in range(0, len(indices), a_round)]
        if len(self.buckets) > 1:
            order.shuffle(rounds)
        for batches in rounds:
            yield from batches

    def _ordered(self, bucket: Sequence[int], order: random.Random) -> list[int]:
        """Examples in random order: each once, then each that is repeated, and so on."""
        found: list[int] = []
        for repetition in sorted({self.repetitions[index] for index in bucket}):
            indices = [index for index in bucket if self.repetitions[index] == repetition]
            order.shuffle(indices)
            found += indices
        return found

    def _batches(self, indices: Sequence[int]) -> list[list[int]]:
        """The examples of a round, spread evenly over one full batch for each process."""
        share, more = divmod(len(indices), self.processes)
        batches, start = [], 0
        for process in range(self.processes):
            own = list(indices[start : start + share + (process < more)])
            start += len(own)
            repeated = own or list(indices)
            missing = range(self.batch_size - len(own))
            batches.append(own + as_fillers([repeated[i % len(repeated)] for i in missing]))
        return batches


def split_prompts(prompts: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices `(train, held_out)` of examples, such that no prompt is on both sides.

    Args:
        fraction: share of the distinct prompts that is held out; at least one is, if it is above 0.

    Raises:
        InputError: `fraction` is not in [0, 1), or leaves nothing to train on.
    """
    prompts = as_list(prompts)
    distinct = sorted(set(prompts))
    count = max(1, round(fraction * len(distinct))) if fraction > 0 else 0
    if not 0 <= fraction < 1 or count >= len(distinct):
        raise InputError(
            f"eval_fraction is {fraction} for {len(distinct)} distinct prompts, which leaves none to train on: lower "
            "it or add prompts."
        )
    random.Random(seed).shuffle(distinct)
    held_out = set(distinct[:count])
    indices = range(len(prompts))
    return [i for i in indices if prompts[i] not in held_out], [i for i in indices if prompts[i] in held_out]
