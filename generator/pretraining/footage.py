"""Camera clips for pretraining: windows of native size from a folder of videos, with or without captions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import T5Tokenizer

from generator.data.demonstrations import read_demonstrations
from generator.native.text_encoder import tokenize
from generator.output import InputError
from generator.pretraining.data import FPS, CaptionedScenes, ClipKind, SceneStream
from generator.video import frame_indices, read_resized

logger = logging.getLogger(__name__)

SIDE = 8
"""Sides are multiples of this many pixels: a spatial patch of latents."""


@dataclass
class FootageBatch:
    """Camera clips of one kind, in the place of rendered scenes.

    Attributes:
        kind: their size and frame rate.
        clips: uint8 `[batch, 3, frames, height, width]`.
        input_ids, attention_mask: of the captions, `[batch, length]`.
    """

    kind: ClipKind
    clips: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """`(num_frames, height, width)` of the clips."""
        return self.kind.size

    def render(self, device: torch.device) -> Tensor:
        """Clips `[batch, 3, frames, height, width]` in [-1, 1] on `device`."""
        return self.clips.to(device, non_blocking=True).float() / 127.5 - 1


def footage_size(height: int, width: int, longest_side: int) -> tuple[int, int]:
    """Height and width in multiples of 8, of nearly the same aspect ratio, none larger than asked for or the video's.

    Raises:
        InputError: the video is smaller than 8 pixels.
    """
    if min(height, width) < SIDE:
        raise InputError(f"A video of {height}x{width} pixels was found: the least is {SIDE}x{SIDE}.")
    scale = min(1.0, longest_side / max(height, width))
    sides = (min(round(side * scale / SIDE) * SIDE, side // SIDE * SIDE) for side in (height, width))
    new_height, new_width = (max(side, SIDE) for side in sides)
    return new_height, new_width


def windows(num_frames: int, fps: float, longest: int, rate: float = FPS) -> list[tuple[float, int]]:
    """Start in seconds and frames (4k + 1, at most `longest`) of the clips that cover a video, at `rate` a second."""
    available = max(1, int(num_frames / fps * rate + 1e-6)) if fps > rate else num_frames
    rate = min(fps, rate)
    found: list[tuple[float, int]] = []
    start = 0
    while start < available:
        count = (min(longest, available - start) - 1) // 4 * 4 + 1
        if count == 1 and found:  # a rest of single frames would be images of what is known already
            break
        found.append((start / rate, count))
        start += count
    return found


class Footage:
    """All windows of the videos of a folder, in memory as bytes: 3 x frames x height x width each.

    Args:
        folder: videos with `metadata.jsonl` or text files; one without a caption has the empty prompt.
        tokenizer: of the text encoder.
        longest_side: pixels to which larger videos are reduced.
        num_frames: frames of a window, 4k + 1.
        rate: frames a second to which faster videos are thinned out.

    Raises:
        InputError: there is no usable video in the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        tokenizer: T5Tokenizer,
        longest_side: int,
        num_frames: int,
        rate: float = FPS,
    ) -> None:
        self.tokenizer = tokenizer
        self.clips: dict[ClipKind, list[tuple[Tensor, str]]] = {}
        videos = read_demonstrations(folder, skip_bad=True, require_prompts=False)
        for demonstration in tqdm(videos, desc="Reading footage", unit="video"):
            try:
                video, fps = read_resized(demonstration.video, lambda h, w: footage_size(h, w, longest_side))
                fps = fps if video.shape[1] > 1 else rate  # a still has no rate of its own
            except InputError as error:
                logger.warning("A video is left out: %s", error)
                continue
            for start, count in windows(video.shape[1], fps, num_frames, rate):
                clip = video[:, frame_indices(video.shape[1], fps, count, min(fps, rate), start)]
                kind = ClipKind(count, clip.shape[2], clip.shape[3], min(fps, rate))
                self.clips.setdefault(kind, []).append((clip.clone(), demonstration.prompt))
        if not self.clips:
            raise InputError(f"{folder} holds no usable video: name a folder with camera clips.")
        logger.info("%d windows of %d videos.", sum(map(len, self.clips.values())), len(videos))

    def shares(self) -> dict[ClipKind, float]:
        """Every kind with its share of the pixels; the shares sum to 1."""
        pixels = {kind: len(clips) * clips[0][0].numel() for kind, clips in self.clips.items()}
        return {kind: count / sum(pixels.values()) for kind, count in pixels.items()}

    def batch(self, stream: SceneStream, generator: torch.Generator) -> FootageBatch:
        """Random windows of one kind, as many as `stream` puts into a batch; with repetition where there are few."""
        shares = self.shares()
        kind = list(shares)[
            int(torch.multinomial(torch.tensor(list(shares.values())), 1, generator=generator))
        ]
        known = self.clips[kind]
        rows = torch.randint(len(known), (stream.clips(kind),), generator=generator).tolist()
        ids, mask = tokenize(self.tokenizer, [known[row][1] for row in rows])
        return FootageBatch(kind, torch.stack([known[row][0] for row in rows]), ids, mask)


class MixedStream:
    """Rendered scenes and footage in one stream, with `SceneStream`'s operations.

    Args:
        scenes: the stream of rendered scenes.
        footage: the camera clips.
        share: of the batches that are footage; with 1 no scene is rendered.
        seed: of the choice.
    """

    def __init__(self, scenes: SceneStream, footage: Footage, share: float, seed: int) -> None:
        self.scenes = scenes
        self.footage = footage
        self.share = share
        self.seed = seed
        self.start = scenes.start
        self.mix: dict[ClipKind, float] = {}
        for shares, weight in ((scenes.mix, 1 - share), (footage.shares(), share)):
            for kind, value in shares.items():
                self.mix[kind] = self.mix.get(kind, 0.0) + weight * value
        self.mix = {kind: value for kind, value in self.mix.items() if value > 0}

    def clips(self, kind: ClipKind) -> int:
        """Clips of this kind in one batch."""
        return self.scenes.clips(kind)

    def loader(self, num_workers: int) -> Iterator[CaptionedScenes | FootageBatch]:
        """Endless batches."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.start)
        scenes: Iterable[Any] = self.scenes.loader(num_workers) if self.share < 1 else ()
        rendered = iter(scenes)
        while True:
            if torch.rand((), generator=generator) < self.share:
                yield self.footage.batch(self.scenes, generator)
            else:
                yield next(rendered)
