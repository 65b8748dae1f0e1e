"""From the trunk's tokens to scores: what a head sees, attention pooling, and the two kinds of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from reward.models.frames import FrameReader
from reward.models.latent_config import LatentRewardConfig
from reward.models.matching import TextVideoMatching


@dataclass
class Features:
    """Inputs of the head from a batch of videos; the trunk's part of the work, which can be kept.

    Attributes:
        tokens: `[batch, levels, tokens, dim]` layer-normalised hidden states; an all-zero token is padding.
        is_video: `[batch, tokens]` which tokens are the video's, the others being text and time.
        evidence: `[batch, numbers]` implicit evidence; no columns where it is off.
        text: `[batch, words, text_size]` embeddings of the prompt where the trunk does not see it, zero where a
            word is padding; no words otherwise.
        quality: `[batch, levels, tokens, dim]` hidden states of the video without its prompt, for the dimensions
            that must not see it; no tokens where `tokens` do not see it either, or no such dimension exists.
        sigma: `[batch, levels]` noise level of each.
        pixels: `[batch, 3, frames, height, width]` the decoded video; no frames where no head looks at it.
    """

    tokens: Tensor
    is_video: Tensor
    evidence: Tensor
    text: Tensor
    quality: Tensor
    sigma: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def __getitem__(self, index: Any) -> Features:
        return Features(**{name: value[index] for name, value in self.tensors().items()})

    def to(self, device: torch.device) -> Features:
        return Features(**{name: value.to(device) for name, value in self.tensors().items()})

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        """Joins batches; tokens and words are zero-padded to the longest."""

        def join(name: str) -> Tensor:
            values = [getattr(part, name) for part in parts]
            dim = {"tokens": 2, "quality": 2, "is_video": 1, "text": 1}.get(name)
            if dim is not None:
                longest = max(value.shape[dim] for value in values)
                values = [_padded(value, dim, longest) for value in values]
            return torch.cat(values)

        return Features(**{item.name: join(item.name) for item in fields(Features)})


def _padded(value: Tensor, dim: int, longest: int) -> Tensor:
    shape = list(value.shape)
    shape[dim] = longest - shape[dim]
    return torch.cat([value, value.new_zeros(shape)], dim=dim) if shape[dim] else value


class QueryPooling(nn.Module):
    """Learned queries attend over some of the tokens; returns their values, joined `[batch, queries·dim]`.

    This is multi-head attention whose queries do not depend on the input. So keys need no projection of
    their own (it merges with the queries), and values are projected after the weighted mean, not before: a
    tenth of the work.
    """

    def __init__(self, feature_size: int, hidden_size: int, num_queries: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Linear(feature_size, num_queries * num_heads, bias=False)
        self.values = nn.Parameter(
            torch.randn(num_heads, feature_size, hidden_size // num_heads) * feature_size**-0.5
        )

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """`tokens [batch, tokens, dim]`, of which the queries see those where `attended [batch, tokens]` is
        set.

        A query may also attend to nothing (a logit and a value of 0), so that a family without text tokens
        in its stream is no special case.
        """
        logits = self.queries(tokens).masked_fill(~attended[..., None], float("-inf"))
        weights = torch.cat([logits, logits.new_zeros(len(logits), 1, logits.shape[2])], dim=1).softmax(dim=1)
        pooled = torch.einsum("b t k, b t d -> b k d", weights[:, :-1], tokens)
        pooled = rearrange(pooled, "b (q h) d -> b q h d", h=self.num_heads)
        return torch.einsum("b q h d, h d e -> b q h e", pooled, self.values).flatten(1)


def zero_initialised(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights and bias: an untrained head scores everything 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class QualityHead(nn.Module):
    """Pooled video tokens to numbers; it never sees the prompt."""

    def __init__(self, config: LatentRewardConfig, feature_size: int, outputs: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.pooling = QueryPooling(feature_size, hidden, 1, config.num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            zero_initialised(nn.Linear(hidden, outputs)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens [batch, tokens, dim]`, zero where padding, to `[batch, outputs]`."""
        return self.mlp[-1](self.last_layer(tokens))

    def last_layer(self, tokens: Tensor) -> Tensor:
        """`[batch, hidden_size]`, of which the outputs are a linear layer."""
        return self.mlp[:-1](self.pooling(tokens, (tokens != 0).any(dim=-1)))


