"""Packed rows from the pool of encoded clips, for pretraining with `pack`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generator.native.latent_pool import (
    LENGTH_GROUPS,
    LatentPool,
    PackedLatentBatch,
    sample_known_frames,
    text_length,
)
from generator.native.packing import ClipShape, on_device, pack_layout, pack_rows, sample_kept_tokens
from generator.native.pretrain_data import ClipKind
from generator.native.text_encoder import MAX_TEXT_TOKENS
from generator.native.transformer import NativeVideoTransformer3DModel

CLIP_STEP = 64
"""Numbers of clips are rounded up to this, so that few different shapes of batches occur."""


class Candidate(NamedTuple):
    """A clip of the pool that waits for a row: where it is, its caption's length, and the patches that are kept.

    `added` is the pool's count when the clip came in, by which it is known whether another has taken its place.
    """

    kind: ClipKind
    row: int
    added: int
    text: int
    kept: np.ndarray


class RowsFromPool:
    """Endless packed rows of clips that a `LatentPool` holds.

    A clip of a kind is as likely as in batches of one kind.

    Args:
        pool: encoded clips; may grow between rows.
        transformer: for which the rows are.
        row_length: tokens of a row.
        chance: of a clip of each kind, up to a common factor.
        seconds: duration of one latent frame of a kind.
        dropped: share of video tokens to leave out, asked before every row.
        seed: of the order, of dropped tokens and captions, and of known frames.
    """

    def __init__(
        self,
        pool: LatentPool,
        transformer: NativeVideoTransformer3DModel,
        row_length: int,
        chance: Callable[[ClipKind], float],
        seconds: Callable[[ClipKind], float],
        dropped: Callable[[], float],
        seed: int,
    ) -> None:
        self.pool = pool
        self.transformer = transformer
        self.row_length = row_length
        self.chance = chance
        self.seconds = seconds
        self.dropped = dropped
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.rows = pack_rows(self._candidates(), row_length)

    def draw(self) -> PackedLatentBatch:
        """The next row, without clips that have made room for newer ones while they waited."""
        row = next(self.rows)
        return self._batch([c for c in row if int(self.pool.rings[c.kind].arrivals[c.row]) == c.added])

    def _candidates(self) -> Iterator[tuple[Candidate, int]]:
        time_token = self.transformer.time_modulation is None
        while True:
            kinds = list(self.pool.rings)
            tokens = np.array([self._shape(kind).tokens for kind in kinds])
            chances = np.array([self.chance(kind) for kind in kinds])
            for choice in self.random.choice(len(kinds), size=64, p=chances / chances.sum()):
                kind = kinds[choice]
                ring = self.pool.rings[kind]
                row = int(self.random.integers(ring.filled))
                text = 1 if self.random.random() < self.pool.caption_dropout else int(ring.lengths[row])
                kept = sample_kept_tokens([int(tokens[choice])], self.dropped(), self.random)[0]
                yield Candidate(kind, row, int(ring.arrivals[row]), text, kept), text + time_token + len(kept)

    def _shape(self, kind: ClipKind) -> ClipShape:
        shape = self.pool.rings[kind].latents.shape
        return self.transformer.clip_shape(shape, self.seconds(kind), kind.key_frames)

    def _batch(self, row: list[Candidate]) -> PackedLatentBatch:
        row = sorted(row, key=lambda candidate: candidate.text)  # captions of similar length stand together
        device = self.pool.rings[row[0].kind].latents.device
        slots = -(-len(row) // CLIP_STEP) * CLIP_STEP
        patches, begins, captions = self._gather(row)
        ids, starts = self._captions(row, slots, captions)
        shapes = [self._shape(candidate.kind) for candidate in row]
        layout = pack_layout(
            shapes,
            [candidate.text for candidate in row],
            starts,
            sum(group.numel() for group in ids),
            self.transformer.time_modulation is None,
            self.row_length,
            [candidate.kept for candidate in row],
            self.transformer.config.attention == "separable",
            slots,
            MAX_TEXT_TOKENS + 1 + max(self._shape(kind).tokens for kind in self.pool.rings),
        )
        places = torch.where(
            layout.is_video, torch.from_numpy(begins)[layout.clip] + layout.patch, len(patches) - 1
        )
        known = self._known(row, [s.frames for s in shapes])
        areas = torch.tensor([s.height * s.width for s in shapes])
        known = known[layout.clip, layout.patch // areas[layout.clip]] & layout.is_video
        lengths = tuple(group.shape[1] for group in ids)
        return PackedLatentBatch(
            patches=patches.index_select(0, on_device(places, device)).float(),
            layout=layout.to(device),
            captions=ids,
            masks=[(group != self.pool.pad_token_id).long() for group in ids],
            known=on_device(known, device),
            shape=(slots, *lengths, *layout.full.longest),
            clips=len(row),
        )

    def _known(self, row: list[Candidate], frames: list[int]) -> Tensor:
        """Which frames `[clips, most frames]` are given; each clip with the pool's chance."""
        most = max(frames)
        known = torch.zeros(len(row), most, dtype=torch.bool)
        for index, count in enumerate(frames):
            if count > 1 and self.random.random() < self.pool.known_share:
                known[index, :count] = sample_known_frames(1, count, self.generator)[0]
        return known

    def _captions(self, row: list[Candidate], slots: int, ids: Tensor) -> tuple[list[Tensor], list[int]]:
        """Token ids in `LENGTH_GROUPS` groups `[slots / groups, length]`, and where each caption begins in them."""
        empty = ids.new_full((1, ids.shape[1]), self.pool.pad_token_id)
        empty[:, 0] = self.pool.eos_token_id
        dropped = torch.tensor([candidate.text == 1 for candidate in row])  # one token: the empty caption
        ids = torch.where(on_device(dropped, ids.device)[:, None], empty, ids)
        ids = torch.cat([ids, empty.expand(slots - len(row), -1)])
        size = slots // LENGTH_GROUPS
        groups: list[Tensor] = []
        starts: list[int] = []
        offset = 0
        for first in range(0, slots, size):
            part = row[first : first + size]
            length = text_length(max((candidate.text for candidate in part), default=1))
            groups.append(ids[first : first + size, :length].long())
            starts += [offset + place * length for place in range(len(part))]
            offset += size * length
        return groups, starts

    def _gather(self, row: list[Candidate]) -> tuple[Tensor, np.ndarray, Tensor]:
        """All patches of the clips, kind by kind, with a row of zeros at the end; where each clip's begin; and the
        captions `[clips, most tokens]` in the order of the row."""
        by_kind = defaultdict(list)
        for index, candidate in enumerate(row):
            by_kind[candidate.kind].append((index, candidate.row))
        begins, offset = np.zeros(len(row), dtype=np.int64), 0
        parts: list[Tensor] = []
        captions: list[Tensor] = []
        order = []
        for kind, pairs in by_kind.items():
            ring = self.pool.rings[kind]
            rows = on_device(torch.tensor([place for _, place in pairs]), ring.latents.device)
            patches = self.transformer.patchify(ring.latents.index_select(0, rows))
            begins[[index for index, _ in pairs]] = offset + np.arange(len(pairs)) * patches.shape[1]
            parts.append(patches.flatten(0, 1))
            captions.append(ring.ids.index_select(0, rows))
            order += [index for index, _ in pairs]
            offset += len(parts[-1])
        place = on_device(torch.tensor(order).argsort(), parts[0].device)
        return F.pad(torch.cat(parts), (0, 0, 0, 1)), begins, torch.cat(captions).index_select(0, place)
