"""A small random generator whose latents are colours, and rankings of videos of it that can be learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from generator.base import VideoGenerator
from generator.conditions import Conditions
from generator.output import InputError
from generator.video_model import GenerationDefaults
from reward.preferences import Ranking

COLOURS = ("red", "green", "blue", "white")


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.to_out = nn.Linear(size, size)

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        joint = torch.cat([video, text], dim=1)
        joint = joint + self.to_out(self.attention(joint, joint, joint, need_weights=False)[0]).tanh()
        return joint[:, : video.shape[1]], joint[:, video.shape[1] :]


class Transformer(nn.Module):
    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.patch = nn.Linear(3, size)
        self.transformer_blocks = nn.ModuleList([Block(size) for _ in range(4)])
        self.out = nn.Linear(size, 3)

    def streams(self, latents: Tensor, sigma: Tensor, text: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
        video = self.patch(latents.flatten(2).transpose(1, 2)) + sigma[:, None, None]
        for block in self.transformer_blocks[:num_blocks]:
            video, text = block(video, text)
        return video, text

    def forward(self, latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        video, _ = self.streams(latents, sigma, text, 4)
        return self.out(video).transpose(1, 2).reshape(latents.shape)


class ColourGenerator(VideoGenerator):
    """Latents are the frames averaged over cells of 4 by 4 pixels; text is a one-hot colour."""

    def __init__(self, seed: int = 0) -> None:
        self.name = "colours"
        self.lora_target_modules = ["to_out"]
        self.defaults = GenerationDefaults(3, 8, 8, 8.0, 4, 1.0, 1.0)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = Transformer()
            self.vae = nn.Linear(3, 3)
        self.pipeline = SimpleNamespace(components={"transformer": self.net, "vae": self.vae})
        self.encoded_videos = 0

    @property
    def transformer(self) -> nn.Module:
        return self.net

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        if height % 4 or width % 4:
            raise InputError(f"{height}x{width} is not a size of this model: the nearest is 8x8.")

    def size_multiples(self) -> tuple[int, int]:
        return 4, 1

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return 3, num_frames, height // 4, width // 4

    def encode(self, videos: Tensor) -> Tensor:
        self.encoded_videos += len(videos)
        return torch.nn.functional.avg_pool3d(videos, (1, 4, 4))

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(latents, scale_factor=(1, 4, 4)).clamp(-1, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        rows = torch.zeros(len(prompts), len(COLOURS), 16)
        for row, prompt in enumerate(prompts):
            for number, colour in enumerate(COLOURS):
                rows[row, number, number] = 3.0 * (colour in prompt)
        return {"text": rows}

    def velocity(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, transformer: nn.Module | None = None
    ) -> Tensor:
        return (transformer or self.net)(latents, sigma, conditions["text"])

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        joint = torch.cat(self.net.streams(latents, sigma, conditions["text"], num_blocks), dim=1)
        return joint, torch.ones(joint.shape[:2], dtype=torch.bool)


def coloured_video(colour: str, seed: int) -> Tensor:
    """A noisy video `[3, 3, 8, 8]` of one colour."""
    base = {"red": [1, -1, -1], "green": [-1, 1, -1], "blue": [-1, -1, 1], "white": [1, 1, 1]}[colour]
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (torch.tensor(base, dtype=torch.float32)[:, None, None, None] * 0.6 + 0.3 * noise).clamp(-1, 1)


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