class NoiseScale(nn.Module):
    """Scale and shift of the raw scores at each noise level: the noisier the latents, the less they tell.

    It starts as the identity; the trunk itself knows the noise level of its tokens.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 16), nn.GELU(), zero_initialised(nn.Linear(16, 2 * num_outputs))
        )

    def forward(self, raw: Tensor, sigma: Tensor) -> Tensor:
        """`raw [batch, levels, outputs]` at `sigma [batch, levels]`."""
        clamped = sigma.clamp(1e-3, 1 - 1e-3)
        inputs = torch.stack([clamped, torch.log((1 - clamped) / clamped) / 4], dim=-1)
        scale, shift = self.net(inputs.to(raw.dtype)).chunk(2, dim=-1)
        return raw * (1 + scale) + shift


class Evidence(nn.Module):
    """Standardised implicit evidence to one number a dimension, linearly: a few hundred rankings fit that."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.linear = zero_initialised(nn.Linear(size, outputs))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, evidence: Tensor) -> None:
        """Stores mean and standard deviation of `evidence [videos, numbers]`."""
        self.mean.copy_(evidence.mean(0))
        self.std.copy_(evidence.std(0, correction=0).clamp(min=1e-6))

    def forward(self, evidence: Tensor) -> Tensor:
        return self.linear(self.standardised(evidence))

    def standardised(self, evidence: Tensor) -> Tensor:
        """Evidence `[videos, numbers]` with the training videos' mean taken away, in their standard deviations."""
        return (evidence - self.mean) / self.std


class RewardHead(nn.Module):
    """Pooled tokens and evidence to one score a dimension (and one log variance, where scores are Gaussian).

    Text and video tokens are pooled apart, and the head sees both and their product: whether a video shows
    what its prompt says is an interaction of the two, which a few hundred rankings do not teach a plain
    perceptron. The dimensions of `PROMPT_FREE` are judged apart, from tokens that never met the prompt.
    """

    def __init__(self, config: LatentRewardConfig, feature_size: int, evidence_size: int) -> None:
        super().__init__()
        self.config = config
        numbers = 2 if config.gaussian else 1
        with_prompt, without = len(config.judged_with_prompt), len(config.prompt_free)
        self.order = [*config.judged_with_prompt, *config.prompt_free]
        self.quality = QualityHead(config, feature_size, numbers * without) if without else None
        self.evidence = Evidence(evidence_size, with_prompt) if evidence_size and with_prompt else None
        if not with_prompt:
            return
        hidden, pooled = config.hidden_size, config.num_queries * config.hidden_size
        self.video_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.text_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.frames = None
        if config.decoded_frames:
            self.frames = FrameReader(hidden)
            self.frame_pooling = QueryPooling(hidden, hidden, config.num_queries, config.num_heads)
            self.frame_norm = nn.LayerNorm(pooled)
        self.video_norm, self.text_norm = nn.LayerNorm(pooled), nn.LayerNorm(pooled)
        self.mlp = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear((5 if config.decoded_frames else 3) * pooled, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            zero_initialised(nn.Linear(hidden, numbers * with_prompt)),
        )

    def forward(self, features: Features) -> Tensor:
        """`[batch, levels, dimensions]` raw scores; where they are Gaussian, their log variances follow."""
        batch, levels = features.tokens.shape[:2]
        numbers = 2 if self.config.gaussian else 1
        parts = []
        if self.config.judged_with_prompt:
            scores = self._with_prompt(features).unflatten(1, (numbers, -1))
            if self.evidence is not None:
                evidence = repeat(self.evidence(features.evidence), "b k -> (b s) k", s=levels)
                scores = torch.cat([scores[:, :1] + evidence[:, None], scores[:, 1:]], dim=1)
            parts.append(scores)
        if self.quality is not None:
            tokens = features.quality if self.config.judged_with_prompt else features.tokens
            quality = self.quality(rearrange(tokens.float(), "b s t d -> (b s) t d"))
            parts.append(quality.unflatten(1, (numbers, -1)))
        places = [self.order.index(name) for name in self.config.dimensions]
        return rearrange(torch.cat(parts, dim=2)[:, :, places], "(b s) n k -> b s (n k)", b=batch)

    def last_layer(self, features: Features, dimension: str) -> Tensor:
        """`[batch, levels, numbers]`, in which the raw score of a dimension is linear."""
        if dimension in self.config.judged_with_prompt:
            found = self.mlp[:-1](self._pooled(features))
            return _with_evidence(found, self.evidence, features)
        assert self.quality is not None
        tokens = features.quality if self.config.judged_with_prompt else features.tokens
        found = self.quality.last_layer(rearrange(tokens.float(), "b s t d -> (b s) t d"))
        return rearrange(found, "(b s) d -> b s d", b=len(features))

    def _with_prompt(self, features: Features) -> Tensor:
        """`[batch·levels, outputs]` of the dimensions that see the prompt."""
        return self.mlp(self._pooled(features))

    def _pooled(self, features: Features) -> Tensor:
        """`[batch·levels, 3·queries·hidden_size]`: video, prompt and their product; with decoded frames these and
        their product with the prompt too."""
        levels = features.tokens.shape[1]
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        is_video = repeat(features.is_video, "b t -> (b s) t", s=levels)
        present = (tokens != 0).any(dim=-1)
        video = self.video_norm(self.video_pooling(tokens, present & is_video))
        text = self.text_norm(self.text_pooling(tokens, present & ~is_video))
        parts = [video, text, video * text]
        if self.frames is not None:
            seen = self.frames(features.pixels)
            seen = self.frame_norm(self.frame_pooling(seen, seen.new_ones(seen.shape[:2], dtype=torch.bool)))
            seen = repeat(seen, "b d -> (b s) d", s=levels)
            parts += [seen, seen * text]
        return torch.cat(parts, dim=1)


