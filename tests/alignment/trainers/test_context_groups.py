"""Batches and rows of groups of processes that share the tokens of a video."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignment.trainers.context_groups import check_engine, rows_of_groups
from generator.output import InputError


def test_rows_of_a_group_are_counted_once() -> None:
    args: Any = SimpleNamespace(world_size=4, context_parallel=2)
    first, second = torch.arange(6.0).reshape(3, 2), torch.arange(6.0, 12).reshape(3, 2)
    gathered = torch.cat([first, first, second, second])
    assert torch.equal(rows_of_groups(gathered, args), torch.cat([first, second]))
    args.context_parallel = 1
    assert torch.equal(rows_of_groups(gathered, args), gathered)


def test_zero_3_is_refused_beside_groups() -> None:
    for size, engine in ((1, "DeepSpeed ZeRO-3"), (2, "FSDP"), (2, "")):
        check_engine(size, engine)
    with pytest.raises(InputError, match="context_parallel is 2 with DeepSpeed ZeRO-3"):
        check_engine(2, "DeepSpeed ZeRO-3")
