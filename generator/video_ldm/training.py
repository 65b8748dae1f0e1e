"""Training of temporal layers in a frozen image model: first those of the decoder, then those of the transformer."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from generator.data.demonstrations import read_demonstrations
from generator.families.native import NativeGenerator
from generator.files.output_folder import MARK, check_output_dir, empty_own, is_own, open_output_dir
from generator.hardware.compilation import compile_each
from generator.loading import load_generator
from generator.native.building import MAX_SHARD_SIZE, save_pipeline
from generator.output import InputError, atomic_path, write_json
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import SceneStream
from generator.pretraining.phase import STATE, Phase, read_state
from generator.pretraining.pretrain import (
    CAPTION_TOKENS,
    HISTORY,
    OUTPUTS,
    SliceDone,
    follow,
    latent_batches,
    set_up_cuda,
    with_footage,
)
from generator.video_ldm.autoencoder import VideoLDMAutoencoder
from generator.video_ldm.config import VideoLDMConfig
from generator.video_ldm.data import video_mix
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.flow_loss import DecoderLoss, VideoFlowMatchingLoss
from generator.video_ldm.model_card import write_video_card
from generator.video_ldm.pipeline import Inserted, VideoLDMPipeline, insert_temporal_layers

PATCH = (1, 8)
"""Frames and pixels along a side that make one token."""
DECODER_HISTORY = "decoder"
LAYERS_HISTORY = "temporal layers"

History = dict[str, list[dict[str, float]]]


def train_temporal_layers(config: PretrainConfig, video: VideoLDMConfig, device: torch.device) -> Path:
    """Runs what is left of training and writes the video model, its card and `metrics.json`.

    The decoder's temporal layers are trained for `config.autoencoder_seconds`, unless the source is a video model,
    whose decoder is used; then those of the transformer for `config.transformer_seconds`. Spatial layers, encoder and
    text encoder stay as they are, bit for bit. An interrupted run goes on when called again with the same arguments.

    Raises:
        InputError: the arguments do not go together, the source is no image model, `output_dir` holds something else,
            or the interrupted run there is another one.
        SliceDone: a slice is over; its state is saved.
    """
    assert video.temporal_from is not None
    _check(config)
    inserted = _inserted(video, config.seed)
    pipeline = inserted.pipeline
    config = _own_config(config, video, pipeline)
    folder = Path(config.output_dir)
    finished = (folder / "model_index.json").is_file()
    unfinished = not finished and is_own(folder, OUTPUTS)
    if unfinished:
        _check_state(folder, config, video.temporal_task)
    else:
        advice = "it holds a finished pipeline: name another folder or pass --overwrite"
        inputs = [video.temporal_from]
        check_output_dir(folder, OUTPUTS, config.overwrite, inputs, advice if is_own(folder, OUTPUTS) else "")
    if device.type == "cuda":
        set_up_cuda()
    frozen = copy.deepcopy((pipeline.transformer.spatial_state(), pipeline.text_encoder.state_dict()))
    history: History = {}
    decoder = folder / "autoencoder"
    pipeline.to(device)
    open_output_dir(folder, OUTPUTS, config.overwrite, go_on=unfinished, rewrites=True)
    if finished:
        empty_own(folder.resolve(), OUTPUTS, keep=(MARK,))
    if unfinished and (decoder / "vae").is_dir():
        pipeline.vae = VideoLDMAutoencoder.from_pretrained(decoder, subfolder="vae").to(device).eval()
        history[DECODER_HISTORY] = json.loads((decoder / HISTORY).read_text(encoding="utf-8"))
    elif not inserted.has_decoder and config.autoencoder_seconds > 0:
        history[DECODER_HISTORY] = _train_decoder(pipeline, config, video, device)
        _save_decoder(pipeline.vae, decoder, history[DECODER_HISTORY])
    if config.transformer_seconds > 0:
        history[LAYERS_HISTORY] = _train_layers(pipeline, config, video, device)
    _restore(pipeline, *frozen)
    save_pipeline(pipeline, folder)
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.transformer):
        nn.Module.to(module, dtype=torch.float32)
    write_video_card(VideoLDMGenerator(pipeline, str(folder)), config, video, history, folder)
    return folder


def _check(config: PretrainConfig) -> None:
    """Raises `InputError` where settings do not go with temporal layers."""
    config.check()
    for name in ("images_only", "pack", "weights_from", "autoencoder_from"):
        if getattr(config, name):
            raise InputError(
                f"--{name} was given together with --temporal_from, which takes all of the image model and trains on "
                "clips of one size: leave it out."
            )
    if config.footage is not None:
        read_demonstrations(config.footage, skip_bad=True, require_prompts=False)


def _inserted(video: VideoLDMConfig, seed: int) -> Inserted:
    name = str(video.temporal_from)
    source = load_generator(name, device="cpu", dtype=torch.float32)
    if not isinstance(source, NativeGenerator):
        raise InputError(
            f"temporal_from is {name}, but must be a pipeline that `vidalign pretrain` made, such as that of "
            "--images_only."
        )
    return insert_temporal_layers(source.pipeline, name, video.temporal_task, seed)


def _own_config(config: PretrainConfig, video: VideoLDMConfig, pipeline: VideoLDMPipeline) -> PretrainConfig:
    """The settings with the size of the image model, and with what the state of an interrupted run is known by."""
    return replace(
        config,
        num_layers=pipeline.transformer.config.num_layers,
        hidden_size=pipeline.transformer.config.hidden_size,
        weights_from=video.temporal_from,
        known_frames_share=0.0,
        key_frame_share=0.0,
    )


def _phase_name(task: str) -> str:
    return f"{LAYERS_HISTORY} ({task})"


def _check_state(folder: Path, config: PretrainConfig, task: str) -> None:
    """Raises `InputError` where an interrupted run in the folder has another source or task."""
    path = folder / STATE
    if not path.is_file():
        return
    state = read_state(path)
    source = state["config"].get("weights_from")
    if state["phase"] not in (DECODER_HISTORY, _phase_name(task)) or source != config.weights_from:
        raise InputError(
            f"{path} is an interrupted run of {state['phase']} from {source}, but {_phase_name(task)} from "
            f"{config.weights_from} were asked for: give the same arguments or another --output_dir."
        )


def _scenes(
    pipeline: VideoLDMPipeline,
    config: PretrainConfig,
    task: str,
    budget: int,
    patch: tuple[int, int],
    start: int,
    captioned: bool = True,
) -> SceneStream:
    """Stream of clips for a task; without captions for the decoder."""
    return SceneStream(
        pipeline.tokenizer,
        budget,
        patch,
        CAPTION_TOKENS if captioned else 0,
        config.wrong_share if captioned else 0.0,
        0.0,
        config.seed + (0 if captioned else 1),
        start,
        config.scene_reuse,
        several=config.several_weight,
        mix=video_mix(task),
    )


def _finish(phase: Phase) -> None:
    if not phase.finished:
        raise SliceDone(phase)


def _train_decoder(
    pipeline: VideoLDMPipeline, config: PretrainConfig, video: VideoLDMConfig, device: torch.device
) -> list[dict[str, float]]:
    """Trains the decoder's temporal layers in place; returns the history."""
    layers = pipeline.vae.temporal.requires_grad_(True)
    phase = Phase(
        DECODER_HISTORY,
        {"temporal": layers},
        config,
        config.autoencoder_seconds,
        config.autoencoder_learning_rate,
        Path(config.output_dir) / STATE,
    )
    phase.resume()
    scenes = _scenes(
        pipeline, config, "generation", config.autoencoder_pixels, (1, 1), phase.step, captioned=False
    )
    stream = with_footage(scenes, config)
    loss = DecoderLoss(pipeline.vae, video.decoder_noise, device)
    phase.run(stream.loader(config.num_workers), loss, device)
    _finish(phase)
    layers.requires_grad_(False)
    return phase.history


