"""Pretraining of the built-in generator, resumable, in wall-clock budgets.

The learning rate is constant after a short warm-up and falls linearly to zero in the last part of the time, so that a
run of any length ends annealed. Weights are averaged (EMA); what is saved is the average.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from generator.data.demonstrations import read_demonstrations
from generator.families.native import NativeGenerator
from generator.files.model_folders import find_pipeline
from generator.files.output_folder import MARK, Outputs, check_output_dir, empty_own, is_own, open_output_dir
from generator.files.pipeline_files import COMPONENT_FILES, PIPELINE_FILES
from generator.hardware.compilation import compile_each
from generator.inputs.packing import dropped_share
from generator.loading import DEFAULTS_NAME
from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.building import MAX_SHARD_SIZE, build_pipeline, save_pipeline
from generator.native.pipeline import NativeVideoPipeline
from generator.output import atomic_path, write_json
from generator.pretraining.config import HEAD_DIM, PretrainConfig
from generator.pretraining.data import CaptionedScenes, ClipKind, SceneStream, image_mix
from generator.pretraining.flow_loss import FlowMatchingLoss, PackedFlowMatchingLoss, seconds_per_latent
from generator.pretraining.footage import Footage, FootageBatch, MixedStream
from generator.pretraining.latent_pool import LatentBatch, LatentPool, PackedLatentBatch
from generator.pretraining.log import FOLDER, PretrainLog
from generator.pretraining.model_card import write_model_card
from generator.pretraining.packed_pool import RowsFromPool
from generator.pretraining.phase import STATE, Phase
from generator.pretraining.prefetch import rounds_of_draws, when_ready
from generator.pretraining.processes import Processes
from generator.pretraining.starting_weights import earlier_history, pipeline_folder, start_from

HISTORY = "history.json"
CAPTION_TOKENS = 12


@dataclass
class AutoencoderLoss:
    """MSE + 0.1 L1 + KL of clips rendered on the fly.

    Attributes:
        vae: the autoencoder.
        kl_weight: weight of the KL, mean per element.
        device: where clips are rendered.
    """

    vae: NativeVideoAutoencoder
    kl_weight: float
    device: torch.device

    def prepare(
        self, batch: CaptionedScenes, generator: torch.Generator
    ) -> tuple[tuple[int, ...], dict[str, Tensor]]:
        """Clips `[batch, 3, frames, height, width]` and the noise of their latents."""
        clips = batch.render(self.device)
        time, space = self.vae.temporal_compression_ratio, self.vae.spatial_compression_ratio
        _, _, frames, height, width = clips.shape
        shape = (
            len(clips),
            self.vae.config.latent_channels,
            (frames - 1) // time + 1,
            height // space,
            width // space,
        )
        noise = torch.randn(shape, generator=generator, device=self.device)
        return tuple(clips.shape), {"clips": clips, "noise": noise}

    def compute(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and PSNR in dB and KL in nats per element as metrics."""
        clips = inputs["clips"]
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.is_cuda):
            posterior = self.vae.encode(clips).latent_dist
            reconstruction = self.vae.decode(posterior.mean + posterior.std * inputs["noise"]).sample.float()
        error = reconstruction - clips
        mse = error.pow(2).mean()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        value = mse + 0.1 * error.abs().mean() + self.kl_weight * kl
        return value, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}


@torch.no_grad()
def encode_clips(vae: NativeVideoAutoencoder, clips: Tensor, key_frames: bool) -> Tensor:
    """Normalised latents of clips `[batch, 3, frames, height, width]`; with `key_frames` each frame is an image."""
    batch = len(clips)
    if key_frames:
        clips = rearrange(clips, "b c f h w -> (b f) c 1 h w")
    latents = vae.normalise(vae.encode(clips.to(vae.dtype)).latent_dist.mean.float())
    return rearrange(latents, "(b f) c 1 h w -> b c f h w", b=batch) if key_frames else latents


