"""A bar of videos moves with every denoising step and ends at the number of videos."""

from __future__ import annotations

import pytest

from generator.testing import tiny_generator
from generator.training import progress as video_bar
from generator.training.progress import VideoBar


def test_the_bar_moves_with_each_step_and_counts_finished_videos_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float] = []

    class Recorded(video_bar.tqdm):
        def update(self, n: float = 1) -> None:
            super().update(n)
            seen.append(round(self.n, 6))

    monkeypatch.setattr(video_bar, "tqdm", Recorded)
    with VideoBar(5, 1, "videos") as bar:
        tiny_generator().generate(
            ["a", "b", "c"], 5, 16, 16, num_inference_steps=4, batch_size=2, stepped=bar.stepped(4)
        )
        bar.finish(3)
    assert seen == [1.5, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.0]
