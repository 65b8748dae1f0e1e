"""Text–video matching by late interaction: every word of the prompt looks for its evidence in the video.

The words' embeddings attend to the video's tokens, each word gets a match score from what it found, and the
scores are added (ColBERT, arXiv 2004.12832; FILIP, arXiv 2111.07783). Neither side depends on the other before
that, so one pass of the trunk for a video and one of the text encoder for a prompt score all their combinations:
matching is learned contrastively from demonstrations, whose prompts are right, before a few hundred rankings say
what people prefer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn


class TextVideoMatching(nn.Module):
    """Head that judges how well videos match prompts.

    Args:
        video_size, text_size: widths of the tokens of both sides.
        hidden_size: width of the interaction.
        num_heads: attention heads.
        dropout: on what a word found.
    """

    def __init__(
        self, video_size: int, text_size: int, hidden_size: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.video = nn.Linear(video_size, hidden_size)
        self.video_norm = nn.LayerNorm(hidden_size)
        self.key, self.value = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.text = nn.Linear(text_size, hidden_size)
        self.context = nn.Conv1d(hidden_size, hidden_size, kernel_size=5, padding=2)
        self.text_norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.from_text = nn.Linear(hidden_size, hidden_size)
        self.from_video = nn.Linear(hidden_size, hidden_size, bias=False)
        self.from_both = nn.Linear(hidden_size, hidden_size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, video: Tensor, text: Tensor) -> Tensor:
        """Match scores `[batch]` of `video [batch, tokens, video_size]` and `text [batch, words, text_size]`.

        An all-zero row is padding, on both sides.
        """
        return self._interact(video, text, paired=True)[:, 0]

    def all_pairs(self, video: Tensor, text: Tensor) -> Tensor:
        """Match scores `[videos, prompts]` of every video with every prompt."""
        return self._interact(video, text, paired=False)

    def last_layer(self, video: Tensor, text: Tensor) -> Tensor:
        """`[batch, hidden_size]`, in which the match score is linear, up to a constant of the prompt: what the last
        layer reads of all words."""
        hidden, weight = self._look(video, text, paired=True)
        return self._over_words(F.gelu(hidden), weight[..., None])[:, 0]

    def _interact(self, video: Tensor, text: Tensor, paired: bool) -> Tensor:
        hidden, weight = self._look(video, text, paired)
        return self._over_words(self.score(self.dropout(F.gelu(hidden)))[..., 0], weight)

    @staticmethod
    def _over_words(values: Tensor, weight: Tensor) -> Tensor:
        return (values * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1).sqrt()

    def _look(self, video: Tensor, text: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
        """Results of what each word found `[videos, prompts, words, hidden_size]`, and which are words."""
        is_token, is_word = (video != 0).any(dim=2), (text != 0).any(dim=2)
        tokens = self.video_norm(self.video(video))
        words = self.text(text) * is_word[..., None]
        # Neighbouring words say to which object an attribute belongs.
        words = self.text_norm(words + self.context(words.transpose(1, 2)).transpose(1, 2))
        keys, values = (
            rearrange(project(tokens), "b n (h d) -> b h n d", h=self.num_heads)
            for project in (self.key, self.value)
        )
        queries = rearrange(self.query(words), "p l (h d) -> h p l d", h=self.num_heads)
        count = len(words)
        if paired:
            queries = rearrange(queries, "h b l d -> b h l d")
        else:
            queries = repeat(queries, "h p l d -> b h (p l) d", b=len(video))
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=is_token[:, None, None])
        found = rearrange(found, "b h (p l) d -> b p l (h d)", p=1 if paired else count)
        asked = words[:, None] if paired else words[None]
        hidden = (
            self.from_text(asked) + self.from_video(found) + F.linear(found * asked, self.from_both.weight)
        )
        return hidden, (is_word[:, None] if paired else is_word[None]).to(hidden.dtype)


def contrastive_loss(scores: Tensor) -> Tensor:
    """Symmetric InfoNCE of `scores [n, n]` whose diagonal holds the true pairs (CLIP, arXiv 2103.00020)."""
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
