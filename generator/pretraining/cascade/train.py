"""`vidalign pretrain --stage`: one stage from rendered and camera clips, in slices that resume."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from generator.cascade.cascade import join_stages, read_cascade
from generator.cascade.comparison import held_out_clips
from generator.cascade.stage import (
    INDEX_NAME,
    STAGE_CLASS,
    CascadeStage,
    StageSettings,
    condition_channels,
    read_settings,
    save_stage,
)
from generator.cascade.transformer import StageTransformer3DModel
from generator.data.demonstrations import read_demonstrations
from generator.families.native import NativeGenerator
from generator.files.model_folders import CASCADE_CLASS, find_pipeline
from generator.files.output_folder import Outputs, check_output_dir, is_own, open_output_dir
from generator.files.pipeline_files import COMPONENT_FILES
from generator.loading import load_generator
from generator.output import InputError, read_record, write_json
from generator.pretraining.cascade.config import StageConfig
from generator.pretraining.cascade.data import (
    STATISTICS_BATCHES,
    StageBatches,
    coarse,
    measure_residual,
    stage_stream,
)
from generator.pretraining.cascade.loss import StageLoss
from generator.pretraining.cascade.model_card import write_stage_card
from generator.pretraining.config import PretrainConfig
from generator.pretraining.log import FOLDER, PretrainLog, averaged, sample_grid
from generator.pretraining.phase import STATE, Phase, read_state
from generator.pretraining.pretrain import SliceDone
from generator.provenance import latent_space_fingerprint

STATISTICS = "residual.json"
"""In the output folder: gain and standard deviation of each latent channel, measured once."""
HEAD_DIM = 64
_EVENTS = (f"{FOLDER}/events.out.tfevents.*", f"{FOLDER}/*/events.out.tfevents.*")


def _is_stage(folder: Path) -> bool:
    """Returns whether a folder without a mark is that of a stage or a cascade."""
    try:
        return read_record(folder / INDEX_NAME).get("_class_name") in (STAGE_CLASS, CASCADE_CLASS)
    except (InputError, OSError):
        return False


OUTPUTS = Outputs(
    "pretrain",
    (
        *(INDEX_NAME, STATE, STATISTICS, "README.md", "metrics.json", "samples.png"),
        *(f"{folder}transformer/{name}" for folder in ("", "*/") for name in COMPONENT_FILES),
        f"*/{INDEX_NAME}",
        *_EVENTS,
    ),
    early=(*_EVENTS, STATISTICS),
    is_record=_is_stage,
)


class StageLog(PretrainLog):
    """Curves of a stage, and what it makes of a few held-out clips, for TensorBoard."""

    def __init__(self, output_dir: Path, stage: CascadeStage, config: StageConfig) -> None:
        super().__init__(output_dir, stage.codec.pipeline)
        self.stage = stage
        size = (config.stage_frames, config.sides[0], config.sides[0])
        self.clips = held_out_clips(3, size, config.stage_fps, 1)

    @torch.no_grad()
    def samples(self, phase: Phase, batch: Any) -> None:
        """Rows of the true clip and below it that of the stage, by the averaged weights."""
        kind = self.stage.settings.stage
        clips = self.clips.render(slice(0, 3), self.stage.codec.device)
        fps = self.clips.fps / (self.stage.settings.factor if kind == "temporal" else 1)
        with averaged(phase):
            made = self.stage.upsample(coarse(clips, kind), fps, self.clips.prompts, [0, 1, 2])
        videos = torch.stack([clips.cpu(), made], dim=1).flatten(0, 1)
        self.writer.add_image(f"{phase.name}/samples", sample_grid(videos), phase.step)
        self.writer.flush()


def load_codec(config: StageConfig, device: torch.device) -> NativeGenerator:
    """The pipeline whose autoencoder and text encoder the stage works with.

    Raises:
        InputError: it is of another family than the built-in one.
    """
    codec = load_generator(config.stage_base, device=device)
    if not isinstance(codec, NativeGenerator):
        raise InputError(
            f"--stage_base is {config.stage_base}, but stages are trained with the autoencoder of the built-in family: "
            "name nano or a folder of `vidalign pretrain`."
        )
    return codec


def build_stage(
    config: StageConfig, codec: NativeGenerator, gain: list[float], std: list[float], seed: int
) -> StageTransformer3DModel:
    """A stage's network with random weights, on the codec's device."""
    channels = codec.pipeline.vae.config.latent_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StageTransformer3DModel(
            in_channels=channels,
            condition_channels=condition_channels(str(config.stage), channels),
            hidden_size=config.stage_width,
            num_layers=config.stage_layers,
            num_attention_heads=config.stage_width // HEAD_DIM,
            text_dim=codec.pipeline.text_encoder.config.d_model,
            window=config.window,
            temporal=config.temporal,
            gain=gain,
            residual_std=std,
        )
    return network.to(codec.device)


def noise_shift(gain: list[float], std: list[float]) -> float:
    """Time shift at which the middle of the schedule is where noise and residual are equally strong.

    x_σ − (1 − σ) c' = (1 − σ) r u + σ ε, so that is at σ = r / (1 + r), and a shift s moves 1/2 to s / (1 + s).
    """
    return round(min(max(sum(std) / len(std), 0.05), 1.0), 4) if gain else 1.0


def _statistics(
    config: StageConfig, general: PretrainConfig, codec: NativeGenerator, folder: Path
) -> tuple[list[float], list[float]]:
    """Gain and standard deviation of the residual, from the folder of a run that goes on or measured now."""
    path = folder / STATISTICS
    if path.is_file():
        found = read_record(path)
        return found["gain"], found["residual_std"]
    stream = stage_stream(
        codec, config, replace(general, transformer_tokens=min(general.transformer_tokens, 10_000))
    )
    batches = itertools.islice(stream.loader(0), STATISTICS_BATCHES)
    gain, std = measure_residual(codec, batches, str(config.stage))
    write_json(path, {"gain": gain, "residual_std": std})
    return gain, std


def _check_state(folder: Path, name: str) -> None:
    """Raises `InputError` where the folder holds an interrupted run of something else."""
    path = folder / STATE
    if path.is_file():
        phase = read_state(path)["phase"]
        if phase != name:
            raise InputError(
                f"{folder} holds an interrupted training of the {phase}, but the {name} was asked for: go on with "
                "that, or name another --output_dir."
            )


def pretrain_stage(config: StageConfig, general: PretrainConfig, device: torch.device) -> Path:
    """Runs what is left of a stage's training and writes the stage, its card and `metrics.json`.

    Args:
        config: of the stage.
        general: of pretraining: output folder, batches, optimiser, footage, slices.
        device: that trains.

    Returns:
        The output folder.

    Raises:
        InputError: the folder is in use or holds an interrupted run of something else, or settings do not go together.
        SliceDone: a slice is over before the whole time is used; its state is saved.
    """
    general = replace(general, num_layers=config.stage_layers, hidden_size=config.stage_width)
    general.check()
    folder, name = Path(general.output_dir), f"{config.stage} stage"
    find_pipeline(config.stage_base)
    if general.footage is not None:
        read_demonstrations(general.footage, skip_bad=True, require_prompts=False)
    finished = (folder / INDEX_NAME).is_file()
    unfinished = not finished and is_own(folder, OUTPUTS)
    if not unfinished:
        advice = "it holds a finished model: name another folder or pass --overwrite"
        check_output_dir(folder, OUTPUTS, general.overwrite, [], advice if is_own(folder, OUTPUTS) else "")
    if not finished:
        _check_state(folder, name)
    codec = load_codec(config, device)
    open_output_dir(folder, OUTPUTS, general.overwrite, go_on=unfinished)
    gain, std = _statistics(config, general, codec, folder)
    network = build_stage(config, codec, gain, std, general.seed)
    settings = StageSettings(
        stage=str(config.stage),
        codec=config.stage_base,
        codec_fingerprint=latent_space_fingerprint(codec),
        num_frames=config.stage_frames,
        fps=config.stage_fps,
        shift=noise_shift(gain, std),
    )
    stage = CascadeStage(network, settings, codec, str(folder))
    phase = Phase(
        name,
        {"transformer": network.train()},
        general,
        config.stage_seconds,
        general.learning_rate,
        folder / STATE,
        torch.bfloat16 if device.type == "cuda" else torch.float32,
    )
    phase.resume()
    if general.tensorboard:
        phase.log = StageLog(folder, stage, config)
    stream = stage_stream(codec, config, general, phase.step // general.scene_reuse)
    loss = StageLoss(
        network,
        codec,
        settings.shift,
        config.stage_augmentation,
        general.channel_weight_power,
        general.logit_mean,
    )
    phase.run(StageBatches(codec, config, general, stream), loss, device)
    if not phase.finished:
        raise SliceDone(phase)
    network.eval().requires_grad_(False)
    save_stage(folder, copy.deepcopy(network).half(), settings)
    torch.nn.Module.to(network, dtype=codec.dtype)
    write_stage_card(stage, config, general, phase.history, folder)
    return folder


def join(config: StageConfig, general: PretrainConfig) -> Path:
    """Joins trained stages to a cascade in the output folder, which it returns.

    Raises:
        InputError: the folder is in use, or one of the stages is none.
    """
    folder = Path(general.output_dir)
    stages = config.join_stages or []
    for each in stages:
        read_settings(Path(each))
    check_output_dir(folder, OUTPUTS, general.overwrite, list(stages))
    open_output_dir(folder, OUTPUTS, general.overwrite)
    join_stages(folder, stages, config.stage_base, config.stage_base_fps)
    read_cascade(folder)
    return folder
