"""Scheduling policy of the test process: SVT-AV1, run by root, asks for real time, and would starve all else."""

from __future__ import annotations

import os


def is_real_time() -> bool:
    """Whether this thread, and what it starts from now on, goes before every ordinary process."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def to_ordinary_scheduling() -> None:
    """Makes this thread one of many again."""
    if is_real_time():
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
