"""A verifier for tests: how bright a video is."""

from collections.abc import Sequence

from torch import Tensor


def judge(videos: Tensor, prompts: Sequence[str]) -> list[float]:
    return [float((video.mean() + 1) / 2) for video in videos]