def latent_batches(
    pipeline: NativeVideoPipeline,
    config: PretrainConfig,
    stream: SceneStream | MixedStream,
    device: torch.device,
    progress: Callable[[], float] = lambda: 0.0,
) -> Iterator[LatentBatch | PackedLatentBatch]:
    """Endless batches for the transformer: one of new clips is rendered and encoded, `config.scene_reuse` are drawn.

    While no new clips are ready, more are drawn of those that are kept, as `rounds_of_draws` says. With
    `config.pack` they are packed rows, from which tokens are dropped as `progress` in [0, 1] says.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = copy.deepcopy(pipeline.vae).to(dtype=dtype).eval()
    tokenizer = pipeline.tokenizer
    pool = LatentPool(
        config.pool_gigabytes,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        config.caption_dropout,
        config.known_frames_share,
    )
    rows = RowsFromPool(
        pool,
        pipeline.transformer,
        config.transformer_tokens,
        lambda kind: stream.mix[kind] * stream.clips(kind),
        lambda kind: seconds_per_latent(pipeline.vae, kind),
        lambda: dropped_share(progress(), config.token_dropping),
        config.seed * 1_000_003 + stream.start,
    )
    new_scenes: Iterable[CaptionedScenes | FootageBatch | None] = stream.loader(config.num_workers)
    if config.num_workers:
        new_scenes = when_ready(new_scenes)
    rounds: Iterator[tuple[int, CaptionedScenes | FootageBatch | None]]
    rounds = rounds_of_draws(new_scenes, stream.start)
    for index, scenes in rounds:
        if scenes is not None:
            latents = encode_clips(vae, scenes.render(device), scenes.kind.key_frames).to(dtype)
            pool.add(scenes.kind, stream.mix[scenes.kind], latents, scenes.input_ids)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
        if config.pack:
            for _ in range(config.scene_reuse):
                yield rows.draw()
            continue
        kinds = list(pool.rings)
        shares = torch.tensor([stream.mix[kind] for kind in kinds])
        for choice in torch.multinomial(shares, config.scene_reuse, True, generator=generator).tolist():
            yield pool.draw(kinds[choice], stream.clips(kinds[choice]), generator)


@torch.no_grad()
def measure_latents(
    vae: NativeVideoAutoencoder, batches: Iterable[CaptionedScenes | FootageBatch], device: torch.device
) -> None:
    """Stores mean and standard deviation of each latent channel in the autoencoder's configuration."""
    latents = [
        vae.encode(batch.render(device)).latent_dist.mean.float().transpose(0, 1).flatten(1)
        for batch in batches
    ]
    joined = torch.cat(latents, dim=1)
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in joined.mean(dim=1).tolist()],
        latents_std=[round(v, 5) for v in joined.std(dim=1).tolist()],
    )


def with_footage(scenes: SceneStream, config: PretrainConfig) -> SceneStream | MixedStream:
    """The stream of scenes, mixed with camera clips where `config` names a folder of them."""
    if config.footage is None:
        return scenes
    frames = 1 if config.images_only else config.footage_frames
    footage = Footage(config.footage, scenes.tokenizer, config.footage_side, frames)
    return MixedStream(scenes, footage, config.footage_share, config.seed)


def own_mix(config: PretrainConfig) -> dict[ClipKind, float] | None:
    """Kinds of clips of an image model; None for the usual mix."""
    return image_mix() if config.images_only else None


def follow(phase: Phase, pipeline: NativeVideoPipeline, config: PretrainConfig) -> None:
    """Lets TensorBoard follow the phase, if it is to; of several processes, the first."""
    if config.tensorboard and phase.processes.is_first:
        phase.log = PretrainLog(config.output_dir, pipeline, 1 if config.images_only else None)


def own_clips(config: PretrainConfig, processes: Processes) -> PretrainConfig:
    """`config` with a seed of this process's own, for its clips; that of the first process is as it was."""
    return replace(config, seed=config.seed + 1_009 * processes.rank)


def autoencoder_stream(
    pipeline: NativeVideoPipeline, config: PretrainConfig, start: int
) -> SceneStream | MixedStream:
    """Clips of the autoencoder's training, from batch number `start` on."""
    scenes = SceneStream(
        pipeline.tokenizer,
        config.autoencoder_pixels,
        (1, 1),
        0,
        0.0,
        0.0,
        config.seed + 1,
        start,
        config.scene_reuse,
        mix=own_mix(config),
    )
    return with_footage(scenes, config)


