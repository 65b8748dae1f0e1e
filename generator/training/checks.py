"""Checks of the values of a configuration, without torch."""

from __future__ import annotations

from generator.output import InputError


def check(condition: bool, name: str, value: object, expected: str) -> None:
    """Raises `InputError` that says the value found and the one expected."""
    if not condition:
        raise InputError(f"{name} is {value}, but must be {expected}.")


def check_context_groups(context_parallel: int, processes: int) -> None:
    """Raises `InputError` where the processes of a training do not form whole groups that share tokens."""
    check(context_parallel >= 1, "context_parallel", context_parallel, "at least 1")
    if processes % context_parallel:
        raise InputError(
            f"context_parallel is {context_parallel}, but must be a divisor of the number of processes, which is "
            f"{processes}: pass --accelerate_config multi_gpu and a multiple of it as --num_processes."
        )
