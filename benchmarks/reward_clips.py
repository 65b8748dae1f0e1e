"""The data of `reward_accuracy.py`: generated clips with their gold scores, simulated rankings, and near misses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from generator.base import Conditions, VideoGenerator, select
from generator.sampling import guided_velocity, sample_latents
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


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of groups that a reward model learns from before it sees a ranking of anyone.

    Attributes:
        made: the generator makes the clips from their captions, with guidance 3; ranked by wrong claims.
        mixed: clips from one noise and the velocities of two captions in turn weighted 0, …, 1, with guidance 3; the
            less of a caption, the worse under it. What lies between is often ambiguous.
        worn_apart: one clip, regenerated from noise levels that differ; the more noise, the worse.
        worn_together: near misses regenerated from one noise level; ranked by wrong claims.

    What is left are near misses as they were rendered.
    """

    made: float = 0.1
    mixed: float = 0.15
    worn_apart: float = 0.4
    worn_together: float = 0.2


_LEVELS = (0, 2, 3, 4, 5, 6)
"""Steps of a schedule of ten after which a clip, brought to that noise level, is regenerated."""


@torch.no_grad()
def wear(
    generator: VideoGenerator,
    latents: Tensor,
    starts: Tensor,
    conditions: Conditions,
    random: torch.Generator,
) -> Tensor:
    """Latents `[batch, C, F, H, W]`, each brought to the noise level of the step in `starts` of a schedule of ten and
    denoised from there (SDEdit, arXiv 2108.01073); `starts` of 10 leaves a clip as it is."""
    sigmas = generator.sigma_schedule(10, latents.shape[1:])
    found = latents
    for step in range(len(sigmas) - 1):
        noise = torch.randn(latents.shape, generator=random, device=latents.device)
        noisy = (1 - sigmas[step]) * latents + sigmas[step] * noise
        found = torch.where((starts == step)[:, None, None, None, None], noisy, found)
        active = (starts <= step).nonzero()[:, 0]
        if len(active):
            sigma = sigmas[step].to(latents.device).expand(len(active))
            velocity = generator.velocity(found[active], sigma, select(conditions, active))
            found[active] = found[active] + (sigmas[step + 1] - sigmas[step]) * velocity.float()
    return found


def _empty(negative: Conditions, count: int) -> Conditions:
    return select(negative, [0] * count)


def _mixed(generator: VideoGenerator, conditions: Conditions, negative: Conditions, noise: Tensor) -> Tensor:
    """Clips `[groups · videos, …]` between the first two captions of each group, from the noise of its first clip."""
    groups, videos = noise.shape[:2]
    device = noise.device
    first = torch.arange(groups, device=device).repeat_interleave(videos) * videos
    weight = torch.linspace(0, 1, videos, device=device).repeat(groups)[:, None, None, None, None]
    one = guided_velocity(generator, select(conditions, first), negative, 3.0)
    other = guided_velocity(generator, select(conditions, first + 1), negative, 3.0)

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        return (1 - weight) * one(latents, sigma) + weight * other(latents, sigma)

    same = noise[:, :1].expand_as(noise).flatten(0, 1)
    return sample_latents(velocity, same, generator.sigma_schedule(10, same.shape[1:])).float()