def train_autoencoder(
    pipeline: NativeVideoPipeline, config: PretrainConfig, device: torch.device, processes: Processes
) -> list[dict[str, float]]:
    """Trains the autoencoder of `pipeline` in place and stores its latent statistics; returns the history."""
    vae = pipeline.vae.train()
    phase = Phase(
        "autoencoder",
        {"vae": vae},
        config,
        config.autoencoder_seconds,
        config.autoencoder_learning_rate,
        Path(config.output_dir) / STATE,
        processes=processes,
    )
    phase.resume()
    follow(phase, pipeline, config)
    stream = autoencoder_stream(pipeline, own_clips(config, processes), phase.step)
    phase.run(stream.loader(config.num_workers), AutoencoderLoss(vae, config.kl_weight, device), device)
    if not phase.finished:
        raise SliceDone(phase)
    vae.eval()
    stream = autoencoder_stream(pipeline, config, phase.step)  # the same clips in every process
    measure_latents(vae, itertools.islice(stream.loader(0), 16), device)
    return phase.history


class SliceDone(Exception):
    """A slice of a phase is over before its budget is used; the state is saved, and the next run goes on."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(
            f"The {phase.name} has been trained for {phase.elapsed:.0f} of {phase.seconds:.0f} s."
        )


def train_transformer(
    pipeline: NativeVideoPipeline, config: PretrainConfig, device: torch.device, processes: Processes
) -> list[dict[str, float]]:
    """Trains transformer and text encoder of `pipeline` in place; returns the history."""
    modules = {"transformer": pipeline.transformer.train(), "text_encoder": pipeline.text_encoder.train()}
    phase = Phase(
        "transformer",
        modules,
        config,
        config.transformer_seconds,
        config.learning_rate,
        Path(config.output_dir) / STATE,
        torch.bfloat16 if device.type == "cuda" else torch.float32,
        processes,
    )
    phase.resume()
    if config.compile_blocks:
        compile_each(pipeline.transformer.blocks)
    follow(phase, pipeline, config)
    config = own_clips(config, processes)
    scenes = SceneStream(
        pipeline.tokenizer,
        config.transformer_tokens,
        (4, 8),
        CAPTION_TOKENS,
        config.wrong_share,
        0.0,
        config.seed,
        start=phase.step // config.scene_reuse,
        key_frame_share=config.key_frame_share,
        several=config.several_weight,
        mix=own_mix(config),
    )
    stream = with_footage(scenes, config)
    kind = PackedFlowMatchingLoss if config.pack else FlowMatchingLoss
    loss = kind(pipeline, config.shift, config.channel_weight_power, config.logit_mean)
    batches = latent_batches(pipeline, config, stream, device, lambda: phase.elapsed / phase.seconds)
    phase.run(batches, loss, device)
    if not phase.finished:
        raise SliceDone(phase)
    for module in modules.values():
        module.eval()
    return phase.history


def forget_finished_run(output_dir: Path, keep_autoencoder: bool) -> None:
    """Deletes what a finished run has written into `output_dir`, so that a new one starts there."""
    kept = sorted(path.relative_to(output_dir).as_posix() for path in (output_dir / "autoencoder").rglob("*"))
    empty_own(output_dir.resolve(), OUTPUTS, keep=(MARK, *(kept if keep_autoencoder else ())))


def is_pretraining(folder: Path) -> bool:
    """Returns whether a folder without a mark is that of a pretraining, finished or not."""
    if (folder / STATE).is_file() or (folder / "autoencoder" / HISTORY).is_file():
        return True
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return index["_class_name"] == NativeVideoPipeline.__name__ and (folder / "metrics.json").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


OUTPUTS = Outputs(
    "pretrain",
    (
        *PIPELINE_FILES,
        *("README.md", "metrics.json", "samples.png", STATE, DEFAULTS_NAME, f"autoencoder/{HISTORY}"),
        *(f"autoencoder/vae/{name}" for name in COMPONENT_FILES),
        *(f"{FOLDER}/events.out.tfevents.*", f"{FOLDER}/*/events.out.tfevents.*"),
    ),
    early=(f"{FOLDER}/events.out.tfevents.*", f"{FOLDER}/*/events.out.tfevents.*"),
    is_record=is_pretraining,
)


def _check_sources(config: PretrainConfig) -> Path | None:
    """The folder of the pipeline whose autoencoder is used, if one is.

    Raises:
        InputError: what is to be read is not there; found before anything is deleted or trained.
    """
    if config.weights_from is not None:
        find_pipeline(config.weights_from)
    if config.footage is not None:
        read_demonstrations(config.footage, skip_bad=True, require_prompts=False)
    if config.autoencoder_from is None:
        return None
    return pipeline_folder(config.autoencoder_from)


def set_up_cuda() -> None:
    """Lets float32 products use TF32 and cuDNN choose its kernels; one thread launches them."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    # Little is computed on the CPU, and launching kernels must not wait for a team.
    torch.set_num_threads(1)