def _with_evidence(found: Tensor, evidence: Evidence | None, features: Features) -> Tensor:
    """`found [batch·levels, numbers]` and the standardised evidence as `[batch, levels, all numbers]`."""
    found = rearrange(found, "(b s) d -> b s d", b=len(features))
    if evidence is None:
        return found
    seen = repeat(evidence.standardised(features.evidence), "b k -> b s k", s=found.shape[1])
    return torch.cat([found, seen], dim=2)


class MatchingHead(nn.Module):
    """Match of prompt and video, and what the video alone shows, to one score a dimension (and one log variance,
    where scores are Gaussian).

    The dimensions of `PROMPT_FREE` get no match. Implicit evidence has a linear path, as in `RewardHead`.
    """

    sees_prompt: Tensor

    def __init__(
        self, config: LatentRewardConfig, feature_size: int, text_size: int, evidence_size: int
    ) -> None:
        super().__init__()
        hidden, count = config.hidden_size, len(config.dimensions)
        self.matching = TextVideoMatching(feature_size, text_size, hidden, config.num_heads, config.dropout)
        self.config = config
        self.match_weight = nn.Parameter(torch.ones(count))
        sees_prompt = torch.tensor([float(name in config.judged_with_prompt) for name in config.dimensions])
        self.register_buffer("sees_prompt", sees_prompt)
        self.quality = QualityHead(config, feature_size, (2 if config.gaussian else 1) * count)
        self.evidence = Evidence(evidence_size, count) if evidence_size else None

    def forward(self, features: Features) -> Tensor:
        """`[batch, levels, dimensions]` raw scores; where they are Gaussian, their log variances follow."""
        batch, levels = features.tokens.shape[:2]
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        text = repeat(features.text.float(), "b w d -> (b s) w d", s=levels)
        seen = self.matching(tokens, text)[:, None] * self.match_weight
        if self.evidence is not None:
            seen = seen + repeat(self.evidence(features.evidence), "b k -> (b s) k", s=levels)
        count = len(self.sees_prompt)
        raw = self.quality(tokens)
        raw = torch.cat([raw[:, :count] + seen * self.sees_prompt, raw[:, count:]], dim=1)
        return rearrange(raw, "(b s) k -> b s k", b=batch)

    def last_layer(self, features: Features, dimension: str) -> Tensor:
        """`[batch, levels, numbers]`, in which the raw score of a dimension is linear."""
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        found = self.quality.last_layer(tokens)
        if dimension not in self.config.judged_with_prompt:
            return rearrange(found, "(b s) d -> b s d", b=len(features))
        text = repeat(features.text.float(), "b w d -> (b s) w d", s=features.tokens.shape[1])
        found = torch.cat([found, self.matching.last_layer(tokens, text)], dim=1)
        return _with_evidence(found, self.evidence, features)
