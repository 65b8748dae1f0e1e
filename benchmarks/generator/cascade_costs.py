"""One model in the place of a cascade, and PPO at both sizes: parts of `python -m benchmarks.generator.cascade`."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.cli.launcher import without_gpu
from alignment.lora import LoraArguments
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator import load_generator
from generator.cascade.cascade import CascadeGenerator, base_of
from generator.families.native import NativeGenerator
from generator.files.model_folders import find_pipeline
from generator.loading import default_device
from generator.native.building import build_pipeline, save_pipeline
from generator.output import InputError, write_json
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import ClipKind, SceneStream
from generator.pretraining.flow_loss import FlowMatchingLoss
from generator.pretraining.phase import STATE, Phase
from generator.pretraining.pretrain import CAPTION_TOKENS, HEAD_DIM, latent_batches
from generator.world import sample_prompts
from reward.models.base import FunctionReward

BASE, DIRECT, SINGLE = "base", "base, full size", "one model"
FULL_SIZE = (33, 128, 128, 16.0)
"""Frames, height, width and frames a second of what `nano-cascade` makes, for a model that is trained before it is."""


class Deadline:
    """End of a call.

    Args:
        seconds: that it may take.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """True where the time is used."""
        return time.monotonic() >= self.end


def load_asked(asked: argparse.Namespace, adapter: str | None = None) -> CascadeGenerator:
    """The cascade of `--cascade`.

    Raises:
        InputError: it is none.
    """
    cascade = load_generator(asked.cascade, adapter=adapter)
    if not isinstance(cascade, CascadeGenerator):
        raise InputError(f"--cascade is {asked.cascade}, but must be a cascade: join stages first.")
    return cascade


def weights_of(cascade: CascadeGenerator) -> int:
    """Number of weights of the base's transformer and of all different stages."""
    networks = {each.name: each.transformer for each in cascade.stages}
    return sum(p.numel() for each in (cascade.transformer, *networks.values()) for p in each.parameters())


