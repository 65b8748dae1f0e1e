"""Encoded clips that stay on the training device and are drawn again, and the frames of a clip that are given.

Rendering and encoding a clip costs more than one step of a small transformer on it. So every clip is encoded once and
kept, a batch is drawn from all that are kept, and the oldest make room. Noise, noise levels, known frames and dropped
captions are drawn anew at every use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from generator.native.packing import PackedLayout
from generator.native.text_encoder import MAX_TEXT_TOKENS
from generator.pretraining.data import ClipKind

LENGTH_GROUPS = 4


@dataclass
class LatentBatch:
    """Clips of one kind, ready for the transformer.

    Attributes:
        kind: size, frame rate, and whether every frame is encoded as an image.
        latents: normalised, `[batch, channels, frames, height, width]`.
        input_ids, attention_mask: of the captions, `[batch, length]`.
        known: latent frames that are given, `[batch, frames]`, or None where none is.
    """

    kind: ClipKind
    latents: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    known: Tensor | None = None


@dataclass
class PackedLatentBatch:
    """Clips of all kinds in one row, ready for the transformer.

    Attributes:
        patches: clean patches `[length, channels of a patch]`, 0 where the row holds something else.
        layout: of the row.
        captions, masks: token ids and attention mask, one tensor `[clips, length]` for each group of similar length.
        known: patches that are given `[length]`.
        shape: what fixes the shapes of all tensors, for CUDA graphs.
        clips: how many there are.
    """

    patches: Tensor
    layout: PackedLayout
    captions: list[Tensor]
    masks: list[Tensor]
    known: Tensor
    shape: tuple[int, ...]
    clips: int


def sample_known_frames(batch: int, frames: int, generator: torch.Generator) -> Tensor:
    """Draws the latent frames `[batch, frames]` of each clip that are given: never all, and sometimes none.

    Patterns in equal shares: the first few, the last few, both ends, every second, every fourth, any subset. They are
    what animating an image, extending, connecting, and interpolating between key frames ask for.
    """
    place = torch.arange(frames).expand(batch, frames)
    number = torch.randint(1, max(frames, 2), (batch, 1), generator=generator)
    other = torch.randint(1, max(frames, 2), (batch, 1), generator=generator)
    offset = torch.randint(0, 2, (batch, 1), generator=generator)
    share = torch.rand(batch, 1, generator=generator)
    patterns = torch.stack(
        [
            place < number,
            place >= number,
            (place < torch.minimum(number, other)) | (place >= torch.maximum(number, other)),
            (place + offset) % 2 == 0,
            place % 4 == 0,
            torch.rand(batch, frames, generator=generator) < share,
        ]
    )
    choice = torch.randint(len(patterns), (batch,), generator=generator)
    known = patterns[choice, torch.arange(batch)]
    return known & ~known.all(dim=1, keepdim=True)


def text_length(longest: int) -> int:
    """The length to which captions are padded: a power of two from 8, so that few different lengths occur."""
    return min(max(8, 1 << (longest - 1).bit_length()), MAX_TEXT_TOKENS)


class _Ring:
    """Clips of one kind; grows up to `capacity`, then the newest replace the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.latents = torch.empty(0)
        self.ids = torch.empty(0)
        self.lengths = torch.empty(0, dtype=torch.long)
        self.arrivals = torch.empty(0, dtype=torch.long)
        self.filled = 0
        self.added = 0

    def add(self, latents: Tensor, ids: Tensor, lengths: Tensor) -> None:
        needed = min(self.added + len(latents), self.capacity)
        if needed > len(self.lengths):
            self._grow(min(max(2 * len(self.lengths), needed), self.capacity), latents, ids)
        rows = (self.added + torch.arange(len(latents))) % self.capacity
        self.lengths[rows] = lengths
        self.arrivals[rows] = self.added + torch.arange(len(latents))
        rows = rows.to(latents.device)
        self.latents[rows] = latents
        self.ids[rows] = ids
        self.added += len(latents)
        self.filled = min(self.added, self.capacity)

    def _grow(self, size: int, latents: Tensor, ids: Tensor) -> None:
        for name, like in (
            ("latents", latents),
            ("ids", ids),
            ("lengths", self.lengths),
            ("arrivals", self.arrivals),
        ):
            old = getattr(self, name)
            new = like.new_empty(size, *like.shape[1:])
            if self.filled:
                new[: self.filled] = old[: self.filled]
            setattr(self, name, new)


class LatentPool:
    """Encoded clips of every kind on one device.

    Args:
        gigabytes: what the latents may take, shared among kinds by their weight in the mix.
        pad_token_id, eos_token_id: of the tokenizer; a dropped caption becomes the end token alone, as "" does.
        caption_dropout: share of captions dropped.
        known_share: share of batches in which some frames are given.
    """

    def __init__(
        self,
        gigabytes: float,
        pad_token_id: int,
        eos_token_id: int,
        caption_dropout: float = 0.0,
        known_share: float = 0.0,
    ) -> None:
        self.bytes = gigabytes * 1e9
        self.pad_token_id = pad_token_id
        self.eos_token_id = eos_token_id
        self.caption_dropout = caption_dropout
        self.known_share = known_share
        self.rings: dict[ClipKind, _Ring] = {}

    def add(self, kind: ClipKind, share: float, latents: Tensor, input_ids: Tensor) -> None:
        """Keeps clips of one kind.

        Args:
            kind: of the clips.
            share: of the pool that this kind may take.
            latents: `[n, channels, frames, height, width]` on the device and in the dtype in which they stay.
            input_ids: `[n, length]` on the CPU.
        """
        if kind not in self.rings:
            row = latents[0].numel() * latents.element_size()
            self.rings[kind] = _Ring(max(int(share * self.bytes / row), len(latents)))
        ids = torch.full((len(latents), MAX_TEXT_TOKENS), self.pad_token_id, dtype=torch.int32)
        ids[:, : input_ids.shape[1]] = input_ids
        lengths = (input_ids != self.pad_token_id).sum(1)
        self.rings[kind].add(latents, ids.to(latents.device, non_blocking=True), lengths)

    def draw(self, kind: ClipKind, count: int, generator: torch.Generator) -> LatentBatch:
        """`count` random clips of `kind`, with captions of similar length so that little of the batch is padding.

        Every clip is equally likely: of four times as many the shortest, second, third or longest captions' quarter.
        """
        ring = self.rings[kind]
        rows = torch.randint(ring.filled, (LENGTH_GROUPS * count,), generator=generator)
        order = ring.lengths[rows].argsort()
        group = int(torch.randint(LENGTH_GROUPS, (), generator=generator))
        rows = rows[order][group * count : (group + 1) * count]
        length = text_length(int(ring.lengths[rows].max()))
        device = ring.latents.device
        dropped = torch.rand(count, generator=generator) < self.caption_dropout
        known = None
        frames = ring.latents.shape[2]
        if frames > 1 and torch.rand((), generator=generator) < self.known_share:
            known = sample_known_frames(count, frames, generator).to(device, non_blocking=True)
        rows = rows.to(device, non_blocking=True)
        ids = ring.ids[rows][:, :length].long()
        empty = torch.full((1, length), self.pad_token_id, device=device)
        empty[:, 0] = self.eos_token_id
        ids = torch.where(dropped.to(device, non_blocking=True)[:, None], empty, ids)
        return LatentBatch(kind, ring.latents[rows].float(), ids, (ids != self.pad_token_id).long(), known)
