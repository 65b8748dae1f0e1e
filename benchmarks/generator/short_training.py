"""Short training runs of the built-in transformer from one set of encoded clips, for benchmarks that compare them."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.families.native import NativeGenerator
from generator.hardware.compilation import compile_each
from generator.inputs.packing import dropped_share
from generator.native.building import build_pipeline
from generator.native.pipeline import NativeVideoPipeline
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import CaptionedScenes, ClipKind, SceneStream
from generator.pretraining.flow_loss import FlowMatchingLoss, PackedFlowMatchingLoss, seconds_per_latent
from generator.pretraining.latent_pool import LatentBatch, LatentPool, PackedLatentBatch
from generator.pretraining.model_card import gold_scores
from generator.pretraining.packed_pool import RowsFromPool
from generator.pretraining.phase import Phase
from generator.pretraining.pretrain import CAPTION_TOKENS, HEAD_DIM, encode_clips

HELD_OUT_SEED = 977


@dataclass
class Clips:
    """Captioned scenes of many kinds, to be rendered and encoded by any autoencoder."""

    stream: SceneStream
    scenes: list[CaptionedScenes]


def collect(
    tokenizer: Any,
    config: PretrainConfig,
    seconds: float,
    least: int = 1,
    most: int = 500,
    sizes: dict[ClipKind, float] | None = None,
) -> Clips:
    """Scenes sampled for `seconds`, at least `least` batches and at most `most`.

    Args:
        sizes: kinds of clips with their shares; those of pretraining by default.
    """
    stream = SceneStream(
        tokenizer,
        config.transformer_tokens,
        (4, 8),
        CAPTION_TOKENS,
        config.wrong_share,
        0.0,
        config.seed,
        key_frame_share=config.key_frame_share,
        several=config.several_weight,
    )
    if sizes is not None:
        stream.mix = sizes
    scenes, end = [], None
    for batch in stream.loader(config.num_workers):
        end = end or time.monotonic() + seconds  # starting the workers does not count
        scenes.append(batch)
        if (time.monotonic() > end and len(scenes) >= least) or len(scenes) >= most:
            return Clips(stream, scenes)
    raise AssertionError("the stream is endless")


def encode(
    clips: Clips, pipeline: NativeVideoPipeline, config: PretrainConfig, device: torch.device
) -> LatentPool:
    """All clips, rendered and encoded by the pipeline's autoencoder."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = copy.deepcopy(pipeline.vae).to(dtype=dtype).eval()
    tokenizer = pipeline.tokenizer
    pool = LatentPool(
        100.0,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        config.caption_dropout,
        config.known_frames_share,
    )
    for scenes in clips.scenes:
        latents = encode_clips(vae, scenes.render(device), scenes.kind.key_frames).to(dtype)
        pool.add(scenes.kind, 1.0, latents, scenes.input_ids)
    return pool


def bucket_batches(pool: LatentPool, stream: SceneStream, seed: int) -> Iterator[LatentBatch]:
    """Endless batches of one kind each."""
    generator = torch.Generator().manual_seed(seed)
    kinds = list(pool.rings)
    shares = torch.tensor([stream.mix[kind] for kind in kinds])
    while True:
        kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
        yield pool.draw(kind, stream.clips(kind), generator)


def rows_from_pool(
    pool: LatentPool, stream: SceneStream, pipeline: NativeVideoPipeline, config: PretrainConfig, dropped: Any
) -> RowsFromPool:
    """Packed rows of `config.transformer_tokens` tokens."""
    return RowsFromPool(
        pool,
        pipeline.transformer,
        config.transformer_tokens,
        lambda kind: stream.mix[kind] * stream.clips(kind),
        lambda kind: seconds_per_latent(pipeline.vae, kind),
        dropped,
        config.seed,
    )


def new_pipeline(config: PretrainConfig, vae: torch.nn.Module, device: torch.device) -> NativeVideoPipeline:
    """A pipeline with a new transformer and text encoder as `vidalign pretrain` builds them, and this autoencoder."""
    pipeline = build_pipeline(
        transformer={
            "num_layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.hidden_size // HEAD_DIM,
            "patch_size": tuple(config.patch_size),
            "conditioning": config.conditioning,
            "long_skips": config.long_skips,
            "attention": config.attention,
            "initialization": config.initialization,
        },
        shift=config.shift,
        seed=config.seed,
    )
    pipeline.vae = vae
    return pipeline.to(device)


