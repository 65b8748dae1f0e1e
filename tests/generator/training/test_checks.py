"""Checks of single values."""

from __future__ import annotations

import pytest

from generator.output import InputError
from generator.training.checks import check_context_groups


@pytest.mark.parametrize(("size", "processes"), [(1, 1), (1, 3), (2, 2), (2, 8), (4, 4)])
def test_groups_of_processes_are_whole(size: int, processes: int) -> None:
    check_context_groups(size, processes)


@pytest.mark.parametrize(("size", "processes"), [(2, 1), (2, 3), (4, 2), (0, 1), (-2, 2)])
def test_other_numbers_are_refused(size: int, processes: int) -> None:
    expected = "at least 1" if size < 1 else f"divisor of the number of processes, which is {processes}"
    with pytest.raises(InputError, match=f"^context_parallel is {size}, but must be .*{expected}"):
        check_context_groups(size, processes)
