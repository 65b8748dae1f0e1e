"""Learns text–video matching from demonstrations: of several prompts the right one must match best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from generator.data.demonstrations import Demonstration
from generator.inputs.conditions import select
from generator.output import InputError
from reward.models.heads import MatchingHead
from reward.models.latent import LatentRewardModel
from reward.models.matching import contrastive_loss
from reward.training.ranking_data import read_conditions, read_latents

_PROMPTS_AT_ONCE = 64


class DemonstrationMatching:
    """Demonstrations encoded once, and the contrastive loss of the matching head on random batches of them.

    Args:
        model: a latent reward model of the `matching` architecture.
        demonstrations: videos with prompts that they show; at least two different prompts.
        batch_size: demonstrations in a batch; each is contrasted with the prompts of the others.
        seed: of the batches.
        encode_batch_size: videos encoded at a time.

    Raises:
        InputError: the model has another architecture, or there are fewer than two prompts.
    """

    def __init__(
        self,
        model: LatentRewardModel,
        demonstrations: Sequence[Demonstration],
        batch_size: int = 16,
        seed: int = 0,
        encode_batch_size: int = 16,
        latents: dict[Path, Tensor] | None = None,
    ) -> None:
        if not isinstance(model.head, MatchingHead):
            raise InputError(
                "Demonstrations teach the matching head only: pass --architecture matching, or no demonstrations."
            )
        prompts = list(dict.fromkeys(demonstration.prompt for demonstration in demonstrations))
        if len(prompts) < 2:
            raise InputError(
                f"The demonstrations have {len(prompts)} prompt, but matching needs at least 2 to compare."
            )
        self.model, self.head = model, model.head
        self.batch_size = min(batch_size, len(prompts))
        self.random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.text = model.text_of(read_conditions(model, prompts, _PROMPTS_AT_ONCE)).cpu()
        self.videos_of_prompt: list[list[int]] = [[] for _ in prompts]
        for row, demonstration in enumerate(demonstrations):
            self.videos_of_prompt[prompts.index(demonstration.prompt)].append(row)
        paths = [demonstration.video for demonstration in demonstrations]
        self.latents = read_latents(model, paths, encode_batch_size, latents)
        frozen = not model.config.trains_trunk
        self.tokens = (
            torch.cat([self._trunk(part).cpu() for part in self.latents.split(encode_batch_size)])
            if frozen
            else None
        )

    def _trunk(self, latents: Tensor) -> Tensor:
        """Tokens `[batch, levels, tokens, dim]`; the prompt plays no part in them."""
        with torch.set_grad_enabled(self.tokens_are_trained()):
            tokens, _ = self.model.trunk_tokens(latents, select(self._any_conditions(), [0] * len(latents)))
        return tokens

    def tokens_are_trained(self) -> bool:
        return self.model.config.trains_trunk

    def _any_conditions(self) -> dict[str, Tensor]:
        return self.model.generator.encode_prompts([""])

    def loss(self) -> Tensor:
        """Contrastive loss of a random batch of different prompts, one video of each; mean over noise levels."""
        chosen = torch.randperm(len(self.text), generator=self.random)[: self.batch_size]
        picks = torch.rand(len(chosen), generator=self.random)
        rows = torch.tensor(
            [
                self.videos_of_prompt[prompt][int(pick * len(self.videos_of_prompt[prompt]))]
                for prompt, pick in zip(chosen.tolist(), picks.tolist())
            ]
        )
        tokens = self.tokens[rows] if self.tokens is not None else self._trunk(self.latents[rows])
        tokens = tokens.to(self.model.device).float()
        text = self.text[chosen].to(self.model.device)
        text = text[:, : int((text != 0).any(dim=2).any(dim=0).nonzero().max()) + 1]
        losses = [contrastive_loss(self.head.matching.all_pairs(level, text)) for level in tokens.unbind(1)]
        return torch.stack(losses).mean()

    def pretrain(self, steps: int, learning_rate: float, progress: bool = True) -> float:
        """Trains the matching head (and a LoRA of the trunk) for `steps` batches; returns the mean loss of the
        last tenth."""
        parameters = [*self.head.matching.parameters(), *self.model.trunk_parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1
        )
        self.head.train()
        losses = []
        for _ in trange(steps, desc="Matching demonstrations", disable=not progress):
            loss = self.loss()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        last = losses[-max(1, steps // 10) :]
        return sum(last) / max(len(last), 1)
