"""The data of `reward_accuracy.py`: generated clips with their gold scores, simulated rankings, and near misses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from generator.base import VideoGenerator
from generator.sampling import generate_latents, guided_velocity, sample_latents
from generator.world import SceneBatch, render_scenes, verify_batch
from generator.world.near_misses import near_misses
from labeling_app.simulate import SimulatedAnnotator, ranks_from_perceived
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
    def __init__(self, groups: int, videos: int, seed: int) -> None:
        self.groups, self.videos, self.seed = groups, videos, seed

    def __len__(self) -> int:
        return -(-self.groups // _CHUNK)

    def __getitem__(self, index: int) -> tuple[list[list[str]], list[list[list[int]]], Tensor]:
        drawn = near_misses(_CHUNK, self.videos, self.seed + index, "train", *SIZE, FPS)
        return drawn.prompts, drawn.ranks, drawn.scenes.pack()


@torch.no_grad()
def near_miss_rankings(
    generator: VideoGenerator,
    groups: int,
    videos: int,
    seed: int,
    batch: int,
    generated: int = 0,
    steps: int = 10,
) -> tuple[list[Ranking], dict[Path, Tensor]]:
    """Rankings of near misses under the caption of each clip, and the latents of the clips by their (imagined)
    files.

    The clips of the first `generated` groups are not rendered: the generator makes them from their captions, with
    guidance 3. A clip then shows its caption more often than the captions of the others, and looks as the clips do
    that the model is to judge.
    """
    rankings: list[Ranking] = []
    packed, captions = [], []
    for prompts, ranks, scenes in DataLoader(
        _Groups(groups, videos, seed), batch_size=None, num_workers=workers()
    ):
        # Copied, since what a worker sends holds an open file.
        packed.append(scenes.clone())
        for names, rows in zip(prompts, ranks):
            number = len(rankings) // videos
            captions += names
            paths = [Path(f"near-miss/{number}-{clip}.mp4") for clip in range(videos)]
            rankings += [Ranking(name, paths, row) for name, row in zip(names, rows)]
    scenes = torch.cat(packed)
    own = min(generated * videos, len(scenes))
    parts = []
    if own:
        parts.append(
            generate_latents(
                generator, captions[:own], *SIZE, num_inference_steps=steps, guidance_scale=3.0, seed=seed,
                batch_size=batch,
            ).float().cpu()
        )  # fmt: skip
    for start in range(own, len(scenes), batch):
        part = SceneBatch.unpack(scenes[start : start + batch])
        shown = render_scenes(part, *SIZE, fps=FPS, device=generator.device)
        parts.append(generator.encode(shown).float().cpu())
    latents = torch.cat(parts)
    known = {
        Path(f"near-miss/{row // videos}-{row % videos}.mp4"): latents[row] for row in range(len(latents))
    }
    return rankings, known


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
