"""From the trunk's tokens to scores: what a head sees, attention pooling, and the two kinds of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from reward.models.latent_config import LatentRewardConfig
from reward.models.matching import PROMPT_FREE, TextVideoMatching


@dataclass
class Features:
    """What the head sees of a batch of videos; the trunk's part of the work, which can be kept.

    Attributes:
        tokens: `[batch, levels, tokens, dim]` layer-normalised hidden states; an all-zero token is padding.
        is_video: `[batch, tokens]` which tokens are the video's, the others being text and time.
        evidence: `[batch, numbers]` implicit evidence; no columns where it is off.
        text: `[batch, words, text_size]` embeddings of the prompt where the trunk does not see it, zero where a
            word is padding; no words otherwise.
    """

    tokens: Tensor
    is_video: Tensor
    evidence: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Features:
        return Features(self.tokens[index], self.is_video[index], self.evidence[index], self.text[index])

    def to(self, device: torch.device) -> Features:
        return Features(
            *(value.to(device) for value in (self.tokens, self.is_video, self.evidence, self.text))
        )

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        """Joins batches; tokens and words are zero-padded to the longest."""
        longest_video = max(part.tokens.shape[2] for part in parts)
        longest_text = max(part.text.shape[1] for part in parts)

        def pad(value: Tensor, dim: int, longest: int) -> Tensor:
            shape = list(value.shape)
            shape[dim] = longest - shape[dim]
            return torch.cat([value, value.new_zeros(shape)], dim=dim) if shape[dim] else value

        return Features(
            torch.cat([pad(part.tokens, 2, longest_video) for part in parts]),
            torch.cat([pad(part.is_video, 1, longest_video) for part in parts]),
            torch.cat([part.evidence for part in parts]),
            torch.cat([pad(part.text, 1, longest_text) for part in parts]),
        )


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


class RewardHead(nn.Module):
    """Pooled tokens and evidence to one score a dimension.

    Text and video tokens are pooled apart, and the head sees both and their product: whether a video shows
    what its prompt says is an interaction of the two, which a few hundred rankings do not teach a plain
    perceptron.
    """

    evidence_mean: Tensor
    evidence_std: Tensor

    def __init__(self, config: LatentRewardConfig, feature_size: int, evidence_size: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        pooled = config.num_queries * hidden
        self.video_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.text_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.video_norm, self.text_norm = nn.LayerNorm(pooled), nn.LayerNorm(pooled)
        self.mlp = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(3 * pooled, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            zero_initialised(nn.Linear(hidden, len(config.dimensions))),
        )
        # Evidence has a linear path of its own, which a few hundred rankings are enough to fit.
        self.evidence = (
            zero_initialised(nn.Linear(evidence_size, len(config.dimensions))) if evidence_size else None
        )
        self.register_buffer("evidence_mean", torch.zeros(evidence_size))
        self.register_buffer("evidence_std", torch.ones(evidence_size))

    def forward(self, features: Features) -> Tensor:
        """Raw scores `[batch, levels, dimensions]`."""
        batch, levels = features.tokens.shape[:2]
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        is_video = repeat(features.is_video, "b t -> (b s) t", s=levels)
        present = (tokens != 0).any(dim=-1)
        video = self.video_norm(self.video_pooling(tokens, present & is_video))
        text = self.text_norm(self.text_pooling(tokens, present & ~is_video))
        raw = self.mlp(torch.cat([video, text, video * text], dim=1))
        scores = rearrange(raw, "(b s) k -> b s k", b=batch)
        if self.evidence is not None:
            evidence = (features.evidence - self.evidence_mean) / self.evidence_std
            scores = scores + self.evidence(evidence)[:, None]
        return scores


class MatchingHead(nn.Module):
    """Match of prompt and video, and what the video alone shows, to one score a dimension.

    The dimensions of `PROMPT_FREE` get no match. Implicit evidence has a linear path, as in `RewardHead`.
    """

    evidence_mean: Tensor
    sees_prompt: Tensor
    evidence_std: Tensor

    def __init__(
        self, config: LatentRewardConfig, feature_size: int, text_size: int, evidence_size: int
    ) -> None:
        super().__init__()
        hidden, count = config.hidden_size, len(config.dimensions)
        self.matching = TextVideoMatching(feature_size, text_size, hidden, config.num_heads, config.dropout)
        self.match_weight = nn.Parameter(torch.ones(count))
        sees_prompt = torch.tensor([float(name not in PROMPT_FREE) for name in config.dimensions])
        self.register_buffer("sees_prompt", sees_prompt)
        self.pooling = QueryPooling(feature_size, hidden, 1, config.num_heads)
        self.quality = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            zero_initialised(nn.Linear(hidden, count)),
        )
        self.evidence = zero_initialised(nn.Linear(evidence_size, count)) if evidence_size else None
        self.register_buffer("evidence_mean", torch.zeros(evidence_size))
        self.register_buffer("evidence_std", torch.ones(evidence_size))

    def forward(self, features: Features) -> Tensor:
        """Raw scores `[batch, levels, dimensions]`."""
        batch, levels = features.tokens.shape[:2]
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        text = repeat(features.text.float(), "b w d -> (b s) w d", s=levels)
        match = self.matching(tokens, text)[:, None] * (self.match_weight * self.sees_prompt)
        raw = match + self.quality(self.pooling(tokens, (tokens != 0).any(dim=-1)))
        if self.evidence is not None:
            evidence = self.evidence((features.evidence - self.evidence_mean) / self.evidence_std)
            raw = raw + repeat(evidence * self.sees_prompt, "b k -> (b s) k", s=levels)
        return rearrange(raw, "(b s) k -> b s k", b=batch)
