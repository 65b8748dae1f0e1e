"""Endless captioned clips for pretraining: worker processes sample scenes, the training device renders them.

Sampling a scene costs a worker far more than reading one, so each worker keeps a pool of captioned scenes for every
size: a batch is drawn from the pool without repetition, and one part in `reuse` of it is new. Noise, noise level and
dropped captions are drawn anew at every use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import T5Tokenizer

from generator.native.text_encoder import MAX_TEXT_TOKENS, tokenize
from generator.world import SceneBatch, render_scenes, training_batch

FPS = 8.0

SIZES: tuple[tuple[int, int, int, float], ...] = (
    (1, 32, 32, 0.3),
    (1, 64, 64, 0.3),
    (9, 32, 32, 6.0),
    (9, 32, 48, 0.5),
    (9, 48, 32, 0.5),
    (9, 48, 48, 0.8),
    (9, 64, 64, 0.6),
    (13, 32, 32, 0.5),
    (13, 40, 72, 0.4),
    (13, 72, 40, 0.4),
    (17, 32, 32, 0.5),
    (17, 48, 48, 0.5),
    (17, 48, 72, 0.5),
    (17, 72, 48, 0.5),
    (17, 64, 64, 1.6),
)
"""`(frames, height, width, weight)` of the training mix; five aspect ratios, images and up to two seconds of video."""

KEY_FRAME_SIZES: tuple[tuple[int, int, int, float, float], ...] = (
    (5, 32, 32, 2.0, 0.5),
    (5, 32, 32, 4.0, 0.5),
    (9, 32, 32, 2.0, 2.0),
    (9, 32, 32, 4.0, 2.0),
    (9, 32, 32, 8.0, 2.0),
    (9, 48, 48, 4.0, 0.5),
    (9, 64, 64, 2.0, 0.5),
    (9, 64, 64, 4.0, 0.5),
    (9, 64, 64, 8.0, 0.5),
)
"""`(frames, height, width, fps, weight)` of clips whose frames are encoded each as an image, for long videos."""


IMAGE_SIZES: tuple[tuple[int, int, float], ...] = (
    (32, 32, 6.0),
    (32, 48, 0.5),
    (48, 32, 0.5),
    (48, 48, 1.0),
    (64, 64, 2.0),
)
"""`(height, width, weight)` of the mix of an image model."""


class ClipKind(NamedTuple):
    """Size of a clip in frames and pixels, frames a second, and whether each frame is encoded as an image."""

    num_frames: int
    height: int
    width: int
    fps: float = FPS
    key_frames: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """`(num_frames, height, width)`."""
        return self.num_frames, self.height, self.width


def shares(weights: Mapping[ClipKind, float], whole: float = 1.0) -> dict[ClipKind, float]:
    """Shares in proportion to the weights of kinds of clips, which sum to `whole`."""
    total = sum(weights.values())
    return {kind: whole * weight / total for kind, weight in weights.items()}


def training_mix(key_frame_share: float = 0.0) -> dict[ClipKind, float]:
    """Every kind of clip with its share of the batches; the shares sum to 1."""
    videos = {ClipKind(f, h, w): weight for f, h, w, weight in SIZES}
    stills = {ClipKind(f, h, w, fps, True): weight for f, h, w, fps, weight in KEY_FRAME_SIZES}
    mix: dict[ClipKind, float] = {}
    for kinds, share in ((videos, 1 - key_frame_share), (stills, key_frame_share)):
        if share > 0:
            mix |= shares(kinds, share)
    return mix


def image_mix() -> dict[ClipKind, float]:
    """Kinds of one-frame clips with their shares of the batches of an image model; the shares sum to 1."""
    return shares({ClipKind(1, height, width): weight for height, width, weight in IMAGE_SIZES})


@dataclass
class CaptionedScenes:
    """One batch of one kind: scenes to render and the captions' token ids."""

    kind: ClipKind
    packed_scenes: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """`(num_frames, height, width)` of the clips."""
        return self.kind.size

    def render(self, device: torch.device) -> Tensor:
        """Clips `[batch, 3, frames, height, width]` in [-1, 1] on `device`."""
        return render_scenes(
            SceneBatch.unpack(self.packed_scenes), *self.size, fps=self.kind.fps, device=device
        )


class ScenePool:
    """Captioned scenes of one size that are used several times each; the oldest make room for new ones.

    Args:
        capacity: how many scenes the pool holds once enough have come in.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.scenes = torch.empty(0)
        self.ids = torch.empty(0, MAX_TEXT_TOKENS, dtype=torch.int32)
        self.filled = 0
        self.added = 0

    def add(self, packed_scenes: Tensor, input_ids: Tensor) -> None:
        """Adds scenes `[n, columns]` with token ids `[n, length]`, over the oldest ones once the pool is full."""
        if len(self.scenes) == 0:
            self.scenes = packed_scenes.new_empty(self.capacity, packed_scenes.shape[1])
            self.ids = torch.zeros(self.capacity, MAX_TEXT_TOKENS, dtype=torch.int32)
        rows = (self.added + torch.arange(len(packed_scenes))) % self.capacity
        self.scenes[rows] = packed_scenes
        self.ids[rows] = 0
        self.ids[rows, : input_ids.shape[1]] = input_ids.int()
        self.added += len(rows)
        self.filled = min(self.added, self.capacity)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Different random scenes `[count, columns]` and their token ids `[count, MAX_TEXT_TOKENS]`."""
        rows = torch.randperm(self.filled, generator=generator)[:count]
        return self.scenes[rows], self.ids[rows].long()


