"""A value critic on noisy latents: what reward a half-denoised video will get."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment.lora import adapters_disabled
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions
from generator.output import InputError
from generator.seeds import Stream

FREQUENCIES = 16


@dataclass
class CriticInputs:
    """Inputs of the critic from denoising states; tensors `[rows, ...]`.

    Attributes:
        seen: latents `[rows, C, F, H, W]`, or pooled trunk features `[rows, size]`.
        sigma: noise level.
        text: pooled prompt `[rows, size]`.
    """

    seen: Tensor
    sigma: Tensor
    text: Tensor

    def __getitem__(self, rows: Tensor | slice) -> CriticInputs:
        return CriticInputs(self.seen[rows], self.sigma[rows], self.text[rows])


class _Block(nn.Module):
    """A residual 3-D convolution, scaled and shifted by noise level and prompt."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, size)
        self.modulation = nn.Linear(size, 2 * size)
        self.conv = nn.Conv3d(size, size, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None, None].chunk(2, dim=1)
        return x + self.conv(F.silu(self.norm(x) * (1 + scale) + shift))


class ValueNetwork(nn.Module):
    """Values `[rows]` of `CriticInputs`; an untrained network says `offset` for everything.

    Args:
        seen_size: channels of the latents, or size of the pooled trunk features.
        text_size: size of the pooled prompt.
        own_trunk: whether latents are seen, by convolutions of its own.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, seen_size: int, text_size: int, own_trunk: bool, size: int = 64) -> None:
        super().__init__()
        self.condition = nn.Linear(2 * FREQUENCIES + text_size, size)
        self.trunk = nn.Conv3d(seen_size, size, 3, padding=1) if own_trunk else nn.Linear(seen_size, size)
        self.blocks = nn.ModuleList(_Block(size) for _ in range(2 if own_trunk else 0))
        last = nn.Linear(size, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(2 * size, size), nn.SiLU(), last)
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, inputs: CriticInputs) -> Tensor:
        angles = (
            inputs.sigma[:, None]
            * math.pi
            * 2.0 ** torch.arange(FREQUENCIES // 2, device=inputs.sigma.device)
        )
        angles = torch.cat([angles, inputs.sigma[:, None] * torch.arange(1, 9, device=angles.device)], dim=1)
        condition = self.condition(torch.cat([angles.sin(), angles.cos(), inputs.text], dim=1))
        x = self.trunk(inputs.seen)
        for block in self.blocks:
            x = block(x, F.silu(condition))
        pooled = x.flatten(2).mean(2) if x.ndim > 2 else F.silu(x)
        return self.offset + self.scale * self.head(torch.cat([pooled, condition], dim=1)).flatten()


class ValueCritic:
    """The network with its optimiser, apart from the engine that trains the policy.

    Every process holds the same weights: they start from one seed, and gradients are averaged over processes.

    Args:
        generator: whose latents are judged; with a shared trunk its first half of blocks, without adapters
            and without gradients, gives the features.
        trunk: `own` or `shared`.
        average: the mean of a tensor over processes.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        trunk: str,
        learning_rate: float,
        seed: int,
        average: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        self.generator = generator
        self.own_trunk = trunk == "own"
        self.average = average
        example = self._example()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + Stream.CRITIC_WEIGHTS)
            self.network = ValueNetwork(example.seen.shape[1], example.text.shape[1], self.own_trunk)
        self.network.to(generator.device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=learning_rate, weight_decay=0.01)

    def _example(self) -> CriticInputs:
        defaults = self.generator.defaults
        shape = self.generator.latent_shape(defaults.num_frames, defaults.height, defaults.width)
        latents = torch.zeros((1, *shape), device=self.generator.device)
        conditions = self.generator.encode_prompts(["a video"])
        return self.inputs(latents, latents.new_full((1,), 0.5), conditions)

    @torch.no_grad()
    def inputs(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> CriticInputs:
        """Inputs of the critic from `latents [rows, C, F, H, W]` at `sigma [rows]` under `conditions`."""
        texts = [value for value in conditions.values() if value.ndim == 3 and value.is_floating_point()]
        text = torch.cat([F.layer_norm(value.float().mean(1), value.shape[2:]) for value in texts], dim=1)
        if self.own_trunk:
            return CriticInputs(latents, sigma, text.to(latents.device))
        from reward.models.trunk import num_transformer_blocks

        blocks = num_transformer_blocks(self.generator)
        if blocks is None:
            raise InputError(
                f"The blocks of {self.generator.name!r} are not known, which a shared critic needs: "
                "set critic_trunk to own."
            )
        with adapters_disabled(self.generator.transformer):
            tokens, mask = self.generator.features(latents, sigma, conditions, max(1, blocks // 2))
        weights = mask.float()[..., None]
        pooled = (tokens.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
        return CriticInputs(F.layer_norm(pooled, pooled.shape[1:]), sigma, text.to(latents.device))

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Before the first rewards were seen, values have no scale; afterwards it stays."""
        if self.network.scale == 0:
            self.network.offset.copy_(mean)
            self.network.scale.copy_(std.clamp(min=1e-4))

    @torch.no_grad()
    def values(self, inputs: CriticInputs) -> Tensor:
        """Values `[rows]`."""
        return self.network(inputs)

    def fit(
        self, inputs: CriticInputs, returns: Tensor, epochs: int, batch_size: int, random: torch.Generator
    ) -> Tensor:
        """Regression of `returns [rows]`; gives the mean squared error of the last pass in units of the scale."""
        scale = self.network.scale
        losses: list[Tensor] = []
        with torch.enable_grad():
            for _ in range(epochs):
                losses = []
                for rows in (
                    torch.randperm(len(returns), generator=random).to(returns.device).split(batch_size)
                ):
                    error = (self.network(inputs[rows]) - returns[rows]) / scale
                    loss = error.square().mean()
                    self.optimiser.zero_grad()
                    loss.backward()
                    for parameter in self.network.parameters():
                        if parameter.grad is not None:
                            parameter.grad.copy_(self.average(parameter.grad))
                    torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                    self.optimiser.step()
                    losses.append(loss.detach())
        return torch.stack(losses).mean()

    def state(self) -> dict[str, Any]:
        """Weights and optimiser, for checkpoints."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
