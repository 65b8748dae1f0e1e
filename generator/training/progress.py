"""A progress bar that counts videos and moves with every denoising step, not with every batch."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from generator.training.shared_work import SharedWork

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.4g}/{total} videos [{elapsed}<{remaining}]"


class SharedBar:
    """Counts what the processes of shared work have done; the first one shows the bar.

    Args:
        total: of all processes.
        description: what is done.
        unit: what is counted.
        work: what they share.
        disable: show nothing.
    """

    def __init__(
        self, total: int, description: str, unit: str, work: SharedWork, disable: bool = False
    ) -> None:
        self._work, self._done = work, 0
        self._bar: Any = tqdm(total=total, desc=description, unit=unit, disable=disable or not work.is_first)

    def __enter__(self) -> SharedBar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Counts more as done by this process."""
        self._done += count
        self._work.report(self._done)
        self.show()

    def show(self) -> None:
        """Shows how far all processes are."""
        if self._work.is_first:
            self._bar.update(int(self._work.reported()) - self._bar.n)


class VideoBar:
    """Counts finished videos exactly and those in work by their denoising steps.

    Args:
        total: videos.
        done: videos that are finished already.
        description: what is done with them.
        disable: show nothing.
        leave: whether the bar stays when all is done.
        work: whose processes all count; the first one shows the bar.
    """

    def __init__(
        self,
        total: int,
        done: int,
        description: str,
        disable: bool = False,
        leave: bool = True,
        work: SharedWork | None = None,
    ) -> None:
        self.done = done
        self._written = False
        self._work = SharedWork(0, 1) if work is None else work
        self._before = done
        self._position = 0.0  # of this process: its videos of this run
        self._finished = 0
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            desc=description,
            bar_format=FORMAT,
            disable=disable or not self._work.is_first,
            smoothing=0,
            leave=leave,
        )

    def __enter__(self) -> VideoBar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def stepped(self, steps: int) -> Any:
        """A function of a number of videos that have taken one of their `steps` denoising steps."""
        return lambda videos: self._move(self._position + videos / steps)

    def write_once(self, text: str) -> None:
        """Prints a text above the bar, the first one that comes; nothing where the bar is not shown."""
        if not self._written and not self._bar.disable:
            self._bar.write(text)
        self._written = True

    def finish(self, videos: int) -> None:
        """Counts `videos` videos as finished."""
        self.done += videos
        self._finished += videos
        self._move(self._finished)

    def show(self) -> None:
        """Shows how far all processes are."""
        if self._work.is_first:
            self._bar.update(self._before + self._work.reported() - self._bar.n)

    def _move(self, position: float) -> None:
        self._position = position
        self._work.report(position)
        self.show()
