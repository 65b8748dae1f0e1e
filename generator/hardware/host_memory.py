"""Page-locked memory of the host for many tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIECE = 2**30
ALIGNMENT = 512
"""Bytes; what a GPU's own allocator aligns to."""


def _page_locked(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class HostMemory:
    """Page-locked memory that tensors share, so that little is lost to rounding.

    PyTorch rounds each page-locked allocation up to a power of two (`torch.cuda.host_memory_stats`): the weights of
    Wan 14B, 28 GB, would take 43 GB one by one. Pieces of 1 GiB, which tensors are laid into, take 29 GB.

    Args:
        total: bytes of all tensors that will be laid into it.
        allocate: makes a piece of so many bytes.
    """

    def __init__(self, total: int, allocate: Callable[[int], Tensor] = _page_locked) -> None:
        self.left = total
        self.pieces: list[Tensor] = []
        self._used: list[int] = []
        self._allocate = allocate

    def place(self, tensor: Tensor) -> Tensor:
        """Returns a copy of a tensor in the first piece with room for it."""
        size = _aligned(tensor.nbytes)
        for index, piece in enumerate(self.pieces):
            if self._used[index] + size <= piece.nbytes:
                break
        else:
            index = len(self.pieces)
            self.pieces.append(self._allocate(_piece_size(size, self.left)))
            self._used.append(0)
        start = self._used[index]
        self._used[index] += size
        self.left = max(0, self.left - size)
        part = self.pieces[index][start : start + tensor.nbytes]
        return part.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _piece_size(size: int, left: int) -> int:
    """A power of two that has room for `size` bytes and, at most 1 GiB, is filled by the `left` ones."""
    most = min(PIECE, 1 << max(0, left.bit_length() - 1))
    return max(1 << (size - 1).bit_length(), most)
