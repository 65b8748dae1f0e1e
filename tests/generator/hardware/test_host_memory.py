"""Many tensors share page-locked memory, of which little is lost to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from generator.hardware.host_memory import ALIGNMENT, PIECE, HostMemory

WAN_14B = [[5120 * 5120] * 8 + [5120 * 13824] * 2] * 40
"""Numbers of weights of the linear layers of each block."""


def on_cpu(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def without_values(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="meta")


@pytest.mark.parametrize("seed", range(5))
def test_tensors_keep_their_values_beside_each_other(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtypes = (torch.bfloat16, torch.float32, torch.int8)
    tensors = [
        (100 * torch.randn(n, 3, generator=generator)).to(dtypes[n % 3])
        for n in torch.randint(1, 900, (30,), generator=generator).tolist()
    ]
    memory = HostMemory(sum(t.nbytes for t in tensors), on_cpu)
    placed = [memory.place(t) for t in tensors]
    assert all(torch.equal(a, b) for a, b in zip(placed, tensors, strict=True))
    assert all(a.dtype == b.dtype and a.is_contiguous() for a, b in zip(placed, tensors, strict=True))
    starts = {(t.untyped_storage().data_ptr(), t.data_ptr() - t.untyped_storage().data_ptr()) for t in placed}
    assert len(starts) == len(tensors)
    assert all(offset % ALIGNMENT == 0 for _, offset in starts)
    for tensor in placed:  # nobody else's values change with one's own
        others = [t.clone() for t in placed if t is not tensor]
        tensor.zero_()
        assert all(torch.equal(a, b) for a, b in zip((t for t in placed if t is not tensor), others))


def test_the_weights_of_wan_14b_take_little_more_than_their_size() -> None:
    sizes = [2 * count for block in WAN_14B for count in block]
    memory = HostMemory(sum(sizes), without_values)
    for size in sizes:
        memory.place(torch.empty(size // 2, dtype=torch.bfloat16, device="meta"))
    taken = [piece.nbytes for piece in memory.pieces]
    assert all(size & (size - 1) == 0 and size <= PIECE for size in taken)  # PyTorch adds nothing to them
    assert sum(sizes) / 1e9 == pytest.approx(28.1, abs=0.05)
    assert sum(taken) / 1e9 == pytest.approx(29.0, abs=0.1)
    assert sum(1 << (size - 1).bit_length() for size in sizes) / 1e9 == pytest.approx(
        42.9, abs=0.1
    )  # one by one


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_a_small_model_takes_no_whole_piece(count: int) -> None:
    size = 3000
    memory = HostMemory(count * size, on_cpu)
    for _ in range(count):
        memory.place(torch.zeros(size, dtype=torch.uint8))
    taken = sum(piece.nbytes for piece in memory.pieces)
    assert count * size <= taken <= 1.4 * count * size


def test_a_tensor_larger_than_a_piece_has_one_of_its_own() -> None:
    memory = HostMemory(3 * PIECE, without_values)
    placed = memory.place(torch.empty(PIECE + 1, dtype=torch.uint8, device="meta"))
    assert placed.shape == (PIECE + 1,)
    assert [piece.nbytes for piece in memory.pieces] == [2 * PIECE]
