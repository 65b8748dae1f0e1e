"""Progress within a rollout: what is being done, and how much of it is done."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

SECONDS_BETWEEN = 0.5
"""Between two updates of the bar."""


class RolloutProgress:
    """A second bar below the trainer's, which counts optimiser steps only: sampling, judging, decoding, updating.

    Args:
        rollouts: how many there are.
        disable: show nothing.
    """

    def __init__(self, rollouts: int, disable: bool) -> None:
        self.rollouts = rollouts
        self.disable = disable
        self.name = ""
        self._bar: Any = None

    def begin(self, rollout: int, name: str, total: int, unit: str) -> None:
        """Starts a part of rollout number `rollout` (from 0) that has `total` units."""
        self.close()
        self.name = name
        if not self.disable:
            self._bar = tqdm(
                total=total,
                desc=f"Rollout {rollout + 1}/{self.rollouts}: {name}",
                unit=f" {unit}",
                leave=False,
                mininterval=SECONDS_BETWEEN,
            )

    def advance(self, name: str, count: int = 1) -> None:
        """Counts `count` units more, if the part `name` is the one that is shown."""
        if self._bar is not None and name == self.name:
            self._bar.update(count)

    def stepped(self, videos: int) -> None:
        """Counts a denoising step of so many videos."""
        self.advance("sampling", videos)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.name = ""