@dataclass
class Run:
    """A run: its phase with the history, and how many tokens and clips it was trained on."""

    phase: Phase
    tokens: float
    clips: int
    times: list[float] = field(default_factory=list)
    """Seconds of training before each batch."""
    counts: list[float] = field(default_factory=list)
    """Tokens up to each batch, that batch included."""

    @property
    def tokens_per_second(self) -> float:
        """Text and video tokens that were trained on, none of them padding."""
        return self.tokens / self.phase.elapsed

    @property
    def late_tokens_per_second(self) -> float:
        """The same of the second half, when all graphs are recorded."""
        half = len(self.times) // 2
        return (self.counts[-1] - self.counts[half]) / max(self.times[-1] - self.times[half], 1e-9)


def mean_caption(pool: LatentPool) -> float:
    """Mean number of text tokens of a clip that is drawn, dropped captions included."""
    lengths = torch.cat([ring.lengths[: ring.filled] for ring in pool.rings.values()]).float()
    return float(lengths.mean()) * (1 - pool.caption_dropout) + pool.caption_dropout


def real_tokens(
    batch: LatentBatch | PackedLatentBatch, pipeline: NativeVideoPipeline, caption: float
) -> float:
    """Tokens of a batch that are not padding; captions of batches of one kind count with their mean `caption`."""
    if isinstance(batch, PackedLatentBatch):
        return batch.layout.fill * len(batch.patches)
    return len(batch.latents) * (pipeline.transformer.clip_shape(batch.latents.shape, 1.0).tokens + caption)


def train(
    pipeline: NativeVideoPipeline,
    config: PretrainConfig,
    pool: LatentPool,
    stream: SceneStream,
    device: torch.device,
    seconds: float,
) -> Run:
    """Trains transformer and text encoder for `seconds`, by the recipe of `vidalign pretrain`."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.set_num_threads(1)
    modules = {"transformer": pipeline.transformer.train(), "text_encoder": pipeline.text_encoder.train()}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if config.compile_blocks:
        torch._dynamo.reset()  # an earlier run may have been of another size
        compile_each(pipeline.transformer.blocks)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, save_seconds=1e9)
        phase = Phase("run", modules, config, seconds, config.learning_rate, Path(folder) / "state.pt", dtype)
        run = Run(phase, 0.0, 0)
        kind = PackedFlowMatchingLoss if config.pack else FlowMatchingLoss
        loss = kind(pipeline, config.shift, config.channel_weight_power, config.logit_mean)
        rows = rows_from_pool(
            pool,
            stream,
            pipeline,
            config,
            lambda: dropped_share(phase.elapsed / seconds, config.token_dropping),
        )
        caption = mean_caption(pool)
        plain = bucket_batches(pool, stream, config.seed)

        def batches() -> Iterator[LatentBatch | PackedLatentBatch]:
            while True:
                batch = rows.draw() if config.pack else next(plain)
                run.tokens += real_tokens(batch, pipeline, caption)
                run.times.append(phase.elapsed)
                run.counts.append(run.tokens)
                yield batch

        phase.run(batches(), loss, device)
    for module in modules.values():
        module.float().eval()
    run.clips = phase.clips
    return run


def held_out(clips: Clips, batches: int) -> list[CaptionedScenes]:
    """Batches of scenes that no run trains on."""
    stream = copy.copy(clips.stream)
    stream.seed, stream.pools = HELD_OUT_SEED, {}
    return [stream.batch(index) for index in range(batches)]


@torch.no_grad()
def held_out_loss(
    pipeline: NativeVideoPipeline,
    batches: list[CaptionedScenes],
    config: PretrainConfig,
    device: torch.device,
) -> float:
    """Mean unweighted loss of the averaged weights on these scenes, with fixed noise."""
    loss = FlowMatchingLoss(pipeline, config.shift)
    values = []
    for index, scenes in enumerate(batches):
        latents = encode_clips(pipeline.vae, scenes.render(device), scenes.kind.key_frames)
        batch = LatentBatch(
            scenes.kind, latents, scenes.input_ids.to(device), scenes.attention_mask.to(device)
        )
        key, inputs = loss.prepare(batch, torch.Generator(device).manual_seed(index))
        values.append(float(loss.compute(key, inputs)[0]))
    return sum(values) / len(values)


@torch.no_grad()
def gold(
    pipeline: NativeVideoPipeline, prompts: list[str], size: tuple[int, int, int], steps: int = 10
) -> Tensor:
    """Gold score `[prompts]` of generated videos of `size`."""
    generator = NativeGenerator(pipeline, "run")
    videos = generator.generate(
        prompts,
        num_frames=size[0],
        height=size[1],
        width=size[2],
        num_inference_steps=steps,
        batch_size=128 if generator.device.type == "cuda" else 8,
    )
    return torch.tensor([one.score for one in gold_scores(videos, prompts, generator.device)])


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / max(len(values), 1) ** 0.5)
