"""Rows of tokens that hold clips of different size: their clips, and `PackedVelocity`, the capability of a family."""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from generator.inputs.conditions import Conditions

Item = TypeVar("Item")


class PackedVelocity(ABC):
    """Velocities of clips of any sizes in one row of tokens; each is that of the clip alone."""

    @abstractmethod
    def __call__(
        self,
        latents: Sequence[Tensor],
        sigma: Tensor,
        conditions: Conditions,
        transformer: torch.nn.Module | None = None,
        row_length: int | None = None,
        kept: Sequence[np.ndarray] | None = None,
    ) -> list[Tensor]:
        """Predicted velocities in float32, one a clip.

        Args:
            latents: `[channels, frames, height, width]` each, float32.
            sigma: `[clips]`, float32 noise levels in [0, 1].
            conditions: from `encode_prompts`, one row a clip.
            transformer: the module to call in place of the generator's.
            row_length: tokens of the row; just enough by default.
            kept: numbers of the patches of each clip that are not dropped; the velocity of a dropped one is 0.
        """

    @abstractmethod
    def segment_lengths(self, latents: Sequence[Tensor], conditions: Conditions) -> list[int]:
        """Tokens that each of `latents` `[channels, frames, height, width]` takes in a row, with its prompt."""

    @abstractmethod
    def video_tokens(self, latents: Tensor) -> int:
        """Number of patches of latents `[channels, frames, height, width]`."""

    @abstractmethod
    def kept_elements(self, latents: Tensor, kept: np.ndarray) -> Tensor:
        """Booleans like `latents` `[channels, frames, height, width]`: True in the patches with the numbers `kept`."""


def pack_rows(
    items: Iterable[tuple[Item, int]], row_length: int, pool_size: int = 64
) -> Iterator[list[Item]]:
    """Rows of items whose lengths sum to at most `row_length`, by best fit from a pool.

    A row starts with the item that has waited longest, so that none waits for more than `pool_size` rows; then it takes
    the longest item of the pool that still fits, until none does. Every item of a finite iterable comes out once.

    Args:
        items: `(item, length)`; may be endless.
        row_length: what a row holds.
        pool_size: how many items are looked at.

    Raises:
        ValueError: an item is longer than a row.
    """
    source = iter(items)
    pool: list[tuple[int, int, Item]] = []  # sorted by length; the number of arrival breaks ties
    arrivals = itertools.count()

    def fill() -> None:
        for item, length in itertools.islice(source, pool_size - len(pool)):
            if length > row_length:
                raise ValueError(f"An item of {length} tokens does not fit into a row of {row_length}.")
            bisect.insort(pool, (length, next(arrivals), item), key=lambda entry: entry[:2])

    fill()
    while pool:
        oldest = min(range(len(pool)), key=lambda place: pool[place][1])
        length, _, item = pool.pop(oldest)
        row, free = [item], row_length - length
        fill()
        while place := bisect.bisect_right(pool, free, key=lambda entry: entry[0]):
            length, _, item = pool.pop(place - 1)
            row.append(item)
            free -= length
            fill()
        yield row


def dropped_share(progress: float, share: float, until: float = 0.8) -> float:
    """Share of video tokens left out at `progress` in [0, 1]: falls linearly from `share` to 0 at `until`."""
    return share * max(0.0, 1.0 - progress / until)


def sample_kept_tokens(tokens: Sequence[int], share: float, random: np.random.Generator) -> list[np.ndarray]:
    """Numbers of the tokens of each clip that are kept: a random `1 - share` of them, at least one, in their order."""
    kept = []
    for count in tokens:
        number = max(1, round(count * (1 - share)))
        kept.append(np.sort(random.permutation(count)[:number]))
    return kept
