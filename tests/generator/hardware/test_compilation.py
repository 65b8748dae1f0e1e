"""Regional compilation."""

import torch
from torch._dynamo.testing import CompileCounter

from generator.hardware.compilation import compile_each


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_blocks_share_their_code_and_every_shape_is_compiled():
    torch._dynamo.reset()
    counter = CompileCounter()
    blocks = [Twice() for _ in range(3)]
    compile_each(blocks, backend=counter)
    for size in range(2, 14):  # more than PyTorch compiles by default
        for block in blocks:
            assert torch.equal(block(torch.ones(size)), torch.full((size,), 2.0))
    assert counter.frame_count == 12