def _new_pipeline(config: PretrainConfig) -> NativeVideoPipeline:
    """The pipeline to train, with the weights that the configuration names, if any."""
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
    if config.weights_from is not None:
        start_from(pipeline, config.weights_from)
    return pipeline


def pretrain(config: PretrainConfig, device: torch.device) -> Path:
    """Runs what is left of pretraining and writes the pipeline, its model card and `metrics.json`.

    The processes of a launch train together: each has batches of its own, and the gradient is the mean of theirs. The
    first one writes. An interrupted run goes on from its last state when called again with the same configuration. Bad
    weights are never written: a slice that ends before its budget leaves only its state.

    Raises:
        InputError: `output_dir` holds a finished pipeline and `overwrite` is not set, an interrupted run there is of
            another architecture, or `hidden_size` does not divide into heads.
    """
    output_dir = Path(config.output_dir)
    config.check()
    config.check_width()
    processes = Processes()
    vae_source = _check_sources(config)
    finished = (output_dir / "model_index.json").is_file()
    unfinished = not finished and is_own(output_dir, OUTPUTS)
    if not unfinished:
        inputs = [config.weights_from] if config.weights_from is not None else []
        advice = "it holds a finished pipeline: name another folder or pass --overwrite"
        check_output_dir(
            output_dir, OUTPUTS, config.overwrite, inputs, advice if is_own(output_dir, OUTPUTS) else ""
        )
    if device.type == "cuda":
        set_up_cuda()
    pipeline = _new_pipeline(config)
    history = earlier_history(config)
    pipeline.to(device)
    autoencoder = output_dir / "autoencoder"
    known = unfinished and (autoencoder / "vae").is_dir()
    source = vae_source or (autoencoder if known else None)
    if source is not None:
        pipeline.vae = NativeVideoAutoencoder.from_pretrained(source, subfolder="vae").to(device).eval()
        if source == autoencoder:
            history["autoencoder"] = json.loads((autoencoder / HISTORY).read_text(encoding="utf-8"))
    processes.wait()  # all have seen the folder as it was
    if processes.is_first:
        open_output_dir(output_dir, OUTPUTS, config.overwrite, go_on=unfinished, rewrites=True)
        if finished:
            forget_finished_run(output_dir, keep_autoencoder=config.autoencoder_from is not None)
    processes.wait()  # none looks for a state that is about to be deleted
    if source is None:
        history["autoencoder"] = train_autoencoder(pipeline, config, device, processes)
        if processes.is_first:
            save_autoencoder(pipeline.vae, history["autoencoder"], autoencoder)
    pipeline.vae.requires_grad_(False)
    if config.transformer_seconds > 0:
        processes.wait()  # the state of the autoencoder's training, which all have read, makes way for the next
        history["transformer"] = train_transformer(pipeline, config, device, processes)
    processes.leave()
    if processes.is_first:
        finish(pipeline, config, history)
    return output_dir


def save_autoencoder(vae: NativeVideoAutoencoder, history: Sequence[dict[str, float]], folder: Path) -> None:
    """Writes a trained autoencoder in float16 and the history of its training."""
    with atomic_path(folder) as temporary:
        copy.deepcopy(vae).half().save_pretrained(temporary / "vae", max_shard_size=MAX_SHARD_SIZE)
        write_json(temporary / HISTORY, history)


def finish(
    pipeline: NativeVideoPipeline, config: PretrainConfig, history: dict[str, list[dict[str, float]]]
) -> None:
    """Writes the trained pipeline and its model card, which it measures."""
    output_dir = Path(config.output_dir)
    save_pipeline(pipeline, output_dir)
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.transformer):
        nn.Module.to(module, dtype=torch.float32)
    generator = NativeGenerator(pipeline, str(output_dir))
    if config.images_only:
        write_json(output_dir / DEFAULTS_NAME, {"num_frames": 1})
        generator.defaults = generator.defaults.replaced({"num_frames": 1})
    write_model_card(generator, config, history, output_dir)
