"""Data of the reward accuracy benchmark: clips with gold scores, simulated rankings, and near misses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignment.demo.themes import THEMES
from generator.base import VideoGenerator
from generator.sampling import guided_velocity, sample_latents
from generator.world import SceneBatch, render_scenes, verify_batch
from generator.world.near_misses import near_misses
from generator.world.spoiled import BLEMISHES, CLIPS, RANKS, SpoiledScenes, spoiled_near_misses
from labeling_app.simulate import SimulatedAnnotator, ranks_from_perceived
from reward.models.latent import LatentRewardModel
from reward.preferences import MISSING, Ranking

SIZE = (9, 32, 32)
FPS = 8
_CHUNK = 32


def workers() -> int:
    """Processes for what only the CPU does; none where there are too few cores."""
    cores = len(os.sched_getaffinity(0))
    return min(14, cores - 2) if cores >= 4 else 0


@dataclass
class Clips:
    """Videos of each of some prompts: `latents [prompts, videos, C, F, H, W]` on the CPU and `gold [prompts,
    videos]`."""

    prompts: list[str]
    latents: Tensor
    gold: np.ndarray

    def path(self, prompt: int, video: int) -> Path:
        return Path(f"{self.prompts[prompt]}/{video}.mp4")

    def known(self) -> dict[Path, Tensor]:
        """The latents of every video by its (imagined) file."""
        return {
            self.path(row, column): self.latents[row, column]
            for row in range(len(self.prompts))
            for column in range(self.gold.shape[1])
        }

    def save(self, path: Path) -> None:
        torch.save(
            {"prompts": self.prompts, "latents": self.latents.half(), "gold": self.gold.tolist()}, path
        )

    @staticmethod
    def load(path: Path) -> Clips:
        found = torch.load(path, weights_only=True)
        return Clips(found["prompts"], found["latents"].float(), np.array(found["gold"]))


class _Gold(Dataset[list[float]]):
    """Gold scores of videos, a chunk an item, so that worker processes share the verification."""

    def __init__(self, videos: Tensor, prompts: Sequence[str]) -> None:
        self.videos, self.prompts = videos, prompts

    def __len__(self) -> int:
        return -(-len(self.prompts) // _CHUNK)

    def __getitem__(self, index: int) -> list[float]:
        part = slice(index * _CHUNK, (index + 1) * _CHUNK)
        return [a.score for a in verify_batch(self.videos[part].float(), list(self.prompts[part]), fps=FPS)]


@torch.no_grad()
def make_clips(
    generator: VideoGenerator,
    prompts: Sequence[str],
    scales: Sequence[float],
    seed: int,
    batch: int,
    steps: int,
) -> Clips:
    """One video for each prompt and guidance scale, made and decoded on the generator's device, then verified."""
    device, shape = generator.device, generator.latent_shape(*SIZE)
    random = torch.Generator(device).manual_seed(seed)
    sigmas = generator.sigma_schedule(steps, shape)
    negative = generator.encode_prompts([""])
    latents = torch.empty(len(prompts), len(scales), *shape)
    videos = torch.empty(len(scales), len(prompts), 3, *SIZE, dtype=torch.float16)
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        conditions = generator.encode_prompts(list(prompts[rows]))
        count = len(prompts[rows])
        for column, scale in enumerate(scales):
            noise = torch.randn(count, *shape, generator=random, device=device)
            found = sample_latents(guided_velocity(generator, conditions, negative, scale), noise, sigmas)
            latents[rows, column] = found.float().cpu()
            videos[column, rows] = generator.decode(found).half().cpu()
    jobs = _Gold(videos.flatten(0, 1), list(prompts) * len(scales))
    gold = [score for part in DataLoader(jobs, batch_size=None, num_workers=workers()) for score in part]
    return Clips(list(prompts), latents, np.array(gold).reshape(len(scales), len(prompts)).T)


