"""Processes that pretrain one model together, each with its own clips: one gradient, one clock."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor

from generator.output import InputError

PATIENCE = timedelta(minutes=20)
"""Longest wait for another process, which may be compiling or looking at samples."""


def is_first() -> bool:
    """Returns whether this process is the only one, or the first of its launch."""
    return int(os.environ.get("RANK", "0")) == 0


def check_alone(flag: str) -> None:
    """Raises `InputError` where several processes were launched for a training that takes one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        raise InputError(
            f"{size} processes were launched, but {flag} is for one: leave out --accelerate_config and "
            "--num_processes."
        )


class Processes:
    """Processes of one launch that train together (data parallelism).

    Attributes:
        rank: number of this process, from 0.
        size: number of processes; 1 where the command was not launched.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1 and not torch.distributed.is_initialized():
            if torch.cuda.is_available():
                with suppress(RuntimeError):  # a process that sees its own GPU alone has it as number 0
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            torch.distributed.init_process_group(backend, timeout=PATIENCE)

    @property
    def is_first(self) -> bool:
        """True for the process that writes and speaks for all."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
            tensor.div_(self.size)

    def agree(self, elapsed: float, stop: bool) -> tuple[float, bool]:
        """Seconds that the first process has trained, and whether any process is asked to stop; the same in all."""
        if self.size == 1:
            return elapsed, stop
        said = torch.tensor([elapsed if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        torch.distributed.all_reduce(said)
        return float(said[0]), bool(said[1])

    def wait(self) -> None:
        """Returns once all processes have called this."""
        if self.size > 1:
            torch.distributed.all_reduce(torch.zeros(1))

    def leave(self) -> None:
        """Waits for the others and ends the group: what follows is the business of the first process alone."""
        self.wait()
        if self.size > 1:
            torch.distributed.destroy_process_group()