def build_single(cascade: CascadeGenerator, width: int, seed: int) -> NativeGenerator:
    """One model with about as many weights as the cascade, and its autoencoder, from random weights."""
    base = cascade.base.pipeline

    def build(layers: int) -> Any:
        return build_pipeline(
            {
                "hidden_size": width,
                "num_layers": layers,
                "num_attention_heads": max(width // HEAD_DIM, 1),
                "conditioning": "adaln",
                "initialization": "xavier",
                "in_channels": base.vae.config.latent_channels,
            },
            autoencoder=dict(base.vae.config),
            shift=cascade.defaults.shift,
            fps=cascade.defaults.fps,
            seed=seed,
        )

    wanted = weights_of(cascade)
    counts = {layers: sum(p.numel() for p in build(layers).transformer.parameters()) for layers in (1, 3)}
    layers = 1 + 2 * round(max(wanted - counts[1], 0) / (counts[3] - counts[1]))
    pipeline = build(layers)
    pipeline.vae.load_state_dict({name: value.float() for name, value in base.vae.state_dict().items()})
    return NativeGenerator(pipeline, SINGLE)


def trained_on(name: str) -> NativeGenerator:
    """A model of the built-in family in float32, to be trained on at the full size.

    Raises:
        InputError: it is of another family.
    """
    model = load_generator(name, device="cpu", dtype=torch.float32)
    if not isinstance(model, NativeGenerator):
        raise InputError(
            f"--single_from is {name}, but must be a pipeline of the built-in family: name nano."
        )
    model.pipeline.transformer.requires_grad_(True)
    model.pipeline.text_encoder.requires_grad_(True)
    return model


def run_single(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Trains one model at the cascade's full size for `--seconds`, in slices; `gold` then measures it too."""
    device, folder = default_device(), asked.output_dir / "single"
    if (folder / "model_index.json").is_file():
        return
    if asked.single_from:
        single, weights_before, size = trained_on(asked.single_from), None, ClipKind(*FULL_SIZE)
    else:
        cascade = load_asked(asked)
        full = cascade.defaults
        single, weights_before = build_single(cascade, asked.width, asked.seed), weights_of(cascade)
        size = ClipKind(full.num_frames, full.height, full.width, full.fps)
    pipeline = single.pipeline.to(device)
    config = PretrainConfig(
        str(folder),
        hidden_size=pipeline.transformer.config.hidden_size,
        num_layers=pipeline.transformer.config.num_layers,
        transformer_tokens=asked.tokens,
        slice_seconds=max(deadline.end - time.monotonic(), 1.0),
        num_workers=asked.num_workers,
    )
    modules = {"transformer": pipeline.transformer.train(), "text_encoder": pipeline.text_encoder.train()}
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    phase = Phase("one model", modules, config, asked.seconds, config.learning_rate, folder / STATE, dtype)
    phase.resume()
    start = phase.step // config.scene_reuse
    stream = SceneStream(
        pipeline.tokenizer,
        asked.tokens,
        (4, 8),
        CAPTION_TOKENS,
        config.wrong_share,
        0.0,
        0,
        start,
        config.scene_reuse,
    )
    stream.mix = {size: 1.0}
    loss = FlowMatchingLoss(pipeline, config.shift, config.channel_weight_power)
    phase.run(latent_batches(pipeline, config, stream, device), loss, device)
    print(f"One model has been trained for {phase.elapsed:.0f} of {phase.seconds:.0f} s, {phase.step} steps.")
    if phase.finished:
        save_pipeline(pipeline, folder)
        weights = sum(p.numel() for p in pipeline.transformer.parameters())
        facts = {"seconds": phase.elapsed, "steps": phase.step, "clips": phase.clips}
        facts |= {"weights": weights, "cascade": weights_before, "from": asked.single_from}
        write_json(folder / "metrics.json", facts)


def brightness(videos: Tensor, prompts: list[str]) -> Tensor:
    """The mean of all pixels of each video."""
    return videos.float().mean(dim=(1, 2, 3, 4))


class StepSeconds(TrainerCallback):
    """Seconds of each iteration of PPO, which is one optimiser step here."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.start = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(self._now() - self.start)


def run_ppo(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Seconds of an iteration of PPO on the base at its own size and at the cascade's full size."""
    cascade = load_asked(asked)
    own, full = (
        (each.num_frames, each.height, each.width) for each in (cascade.base.defaults, cascade.defaults)
    )
    path = asked.output_dir / "ppo.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, size in ((BASE, own), (DIRECT, full)):
        if name in found or deadline.over:
            continue
        model = load_generator(base_of(find_pipeline(asked.cascade)))
        with tempfile.TemporaryDirectory() as output_dir:
            config = PPOConfig(
                output_dir=output_dir,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                bf16=torch.cuda.is_available(),
                **without_gpu(),
                num_rollouts=asked.iterations + 1,
                num_prompts=asked.ppo_prompts,
                num_generations=asked.ppo_generations,
                num_mini_batches=1,
                num_frames=size[0],
                height=size[1],
                width=size[2],
                monitor_kl=False,
                monitor_videos=0,
                probe_prompts=0,
                per_device_train_batch_size=asked.micro_batch,
            )
            clock = StepSeconds(config.device)
            prompts = sample_prompts(asked.ppo_prompts, 0, "train")
            rewards = [FunctionReward(brightness, "brightness")]
            PPOTrainer(model, config, prompts, rewards, lora=LoraArguments(), callbacks=[clock]).train()
        counted = clock.seconds[1:] or clock.seconds
        tokens = math.prod(model.latent_shape(*size)[1:]) // 4
        found[name] = {
            "size": list(size),
            "tokens": tokens,
            "videos": asked.ppo_prompts * asked.ppo_generations,
            "seconds": sum(counted) / len(counted),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        }
        write_json(path, found)
        print(f"{name}: {found[name]['seconds']:.2f} s an iteration", flush=True)
