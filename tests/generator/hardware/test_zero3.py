"""Blocks that ZeRO-3 gathers whole; training with them is in tests/alignment/trainers/test_distributed.py."""

import pytest
import torch
from torch import nn

from generator.hardware.zero3 import gather_as_one

pytest.importorskip("deepspeed")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.seen = None

    def forward(self, x, scale=3.0):
        self.seen = (x.requires_grad, scale)
        return x * self.weight * scale


@pytest.fixture
def block():
    model = nn.Sequential(Block())
    gather_as_one(model, list(model))
    return model[0]


def test_a_block_gets_an_input_with_a_gradient(block):
    block(torch.ones(1), scale=5.0).sum().backward()
    assert block.seen == (True, 5.0)
    assert block.weight.grad == 5


def test_a_block_is_called_once_in_a_loss(block):
    for _ in range(2):
        block(torch.ones(1)).sum().backward()  # each in a loss of its own
    with torch.no_grad():
        block(torch.ones(1)), block(torch.ones(1))
    block(torch.ones(1))
    with pytest.raises(RuntimeError, match="called twice in one loss"):
        block(torch.ones(1))
