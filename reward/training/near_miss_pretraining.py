"""Pretraining of a reward model on rankings that no one had to judge, before it learns from those of people.

Demonstrations whose captions differ in known claims rank one another (`generator.world.near_misses`), and so do videos
of generators that are known to be better or worse: such rankings come in any number, and teach the trunk what a prompt
asks for; a few hundred rankings of people then say what they prefer. Everything is kept on the trunk's device and the
steps are plain, since tens of thousands of videos pass here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from generator.inputs.conditions import select
from generator.output import InputError
from reward.models.latent import LatentRewardModel
from reward.preferences import MISSING, Ranking
from reward.training.ranking_data import read_conditions, read_latents
from reward.training.ranking_model import RankingLikelihood, RankingModel

_PROMPTS_AT_ONCE = 512


class RankingPretraining:
    """Rankings with their videos encoded once, and the training of trunk and head on random batches of them.

    Args:
        model: the reward model; its trunk learns too where its configuration says so.
        rankings: of the model's dimensions.
        loss_type: their likelihood, see `reward.losses`.
        encode_batch_size: videos encoded at a time.
        latents: already known latents of video files, which then are not read.

    Raises:
        InputError: no ranking has an order in one of the model's dimensions, or a video cannot be read.
    """

    def __init__(
        self,
        model: LatentRewardModel,
        rankings: Sequence[Ranking],
        loss_type: str = "plackett_luce",
        encode_batch_size: int = 16,
        latents: dict[Path, Tensor] | None = None,
    ) -> None:
        self.model = model
        used = [r for r in rankings if r.dimension in model.dimensions and r.has_order]
        if not used:
            raise InputError(
                f"None of the {len(rankings)} rankings of the pretraining has an order in "
                f"{', '.join(model.dimensions)}: give others, or leave --pretraining off."
            )
        self.ranking_model = RankingModel(model, RankingLikelihood(loss_type).to(model.device))
        prompts = list(dict.fromkeys(r.prompt for r in used))
        paths = list(dict.fromkeys(video for r in used for video in r.videos))
        prompt_row = {prompt: row for row, prompt in enumerate(prompts)}
        video_row = {path: row for row, path in enumerate(paths)}
        longest = max(len(r.videos) for r in used)
        self.ranks = torch.full((len(used), longest), MISSING)
        self.videos = torch.zeros((len(used), longest), dtype=torch.long)
        for row, ranking in enumerate(used):
            self.ranks[row, : len(ranking.ranks)] = torch.tensor(ranking.ranks)
            self.videos[row, : len(ranking.videos)] = torch.tensor([video_row[v] for v in ranking.videos])
        self.prompts = torch.tensor([prompt_row[r.prompt] for r in used])
        self.dimension = torch.tensor([model.dimensions.index(r.dimension) for r in used])
        self.ranks, self.videos, self.prompts, self.dimension = (
            value.to(model.device) for value in (self.ranks, self.videos, self.prompts, self.dimension)
        )
        self.conditions = read_conditions(model, prompts, _PROMPTS_AT_ONCE)
        self.latents = read_latents(model, paths, encode_batch_size, latents).to(model.device)

    def __len__(self) -> int:
        return len(self.ranks)

    def scores_and_loss(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[rows, K]` and the mean loss of the rankings at `rows`."""
        videos, ranks = self.videos[rows], self.ranks[rows]
        count, size = videos.shape
        conditions = select(self.conditions, self.prompts[rows].repeat_interleave(size))
        features = self.model.features(self.latents[videos.flatten()], conditions, train=True)
        loss, scores = self.ranking_model(
            videos=torch.arange(count * size, device=rows.device).view(count, size),
            ranks=ranks,
            votes=torch.full(ranks.shape, float("nan"), device=rows.device),
            dimension=self.dimension[rows],
            annotator=torch.full_like(self.prompts[rows], -1),
            features=features.tensors(),
        )
        return scores, loss

    def replayed_loss(self, batch_size: int, random: torch.Generator) -> Tensor:
        """Mean loss of random rankings, added to that of people's rankings so that what these taught is kept."""
        rows = torch.randint(len(self), (batch_size,), generator=random).to(self.latents.device)
        return self.scores_and_loss(rows)[1]

    def train(
        self,
        steps: int,
        batch_size: int,
        learning_rate: float,
        trunk_learning_rate: float,
        seed: int = 0,
        bf16: bool = False,
        max_seconds: float = float("inf"),
        progress: bool = True,
    ) -> dict[str, float]:
        """Trains for `steps` batches, or as many as fit into `max_seconds`: warm-up, constant, linear to zero.

        Returns:
            Mean loss and pair accuracy (ties left out) of the last twentieth, steps, rankings seen, and seconds.
        """
        model, device = self.model, self.latents.device
        random = torch.Generator().manual_seed(seed)
        trunk = model.trunk_parameters()
        own = {id(parameter) for parameter in trunk}
        head = [p for p in self.ranking_model.parameters() if p.requires_grad and id(p) not in own]
        groups = [{"params": head, "lr": learning_rate}]
        groups += [{"params": trunk, "lr": trunk_learning_rate}] if trunk else []
        optimizer = torch.optim.AdamW(
            groups, weight_decay=0.01, betas=(0.9, 0.99), fused=device.type == "cuda"
        )
        peak = [group["lr"] for group in optimizer.param_groups]
        begun, done, found = time.perf_counter(), 0.0, []
        self.ranking_model.train()
        bar = trange(steps, desc="Pretraining on rankings", disable=not progress)
        for step in bar:
            # Progress is counted in steps or in time, whichever is further.
            done = max(step / steps, (time.perf_counter() - begun) / max_seconds)
            if done >= 1:
                break
            factor = min(1.0, (step + 1) / max(1, min(100, steps // 20)), 2 * (1 - done))
            for group, rate in zip(optimizer.param_groups, peak):
                group["lr"] = rate * factor
            rows = torch.randint(len(self), (batch_size,), generator=random).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
                scores, loss = self.scores_and_loss(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*head, *trunk], 1.0)
            optimizer.step()
            found.append(
                torch.stack([loss.detach().float(), pair_accuracy(scores.detach(), self.ranks[rows])])
            )
            if len(found) % 100 == 0:
                recent = torch.stack(found[-50:]).nanmean(0).tolist()
                bar.set_postfix(loss=f"{recent[0]:.3f}", accuracy=f"{recent[1]:.3f}")
        last = (
            torch.stack(found[-max(1, len(found) // 20) :]).nanmean(0).tolist()
            if found
            else [float("nan")] * 2
        )
        return {
            "loss": last[0],
            "accuracy": last[1],
            "steps": len(found),
            "rankings_seen": len(found) * batch_size,
            "seconds": time.perf_counter() - begun,
        }


def pair_accuracy(scores: Tensor, ranks: Tensor) -> Tensor:
    """Share of the untied pairs of rankings `[batch, K]` that the scores order as the ranks do, without leaving the
    device; NaN where there is none."""
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)
    right = ((scores[:, :, None] - scores[:, None, :]).sign() + 1) / 2
    return right[better].mean()
