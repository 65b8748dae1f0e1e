"""Pairs of latents for a stage: of finer clips, and of their coarse versions upsampled again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import T5Tokenizer

from generator.cascade.conditioning import ResidualStatistics
from generator.cascade.resampling import keep_frames, reduce
from generator.cascade.stage import FACTORS, stage_input
from generator.families.native import NativeGenerator
from generator.pretraining.cascade.config import StageConfig
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import CaptionedScenes, ClipKind, SceneStream
from generator.pretraining.footage import Footage, FootageBatch, MixedStream
from generator.pretraining.latent_pool import LatentBatch, LatentPool
from generator.pretraining.prefetch import rounds_of_draws, when_ready

STATISTICS_BATCHES = 8
CAPTION_TOKENS = 12


def stage_mix(config: StageConfig) -> dict[ClipKind, float]:
    """Kinds of the finer clips with their shares of the batches, which sum to 1.

    Half of them have `stage_frames`, and half of the rest half as many; a spatial stage sees images too, as one-frame
    videos. Of several sides the smaller ones come more often, so that every side gets about the same time.
    """
    time = 16 if config.stage == "temporal" else 4
    half = max((config.stage_frames - 1) // 2 // time, 1) * time + 1
    lengths = {config.stage_frames: 0.5}
    lengths[half] = lengths.get(half, 0.0) + 0.35
    if config.stage == "spatial":
        lengths[1] = 0.15
    shares = {side: 1 / side for side in config.sides}
    mix = {
        ClipKind(frames, side, side, config.stage_fps): weight * share
        for frames, weight in lengths.items()
        for side, share in shares.items()
    }
    total = sum(mix.values())
    return {kind: value / total for kind, value in mix.items()}


class StageScenes(SceneStream):
    """`SceneStream` of the sizes of a stage, with captions that are all right: a stage follows what it sees.

    Args:
        tokenizer: of the text encoder.
        config: of the stage.
        general: of pretraining.
        start: number of batches already consumed.
    """

    def __init__(
        self, tokenizer: T5Tokenizer, config: StageConfig, general: PretrainConfig, start: int = 0
    ) -> None:
        super().__init__(
            tokenizer,
            general.transformer_tokens,
            (4, 8),
            CAPTION_TOKENS,
            0.0,
            0.0,
            general.seed,
            start,
            general.scene_reuse,
        )
        self.mix = stage_mix(config)


def stage_stream(
    codec: NativeGenerator, config: StageConfig, general: PretrainConfig, start: int = 0
) -> StageScenes | MixedStream:
    """Rendered scenes, mixed with camera clips where `general` names a folder of them."""
    scenes = StageScenes(codec.pipeline.tokenizer, config, general, start)
    if general.footage is None:
        return scenes
    tokenizer, side = codec.pipeline.tokenizer, max(config.sides)
    footage = Footage(general.footage, tokenizer, side, config.stage_frames, config.stage_fps)
    usable = {kind: clips for kind, clips in footage.clips.items() if _halves(kind, config)}
    footage.clips = usable or footage.clips
    return MixedStream(scenes, footage, general.footage_share, general.seed)


def _halves(kind: ClipKind, config: StageConfig) -> bool:
    """Returns whether clips of a kind have a coarse version that the stage brings back to their size."""
    if config.stage == "temporal":
        return kind.num_frames > FACTORS["temporal"] and (kind.num_frames - 1) % FACTORS["temporal"] == 0
    return kind.height % 8 == 0 and kind.width % 8 == 0


def coarse(clips: Tensor, stage: str) -> Tensor:
    """Input of a stage from finer clips `[batch, 3, frames, height, width]`: every fourth frame, or half the sides."""
    return keep_frames(clips, FACTORS[stage]) if stage == "temporal" else reduce(clips, FACTORS[stage])


@torch.no_grad()
def encode_pairs(codec: NativeGenerator, clips: Tensor, stage: str) -> Tensor:
    """Latents `[batch, channels, frames, height, width]` of clips in [-1, 1], and behind them those of the stage's
    input."""
    clips = clips.to(codec.device)
    return torch.cat([codec.encode(clips), stage_input(stage, codec, coarse(clips, stage))], dim=1)


def measure_residual(
    codec: NativeGenerator, batches: Iterable[CaptionedScenes | FootageBatch], stage: str
) -> tuple[list[float], list[float]]:
    """Gain and standard deviation of each latent channel (`generator.cascade.conditioning.residual`)."""
    channels = codec.pipeline.vae.config.latent_channels
    statistics = ResidualStatistics(channels)
    for batch in batches:
        pairs = encode_pairs(codec, batch.render(codec.device)[:16], stage)
        statistics.add(pairs[:, :channels], pairs[:, channels : 2 * channels])
    return statistics.result()


@dataclass
class StageBatches:
    """Endless batches for a stage: each new batch of clips is encoded once, and drawn from for some time.

    Attributes:
        codec: whose latents they are.
        config: of the stage.
        general: of pretraining.
        stream: of clips.
    """

    codec: NativeGenerator
    config: StageConfig
    general: PretrainConfig
    stream: StageScenes | MixedStream

    def __iter__(self) -> Iterator[LatentBatch]:
        general, stream, tokenizer = self.general, self.stream, self.codec.pipeline.tokenizer
        dtype = torch.bfloat16 if self.codec.device.type == "cuda" else torch.float32
        pool = LatentPool(
            general.pool_gigabytes,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            general.caption_dropout,
        )
        new_clips: Iterable[Any] = stream.loader(general.num_workers)
        if general.num_workers:
            new_clips = when_ready(new_clips)
        for index, clips in rounds_of_draws(new_clips, stream.start):
            if clips is not None:
                self._add(pool, clips, dtype)
            generator = torch.Generator().manual_seed(general.seed * 1_000_003 + index)
            kinds = list(pool.rings)
            shares = torch.tensor([stream.mix[kind] for kind in kinds])
            for choice in torch.multinomial(shares, general.scene_reuse, True, generator=generator).tolist():
                yield pool.draw(kinds[choice], stream.clips(kinds[choice]), generator)

    def _add(self, pool: LatentPool, clips: CaptionedScenes | FootageBatch, dtype: torch.dtype) -> None:
        """Encodes a batch of clips, few at a time as a GPU's memory allows, and keeps it."""
        rendered = clips.render(self.codec.device)
        parts = [
            encode_pairs(self.codec, part, str(self.config.stage)).to(dtype) for part in rendered.split(32)
        ]
        pool.add(clips.kind, self.stream.mix[clips.kind], torch.cat(parts), clips.input_ids)
