"""Progress of the demo: one bar over all stages, in seconds of their forecast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

UNREPORTED = 0.9
"""Share of a stage that the clock alone fills: the rest is left to what the stage itself reports, and to its end."""


class StageBar:
    """A progress bar over stages of known expected durations.

    A stage moves by the share that it reports, and by the clock where it has reported less, so that the bar also
    moves in stages, and parts of stages, that report nothing.

    Args:
        expected: seconds that each stage is expected to take.
        remaining: stages that are still to run, in order.
        clock: seconds that only increase.
        options: further arguments of `tqdm`.
    """

    def __init__(
        self,
        expected: Mapping[str, float],
        remaining: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.expected = expected
        self.clock = clock
        total = sum(expected.values())
        self._done = total - sum(expected[stage] for stage in remaining)
        self._stage: str | None = None
        self._began = self._reported = 0.0
        self._lock = threading.Lock()
        self.bar = tqdm(
            total=round(total),
            initial=round(self._done),
            unit="s",
            bar_format="{desc:<15}{percentage:3.0f}%|{bar}| {elapsed} elapsed, about {remaining} left",
            **options,
        )

    @contextmanager
    def ticking(self, seconds: float = 1.0) -> Iterator[None]:
        """Moves the bar every `seconds` from a thread of its own; closes it at the end."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(seconds):
                self.tick()

        thread = threading.Thread(target=tick, name="demo-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.bar.close()

    def begin(self, stage: str) -> None:
        """Starts a stage."""
        with self._lock:
            self._stage, self._began, self._reported = stage, self.clock(), 0.0
            self.bar.set_description_str(stage, refresh=False)
        self.tick()

    def advance(self, share: float) -> None:
        """Takes the share of the stage, from 0 to 1, that is done."""
        with self._lock:
            self._reported = max(self._reported, min(share, 1.0))
        self.tick()

    def end(self) -> None:
        """Finishes the stage."""
        with self._lock:
            if self._stage is not None:
                self._done += self.expected[self._stage]
            self._stage = None
        self.tick()

    def tick(self) -> None:
        """Moves the bar to what is reported, or to what the clock says."""
        with self._lock:
            place = self._done
            if self._stage is not None:
                expected = self.expected[self._stage]
                by_clock = (
                    min((self.clock() - self._began) / expected, UNREPORTED) if expected else UNREPORTED
                )
                place += expected * max(self._reported, by_clock)
            self.bar.n = round(place)
            self.bar.refresh()
