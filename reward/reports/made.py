"""Circumstances of a report: command, commit, device and time."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path

from generator.training.invocation import same_command, typed


def commit() -> str:
    """Commit of the checkout that this package is imported from; empty where it is none, or git is missing."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def device_name() -> str:
    """Name of the first GPU, or the processor with the number of its threads that are used."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} ({torch.cuda.device_count()} visible)"
    return f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"


def made_now() -> dict[str, str]:
    """The command, commit, device and time of a result that is made now."""
    now = datetime.datetime.now(datetime.UTC)
    found = {
        "command": same_command() if typed() else "",
        "commit": commit(),
        "device": device_name(),
        "date": now.isoformat(timespec="seconds"),
    }
    return {name: value for name, value in found.items() if value}
