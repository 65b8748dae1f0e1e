"""A progress bar that counts videos and moves with every denoising step, not with every batch."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.4g}/{total} videos [{elapsed}<{remaining}]"


class VideoBar:
    """Counts finished videos exactly and those in work by their denoising steps.

    Args:
        total: videos.
        done: videos that are finished already.
        description: what is done with them.
        disable: show nothing.
        leave: whether the bar stays when all is done.
    """

    def __init__(
        self, total: int, done: int, description: str, disable: bool = False, leave: bool = True
    ) -> None:
        self.done = done
        self._written = False
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            desc=description,
            bar_format=FORMAT,
            disable=disable,
            smoothing=0,
            leave=leave,
        )

    def __enter__(self) -> VideoBar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def stepped(self, steps: int) -> Any:
        """A function of a number of videos that have taken one of their `steps` denoising steps."""
        return lambda videos: self._bar.update(videos / steps)

    def write_once(self, text: str) -> None:
        """Prints a text above the bar, the first one that comes; nothing where the bar is not shown."""
        if not self._written and not self._bar.disable:
            self._bar.write(text)
        self._written = True

    def finish(self, videos: int) -> None:
        """Counts `videos` videos as finished."""
        self.done += videos
        self._bar.update(self.done - self._bar.n)
