"""Packed rows from the pool of encoded clips, for pretraining with `pack`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from generator.inputs.packing import pack_rows, sample_kept_tokens
from generator.native.packing import ClipShape, PackedLayout, on_device, pack_layout
from generator.native.text_encoder import MAX_TEXT_TOKENS
from generator.native.transformer import NativeVideoTransformer3DModel
from generator.pretraining.data import ClipKind
from generator.pretraining.latent_pool import (
    LatentPool,
    PackedLatentBatch,
    sample_known_frames,
    text_length,
)

CLIP_STEP = 64
"""Numbers of clips are rounded up to this, so that few different shapes of batches occur."""
CAPTION_GROUPS = 2
"""Captions are encoded in groups of similar length: more of them mean less padding, but more and smaller kernels."""


class Candidate(NamedTuple):
    """A place in a row for any clip of this kind whose caption has `text` tokens (1: dropped); the kept patches."""

    kind: ClipKind
    text: int
    kept: np.ndarray


@dataclass
class RowPlan:
    """A row's layout, and which places of it each kind fills; many rows of other clips follow one plan.

    Attributes:
        layout: on the device.
        texts: of each kind, the number of tokens of each caption that is wanted, in the order of gathering.
        places: of each token, its row in the gathered patches; the row after the last is zero.
        captions: order of the row's clips within the gathered captions, on the device.
        dropped: which clips of the row have the empty caption `[clips, 1]`, on the device.
        frames: number of latent frames of each clip.
        frame: of each token, its clip and frame as one number, `clip * max(frames) + frame`, on the device.
        lengths: to which the groups of captions are padded.
        uses: how many more rows may follow the plan.
    """

    layout: PackedLayout
    texts: dict[ClipKind, np.ndarray]
    places: Tensor
    captions: Tensor
    dropped: Tensor
    frames: np.ndarray
    frame: Tensor
    lengths: list[int]
    uses: int


class ClipsByLength:
    """Rows of a pool's ring by the number of tokens of their captions."""

    def __init__(self) -> None:
        self.order = np.empty(0, dtype=np.int64)
        self.starts = self.counts = np.zeros(MAX_TEXT_TOKENS + 1, dtype=np.int64)

    def read(self, lengths: np.ndarray) -> None:
        """Takes the lengths `[rows]` of all captions."""
        self.order = np.argsort(lengths, kind="stable")
        self.counts = np.bincount(lengths, minlength=MAX_TEXT_TOKENS + 1)
        self.starts = np.cumsum(self.counts) - self.counts

    def draw(self, wanted: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
        """Random rows with captions of the `wanted` numbers of tokens, or None if there is none for one of them."""
        counts = self.counts[wanted]
        if not counts.all():
            return None
        offsets = (random.random(len(wanted)) * counts).astype(np.int64)
        return self.order[self.starts[wanted] + offsets]


class RowsFromPool:
    """Endless packed rows of clips that a `LatentPool` holds.

    A clip of a kind is as likely as in batches of one kind. Finding out which sizes share a row, and where their tokens
    stand, costs a CPU more than a GPU needs for a step; so `plan_uses` rows follow one plan, each with other clips of
    the same sizes and caption lengths.

    Args:
        pool: encoded clips; may grow between rows.
        transformer: for which the rows are.
        row_length: tokens of a row.
        chance: of a clip of each kind, up to a common factor.
        seconds: duration of one latent frame of a kind.
        dropped: share of video tokens to leave out, asked before every plan.
        seed: of the order, of dropped tokens and captions, and of known frames.
        plan_uses: rows that follow one plan.
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
        plan_uses: int = 8,
    ) -> None:
        self.pool = pool
        self.transformer = transformer
        self.row_length = row_length
        self.chance = chance
        self.seconds = seconds
        self.dropped = dropped
        self.plan_uses = plan_uses
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.rows = pack_rows(self.candidates(), row_length)
        self.index: dict[ClipKind, ClipsByLength] = {}
        self.plan: RowPlan | None = None
        self.slots = 0
        self.text_lengths = [0] * CAPTION_GROUPS

    def draw(self) -> PackedLatentBatch:
        """The next row."""
        while True:
            if self.plan is None or self.plan.uses == 0:
                self.plan = self._plan(next(self.rows))
            chosen = {kind: self._choose(kind, texts) for kind, texts in self.plan.texts.items()}
            found = {kind: rows for kind, rows in chosen.items() if rows is not None}
            if len(found) == len(chosen):
                self.plan.uses -= 1
                return self._batch(self.plan, found)
            self.plan = None  # newer clips have replaced all those with captions of one length

    def candidates(self) -> Iterator[tuple[Candidate, int]]:
        """Endless places for clips, with their numbers of tokens."""
        time_token = self.transformer.time_modulation is None
        while True:
            kinds = list(self.pool.rings)
            tokens = [self._shape(kind).tokens for kind in kinds]
            chances = np.array([self.chance(kind) for kind in kinds])
            choices = self.random.choice(len(kinds), size=64, p=chances / chances.sum())
            rings = [self.pool.rings[kinds[choice]] for choice in choices]
            rows = (self.random.random(64) * [ring.filled for ring in rings]).astype(np.int64)
            texts = [int(ring.lengths[row]) for ring, row in zip(rings, rows.tolist(), strict=True)]
            dropped = self.random.random(64) < self.pool.caption_dropout
            counts = [tokens[choice] for choice in choices]
            kept = sample_kept_tokens(counts, self.dropped(), self.random)
            for choice, text, empty, patches in zip(choices, texts, dropped, kept, strict=True):
                text = 1 if empty else text
                yield Candidate(kinds[choice], text, patches), text + time_token + len(patches)

    def _shape(self, kind: ClipKind) -> ClipShape:
        shape = self.pool.rings[kind].latents.shape
        return self.transformer.clip_shape(shape, self.seconds(kind), kind.key_frames)

    def _choose(self, kind: ClipKind, texts: np.ndarray) -> np.ndarray | None:
        """Rows of the ring of `kind` with captions of these lengths; any rows for dropped captions."""
        ring = self.pool.rings[kind]
        lengths = ring.lengths.numpy()
        index = self.index.get(kind)
        rows = None
        named = texts > 1
        for fresh in (False, True):
            if fresh or index is None:
                index = self.index.setdefault(kind, ClipsByLength())
                index.read(lengths[: ring.filled])
            found = index.draw(texts[named], self.random)
            if found is not None and (lengths[found] == texts[named]).all():
                rows = (self.random.random(len(texts)) * ring.filled).astype(np.int64)
                rows[named] = found
                break
        return rows

    def _plan(self, row: list[Candidate]) -> RowPlan:
        row = sorted(row, key=lambda candidate: candidate.text)  # captions of similar length stand together
        device = self.pool.rings[row[0].kind].latents.device
        self.slots = max(self.slots, -(-len(row) // CLIP_STEP) * CLIP_STEP)
        starts, num_text = self._caption_starts(row)
        kinds = {kind: self._shape(kind) for kind in self.pool.rings}
        shapes = [kinds[candidate.kind] for candidate in row]
        layout = pack_layout(
            shapes,
            [candidate.text for candidate in row],
            starts,
            num_text,
            self.transformer.time_modulation is None,
            self.row_length,
            [candidate.kept for candidate in row],
            self.transformer.config.attention == "separable",
            self.slots,
            MAX_TEXT_TOKENS + 1 + max(shape.tokens for shape in kinds.values()),
        )
        order: dict[ClipKind, list[int]] = defaultdict(list)
        for place, candidate in enumerate(row):
            order[candidate.kind].append(place)
        gathered = np.concatenate([np.array(places) for places in order.values()])
        tokens = np.array([shape.tokens for shape in shapes])
        begins = np.zeros(len(row), dtype=np.int64)
        begins[gathered] = np.cumsum(tokens[gathered]) - tokens[gathered]
        places = torch.where(
            layout.is_video, torch.from_numpy(begins)[layout.clip] + layout.patch, int(tokens.sum())
        )
        frames = np.array([shape.frames for shape in shapes])
        areas = torch.tensor([shape.height * shape.width for shape in shapes])
        return RowPlan(
            layout=layout.to(device),
            texts={kind: np.array([row[place].text for place in of]) for kind, of in order.items()},
            places=on_device(places, device),
            captions=on_device(torch.from_numpy(np.argsort(gathered)), device),
            dropped=on_device(torch.tensor([[candidate.text == 1] for candidate in row]), device),
            frames=frames,
            frame=on_device(
                layout.clip * int(frames.max())
                + torch.where(layout.is_video, layout.patch // areas[layout.clip], 0),
                device,
            ),
            lengths=list(self.text_lengths),
            uses=self.plan_uses,
        )

    def _caption_starts(self, row: list[Candidate]) -> tuple[list[int], int]:
        """Start of each caption in the groups of captions, one after the other, and their size.

        The padded lengths of the groups never fall, so that few different shapes of batches occur.
        """
        size = self.slots // CAPTION_GROUPS
        starts: list[int] = []
        offset = 0
        for group in range(CAPTION_GROUPS):
            part = row[group * size : (group + 1) * size]
            needed = text_length(max((candidate.text for candidate in part), default=1))
            length = self.text_lengths[group] = max(self.text_lengths[group], needed)
            starts += [offset + place * length for place in range(len(part))]
            offset += size * length
        return starts, offset

    def _batch(self, plan: RowPlan, rows: dict[ClipKind, np.ndarray]) -> PackedLatentBatch:
        device = plan.places.device
        patches, gathered = self._gather(rows, device)
        ids = self._captions(plan, gathered)
        return PackedLatentBatch(
            patches=patches.index_select(0, plan.places).float(),
            layout=plan.layout,
            captions=ids,
            masks=[(group != self.pool.pad_token_id).long() for group in ids],
            known=self._known(plan, device),
            shape=(*plan.lengths, *plan.layout.shape),
            clips=len(plan.frames),
        )

    def _known(self, plan: RowPlan, device: torch.device) -> Tensor:
        """Draws which tokens `[length]` are patches of given frames; each clip has some with the pool's chance."""
        known = torch.zeros(len(plan.frames), int(plan.frames.max()), dtype=torch.bool)
        chosen = (self.random.random(len(plan.frames)) < self.pool.known_share) & (plan.frames > 1)
        for frames in np.unique(plan.frames[chosen]):
            of = np.flatnonzero(chosen & (plan.frames == frames))
            known[of, :frames] = sample_known_frames(len(of), int(frames), self.generator)
        return on_device(known.flatten(), device).index_select(0, plan.frame) & plan.layout.is_video

    def _captions(self, plan: RowPlan, ids: Tensor) -> list[Tensor]:
        """Token ids in `CAPTION_GROUPS` groups `[slots / groups, length]` of gathered captions."""
        empty = ids.new_full((1, ids.shape[1]), self.pool.pad_token_id)
        empty[:, 0] = self.pool.eos_token_id
        ids = torch.where(plan.dropped, empty, ids.index_select(0, plan.captions))
        slots = len(plan.layout.full.query_ends) - 2
        ids = torch.cat([ids, empty.expand(slots - len(ids), -1)]).long()
        groups = ids.split(slots // CAPTION_GROUPS)
        return [group[:, :length] for group, length in zip(groups, plan.lengths, strict=True)]

    def _gather(self, rows: dict[ClipKind, np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
        """All patches of the clips, kind by kind, with a row of zeros at the end; and all captions."""
        index = on_device(torch.from_numpy(np.concatenate(list(rows.values()))), device)
        parts: list[Tensor] = []
        captions: list[Tensor] = []
        for kind, of in zip(rows, index.split([len(of) for of in rows.values()]), strict=True):
            ring = self.pool.rings[kind]
            parts.append(self.transformer.patchify(ring.latents.index_select(0, of)).flatten(0, 1))
            captions.append(ring.ids.index_select(0, of))
        return torch.cat([*parts, parts[0].new_zeros(1, parts[0].shape[1])]), torch.cat(captions)