class SceneStream(IterableDataset[CaptionedScenes]):
    """Batches of random size from `SIZES`, by `cost` so that every batch costs about the same.

    Args:
        tokenizer: of the text encoder.
        budget: what a batch may cost.
        patch: pixels `(time, side)` that make one unit of cost; `(1, 1)` counts pixels, `(4, 8)` tokens.
        text_cost: units that a caption adds to each clip.
        wrong_share: share of wrong captions.
        caption_dropout: share of captions replaced by "".
        seed: of everything.
        start: number of batches already consumed, for resuming; the pools start anew.
        reuse: how often a captioned scene is used on average; with 1 every clip is new and a batch depends on its
            number alone.
        key_frame_share: share of batches whose frames are to be encoded each as an image.
        several: weight of scenes with several objects, relative to the world's own mix.
        mix: kinds of clips with their shares of the batches; `training_mix(key_frame_share)` where not given.
    """

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        budget: int,
        patch: tuple[int, int],
        text_cost: int,
        wrong_share: float,
        caption_dropout: float,
        seed: int,
        start: int = 0,
        reuse: int = 1,
        key_frame_share: float = 0.0,
        several: float = 1.0,
        mix: dict[ClipKind, float] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.budget = budget
        self.patch = patch
        self.text_cost = text_cost
        self.wrong_share = wrong_share
        self.caption_dropout = caption_dropout
        self.seed = seed
        self.start = start
        self.reuse = reuse
        self.several = several
        self.mix = training_mix(key_frame_share) if mix is None else mix
        self.pools: dict[ClipKind, ScenePool] = {}

    def clips(self, kind: ClipKind) -> int:
        """Clips of this kind in one batch."""
        time, side = self.patch
        frames = kind.num_frames if kind.key_frames else (kind.num_frames - 1) // time + 1
        units = frames * (kind.height // side) * (kind.width // side)
        return max(self.budget // (units + self.text_cost), 1)

    def batch(self, index: int) -> CaptionedScenes:
        """Batch number `index`; the same batches asked for in the same order are the same on every machine."""
        seed = self.seed * 1_000_003 + index
        generator = torch.Generator().manual_seed(seed)
        shares = torch.tensor(list(self.mix.values()))
        kind = list(self.mix)[int(torch.multinomial(shares, 1, generator=generator))]
        count = self.clips(kind)
        packed, ids = self._captioned(kind, count, seed, generator)
        dropped = torch.rand(count, generator=generator) < self.caption_dropout
        ids[dropped] = 0
        ids[dropped, 0] = self.tokenizer.eos_token_id  # what "" becomes
        mask = (ids != self.tokenizer.pad_token_id).long()
        length = int(mask.sum(1).max())
        return CaptionedScenes(kind, packed, ids[:, :length].contiguous(), mask[:, :length].contiguous())

    def _captioned(
        self, kind: ClipKind, count: int, seed: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`count` packed scenes and their token ids, new ones or from the pool of this kind."""
        pool = self.pools.setdefault(kind, ScenePool(count * self.reuse)) if self.reuse > 1 else None
        fresh = count if pool is None or pool.filled == 0 else math.ceil(count / self.reuse)
        prompts, scenes, _ = training_batch(
            fresh,
            seed=seed,
            split="train",
            num_frames=kind.num_frames,
            height=kind.height,
            width=kind.width,
            fps=kind.fps,
            wrong_share=self.wrong_share,
            several=self.several,
        )
        packed, ids = scenes.pack(), tokenize(self.tokenizer, prompts)[0]
        if pool is None:
            return packed, ids
        pool.add(packed, ids)
        return pool.draw(count, generator)

    def __iter__(self) -> Iterator[CaptionedScenes]:
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:  # many processes with a pool of threads each would only wait for one another
            torch.set_num_threads(1)
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        index = self.start + offset
        while True:
            yield self.batch(index)
            index += step

    def loader(self, num_workers: int) -> DataLoader[CaptionedScenes]:
        """Batches from `num_workers` processes as they get ready: a slow one holds up nobody.

        With more than one process the order of batches depends on timing, so it differs from run to run.
        """
        return DataLoader(
            self,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=8 if num_workers else None,
            multiprocessing_context="spawn" if num_workers else None,
            in_order=num_workers == 0,
        )
