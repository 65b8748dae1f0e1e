"""A small random generator whose latents are colours, and rankings of videos of it that can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generator.testing.stand_ins import COLOURS, ColourGenerator, coloured_video
from reward.preferences import Ranking


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the latents of these tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def colours() -> ColourGenerator:
    return ColourGenerator()


@pytest.fixture(scope="session")
def colour_rankings() -> tuple[list[Ranking], dict[Path, Tensor]]:
    """48 prompts that ask for a colour, 3 videos each: the right colour, then the wrong ones tied; and their
    latents."""
    generator = ColourGenerator()
    rankings: list[Ranking] = []
    latents: dict[Path, Any] = {}
    for number in range(48):
        asked = COLOURS[number % 4]
        shown = [asked, COLOURS[(number + 1) % 4], COLOURS[(number + 2) % 4]]
        order = torch.randperm(3, generator=torch.Generator().manual_seed(number)).tolist()
        paths = [Path(f"{number}-{k}.mp4") for k in range(3)]
        for path, k in zip(paths, order):
            latents[path] = generator.encode(coloured_video(shown[k], 10 * number + k)[None])[0]
        ranks = [0 if k == 0 else 1 for k in order]
        rankings.append(Ranking(f"{asked} clip, take {number}", paths, ranks))
    return rankings, latents
