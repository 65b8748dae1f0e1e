"""Endless captioned clips for pretraining: worker processes sample scenes, the training device renders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import T5Tokenizer

from generator.native.text_encoder import tokenize
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


@dataclass
class CaptionedScenes:
    """One batch of one size: scenes to render and the captions' token ids."""

    size: tuple[int, int, int]
    packed_scenes: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def render(self, device: torch.device) -> Tensor:
        """Clips `[batch, 3, frames, height, width]` in [-1, 1] on `device`."""
        return render_scenes(SceneBatch.unpack(self.packed_scenes), *self.size, fps=FPS, device=device)


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
        start: number of batches already consumed, for resuming.
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
    ) -> None:
        self.tokenizer = tokenizer
        self.budget = budget
        self.patch = patch
        self.text_cost = text_cost
        self.wrong_share = wrong_share
        self.caption_dropout = caption_dropout
        self.seed = seed
        self.start = start

    def clips(self, num_frames: int, height: int, width: int) -> int:
        """Clips of this size in one batch."""
        time, side = self.patch
        units = ((num_frames - 1) // time + 1) * (height // side) * (width // side)
        return max(self.budget // (units + self.text_cost), 1)

    def batch(self, index: int) -> CaptionedScenes:
        """Batch number `index`, the same on every machine."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        weights = torch.tensor([weight for *_, weight in SIZES])
        num_frames, height, width, _ = SIZES[int(torch.multinomial(weights, 1, generator=generator))]
        count = self.clips(num_frames, height, width)
        prompts, scenes, _ = training_batch(
            count,
            seed=self.seed * 1_000_003 + index,
            split="train",
            num_frames=num_frames,
            height=height,
            width=width,
            fps=FPS,
            wrong_share=self.wrong_share,
        )
        dropped = torch.rand(count, generator=generator) < self.caption_dropout
        prompts = ["" if drop else prompt for prompt, drop in zip(prompts, dropped.tolist(), strict=True)]
        ids, mask = tokenize(self.tokenizer, prompts)
        return CaptionedScenes((num_frames, height, width), scenes.pack(), ids, mask)

    def __iter__(self) -> Iterator[CaptionedScenes]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        index = self.start + offset
        while True:
            yield self.batch(index)
            index += step

    def loader(self, num_workers: int) -> DataLoader[CaptionedScenes]:
        """Batches in order from `num_workers` processes."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=4 if num_workers else None,
            multiprocessing_context="spawn" if num_workers else None,
        )