class _Groups(Dataset[tuple[list[list[str]], list[list[list[int]]], Tensor]]):
    """Near misses, a chunk an item; the first `themed` chunks are of a theme."""

    def __init__(self, groups: int, videos: int, seed: int, theme: str, themed: int) -> None:
        self.groups, self.videos, self.seed, self.theme, self.themed = groups, videos, seed, theme, themed

    def __len__(self) -> int:
        return -(-self.groups // _CHUNK)

    def __getitem__(self, index: int) -> tuple[list[list[str]], list[list[list[int]]], Tensor]:
        holds = THEMES[self.theme].holds if index < self.themed else None
        drawn = near_misses(_CHUNK, self.videos, self.seed + index, "train", *SIZE, FPS, holds)
        return drawn.prompts, drawn.ranks, drawn.scenes.pack()


@torch.no_grad()
def near_miss_rankings(
    generator: VideoGenerator,
    groups: int,
    videos: int,
    seed: int,
    batch: int,
    made: float,
    theme: tuple[str, float] = ("everything", 0.0),
) -> tuple[list[Ranking], dict[Path, Tensor]]:
    """Rankings of near misses by the number of wrong claims, and the latents of the clips by their (imagined) files.
    Nobody judged them, and the verifier did not either.

    Args:
        made: share of the groups whose clips the generator makes from their captions, with guidance 3; what is left
            is rendered.
        theme: prompts of the demo that some groups are about, and the share of these groups.
    """
    device = generator.device
    random = torch.Generator(device).manual_seed(seed)
    rankings: list[Ranking] = []
    known: dict[Path, Tensor] = {}
    negative = generator.encode_prompts([""])
    chunks = max(1, batch // (videos * _CHUNK))
    waiting: list[tuple[list[list[str]], list[list[list[int]]], Tensor]] = []
    last = -(-groups // _CHUNK)
    # Near misses are drawn by processes of the CPU while the GPU renders, encodes and makes clips.
    jobs = DataLoader(
        _Groups(groups, videos, seed, theme[0], round(theme[1] * last)),
        batch_size=None,
        num_workers=workers(),
    )
    for number, (names, ranks, packed) in enumerate(jobs, 1):
        waiting.append((names, ranks, packed.clone()))  # copied, since what a worker sends holds an open file
        if len(waiting) < chunks and number < last:
            continue
        captions = [group for part in waiting for group in part[0]]
        claims = [group for part in waiting for group in part[1]]
        scenes = SceneBatch.unpack(torch.cat([part[2] for part in waiting]))
        waiting = []
        count = round(made * len(captions)) * videos
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            shown = render_scenes(scenes, *SIZE, fps=FPS, device=device)
            clips = torch.cat([generator.encode(part).float() for part in shown.split(1024)])
            if count:
                own = generator.encode_prompts([caption for group in captions for caption in group][:count])
                noise = torch.randn(clips[:count].shape, generator=random, device=device)
                sigmas = generator.sigma_schedule(10, clips.shape[1:])
                velocity = guided_velocity(generator, own, negative, 3.0)
                clips[:count] = sample_latents(velocity, noise, sigmas).float()
        latents = clips.cpu()
        begun = len(known) // videos
        for row, group in enumerate(captions):
            paths = [Path(f"near-miss/{begun + row}-{clip}.mp4") for clip in range(videos)]
            known.update(zip(paths, latents[row * videos : (row + 1) * videos]))
            rankings += [Ranking(name, paths, order) for name, order in zip(group, claims[row])]
    return rankings, known


class _SpoiledGroups(Dataset[tuple[list[list[str]], Tensor]]):
    def __init__(self, groups: int, seed: int) -> None:
        self.groups, self.seed = groups, seed

    def __len__(self) -> int:
        return -(-self.groups // _CHUNK)

    def __getitem__(self, index: int) -> tuple[list[list[str]], Tensor]:
        prompts, scenes = spoiled_near_misses(_CHUNK, self.seed + index, "train", *SIZE, FPS)
        return prompts, scenes.pack()


@torch.no_grad()
def spoiled_rankings(
    generator: VideoGenerator, groups: int, seed: int, batch: int
) -> tuple[list[Ranking], dict[Path, Tensor]]:
    """Rankings of rendered clips of which some have a blemish that no caption speaks of, and the clips' latents by
    their (imagined) files; nobody judged them, and the verifier did not either."""
    rankings: list[Ranking] = []
    known: dict[Path, Tensor] = {}
    device = generator.device
    jobs = DataLoader(_SpoiledGroups(groups, seed), batch_size=None, num_workers=workers())
    waiting: list[tuple[list[list[str]], Tensor]] = []
    chunks, last = max(1, batch // (CLIPS * _CHUNK)), -(-groups // _CHUNK)
    for number, (names, packed) in enumerate(jobs, 1):
        waiting.append((names, packed.clone()))
        if len(waiting) < chunks and number < last:
            continue
        captions = [group for part in waiting for group in part[0]]
        scenes = SpoiledScenes.unpack(torch.cat([part[1] for part in waiting]), SIZE[0])
        waiting = []
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            shown = scenes.render(*SIZE[1:], fps=FPS, device=device)
            latents = torch.cat([generator.encode(part).float().cpu() for part in shown.split(1024)])
        begun = len(known) // CLIPS
        for row, group in enumerate(captions):
            paths = [Path(f"spoiled/{begun + row}-{clip}.mp4") for clip in range(CLIPS)]
            known.update(zip(paths, latents[row * CLIPS : (row + 1) * CLIPS]))
            rankings += [Ranking(group[asked], paths, list(ranks)) for asked, ranks in RANKS]
    return rankings, known


@torch.no_grad()
def blemish_accuracy(model: LatentRewardModel, groups: int, seed: int = 2 * 10**6) -> dict[str, float]:
    """Share of held-out clips that the model scores above the same clip with a blemish, by the blemish; and of right
    clips above near misses."""
    generator = model.generator
    prompts, scenes = spoiled_near_misses(groups, seed, "test", *SIZE, FPS)
    clips = scenes.render(*SIZE[1:], fps=FPS, device=generator.device)
    scores, other = [], []
    for start in range(0, len(clips), 256):
        rows = slice(start, start + 256)
        latents = generator.encode(clips[rows])
        asked = [caption for group in prompts for caption in group]
        right = [group[0] for group in prompts for _ in range(CLIPS)]
        for found, captions in ((scores, asked), (other, right)):
            found.append(
                model.score_latents(latents, generator.encode_prompts(captions[rows]))["overall"].cpu()
            )
    pairs = torch.cat(scores).view(-1, 2)
    won = (pairs[:, 0] > pairs[:, 1]).float()
    blemish = scenes.blemish.view(-1, 2)[:, 1]
    shown = torch.cat(other).view(-1, CLIPS)
    figures = {name: float(won[blemish == number].mean()) for number, name in enumerate(BLEMISHES)}
    return {**figures, "wrong claim": float((shown[:, 0] > shown[:, 2]).float().mean()), "clips": len(won)}


def annotate(clips: Clips, annotators: Sequence[SimulatedAnnotator], seed: int) -> list[Ranking]:
    """One ranking a prompt, the annotators in turn."""
    random = np.random.default_rng(seed)
    rankings = []
    for row, prompt in enumerate(clips.prompts):
        annotator = annotators[row % len(annotators)]
        perceived = clips.gold[row] + annotator.noise * random.standard_normal(clips.gold.shape[1])
        ranks = ranks_from_perceived(perceived, annotator.tie_threshold)
        videos = [clips.path(row, column) for column in range(clips.gold.shape[1])]
        rankings.append(Ranking(prompt, videos, ranks, annotator=annotator.name))
    return rankings


def without_ties(ranking: Ranking) -> Ranking:
    """The ranking with one video of each tied group."""
    seen: set[int] = set()
    ranks = []
    for rank in ranking.ranks:
        ranks.append(MISSING if rank in seen else rank)
        seen.add(rank)
    return Ranking(ranking.prompt, ranking.videos, ranks, annotator=ranking.annotator)