def _worn_apart(
    generator: VideoGenerator, clips: Tensor, conditions: Conditions, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The first clip of each group `[groups, videos, …]` at different noise levels, and their ranks."""
    groups, videos = clips.shape[:2]
    order = torch.rand(groups, len(_LEVELS) + 1, generator=random, device=clips.device).argsort(1)[:, :videos]
    starts = torch.tensor([*_LEVELS, 10], device=clips.device)[order]
    first = clips[:, :1].expand_as(clips).flatten(0, 1)
    same = select(conditions, torch.arange(groups, device=clips.device).repeat_interleave(videos) * videos)
    worn = wear(generator, first, starts.flatten(), same, random)
    return worn, starts.argsort(1, descending=True).argsort(1)


@torch.no_grad()
def near_miss_rankings(
    generator: VideoGenerator, groups: int, videos: int, seed: int, batch: int, mixture: Mixture
) -> tuple[list[Ranking], dict[Path, Tensor], list[str]]:
    """Rankings of near misses and worn clips, the latents of the clips by their (imagined) files, and the kind of
    each ranking. Nobody judged them, and the verifier did not either."""
    device = generator.device
    random = torch.Generator(device).manual_seed(seed)
    rankings: list[Ranking] = []
    kinds: list[str] = []
    known: dict[Path, Tensor] = {}
    negative = generator.encode_prompts([""])
    chunks = max(1, batch // (videos * _CHUNK))
    waiting: list[tuple[list[list[str]], list[list[list[int]]], Tensor]] = []
    shares = (mixture.made, mixture.mixed, mixture.worn_apart, mixture.worn_together)
    last = -(-groups // _CHUNK)
    # Near misses are drawn by processes of the CPU while the GPU renders, encodes and regenerates.
    jobs = DataLoader(_Groups(groups, videos, seed), batch_size=None, num_workers=workers())
    for number, (names, ranks, packed) in enumerate(jobs, 1):
        waiting.append((names, ranks, packed.clone()))  # copied, since what a worker sends holds an open file
        if len(waiting) < chunks and number < last:
            continue
        captions = [group for part in waiting for group in part[0]]
        claims = torch.tensor([group for part in waiting for group in part[1]])
        scenes = SceneBatch.unpack(torch.cat([part[2] for part in waiting]))
        waiting = []
        flat = [caption for group in captions for caption in group]
        conditions = generator.encode_prompts(flat)
        ends = [0, *(round(sum(shares[: kind + 1]) * len(captions)) for kind in range(4))]
        made, mixed, apart, together = (slice(a * videos, b * videos) for a, b in itertools.pairwise(ends))
        worn = slice(ends[2] * videos, ends[4] * videos)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            shown = render_scenes(scenes, *SIZE, fps=FPS, device=device)
            clips = torch.cat([generator.encode(part).float() for part in shown.split(1024)])
            noise = torch.randn(clips.shape, generator=random, device=device)
            if len(clips[made]):
                own = guided_velocity(generator, select(conditions, made), negative, 3.0)
                clips[made] = sample_latents(
                    own, noise[made], generator.sigma_schedule(10, clips.shape[1:])
                ).float()
            if len(clips[mixed]):
                grouped = noise[mixed].unflatten(0, (-1, videos))
                clips[mixed] = _mixed(generator, select(conditions, mixed), negative, grouped)
            levels: Tensor | None = None
            if len(clips[apart]):
                guided = select(conditions, apart)
                if number // chunks % 2:  # every other batch without its prompt
                    guided = _empty(negative, len(clips[apart]))
                clips[apart], levels = _worn_apart(
                    generator, clips[apart].unflatten(0, (-1, videos)), guided, random
                )
            if len(clips[together]):
                drawn = torch.randint(1, len(_LEVELS), (ends[4] - ends[3],), generator=random, device=device)
                starts = torch.tensor(_LEVELS, device=device)[drawn].repeat_interleave(videos)
                clips[together] = wear(
                    generator, clips[together], starts, select(conditions, together), random
                )
            # All worn clips pass the end of the sampling once more, lest its traces tell how worn they are.
            if len(clips[worn]):
                again = torch.full((len(clips[worn]),), 7, device=device)
                clips[worn] = wear(generator, clips[worn], again, _empty(negative, len(again)), random)
        latents = clips.cpu()
        begun = len(known) // videos
        for row, group in enumerate(captions):
            paths = [Path(f"near-miss/{begun + row}-{clip}.mp4") for clip in range(videos)]
            known.update(zip(paths, latents[row * videos : (row + 1) * videos]))
            if ends[1] <= row < ends[2]:
                orders = [list(range(videos)), list(range(videos))[::-1]]
                rankings += [Ranking(name, paths, order) for name, order in zip(group[:2], orders)]
                kinds += ["mixed"] * 2
                continue
            if ends[2] <= row < ends[3]:
                assert levels is not None
                rankings.append(Ranking(group[0], paths, levels[row - ends[2]].tolist()))
                kinds.append("worn apart")
                continue
            rankings += [Ranking(name, paths, order) for name, order in zip(group, claims[row].tolist())]
            kind = "made" if row < ends[1] else "worn together" if row < ends[4] else "rendered"
            kinds += [kind] * videos
    return rankings, known, kinds


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