def _save_decoder(vae: VideoLDMAutoencoder, folder: Path, history: list[dict[str, float]]) -> None:
    """Keeps the trained decoder, so that a run that is interrupted later does not train it again."""
    with atomic_path(folder) as temporary:
        vae.save_pretrained(temporary / "vae", max_shard_size=MAX_SHARD_SIZE)
        write_json(temporary / HISTORY, history)


def _train_layers(
    pipeline: VideoLDMPipeline, config: PretrainConfig, video: VideoLDMConfig, device: torch.device
) -> list[dict[str, float]]:
    """Trains the transformer's temporal layers in place; returns the history."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for module in (pipeline.transformer, pipeline.text_encoder):
        nn.Module.to(module, dtype=dtype)
    layers = pipeline.transformer.temporal.requires_grad_(True)
    phase = Phase(
        _phase_name(video.temporal_task),
        {"temporal": layers},
        config,
        config.transformer_seconds,
        config.learning_rate,
        Path(config.output_dir) / STATE,
        dtype,
    )
    phase.resume()
    if config.compile_blocks:
        compile_each([*pipeline.transformer.blocks, *layers.layers])
    follow(phase, pipeline, config)
    start = phase.step // config.scene_reuse
    scenes = _scenes(pipeline, config, video.temporal_task, config.transformer_tokens, PATCH, start)
    loss = VideoFlowMatchingLoss(
        pipeline,
        config.shift,
        config.channel_weight_power,
        config.logit_mean,
        0.0 if video.temporal_task == "generation" else video.context_dropout,
        PretrainConfig.known_frames_share,
    )
    batches = latent_batches(pipeline, config, with_footage(scenes, config), device, lambda: 0.0)
    phase.run(batches, loss, device)
    _finish(phase)
    layers.requires_grad_(False)
    return phase.history


def _restore(pipeline: VideoLDMPipeline, spatial: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> None:
    """Brings transformer and text encoder back to float32, all that is frozen without any rounding."""
    for module, frozen in ((pipeline.transformer, spatial), (pipeline.text_encoder, text)):
        nn.Module.to(module, dtype=torch.float32)
        module.load_state_dict({**module.state_dict(), **frozen})
