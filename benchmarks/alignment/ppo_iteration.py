"""Seconds and memory of a PPO iteration on Wan2.1-1.3B's architecture: `python -m benchmarks.alignment.ppo_iteration`.

The weights are random and the reward is the brightness of the decoded videos, so nothing is downloaded; the
trainer, the rollout and the update are the project's own. The published setting (240x416, 33 frames, 2 prompts x 4
videos, 10 steps, guidance 5, 3 trained steps, LoRA of rank 64, bfloat16) is the default, and one call measures

- `fast`: both guidance branches are trained, all activations are kept;
- `conditional_gradient`: only the prompted branch is trained, of two steps together, which are as many rows;
- `save_memory`: both branches, checkpointed blocks, rollouts of `--small_rollout` videos, tiled decoding;

and, where asked for, `defaults`: `fast` with the KL term and the monitors that `vidalign ppo --config wan/ppo` has.

`--reward` takes the place of the brightness: `pickscore`, `hpsv2`, `videoalign`, `hpsv3` with random weights of their
published sizes (`benchmarks/reward/random_rewards.py`), or any other name whose weights are at hand. The variant
`asynchronous_rewards` is `fast`, but judges finished videos while others are sampled: its parts overlap.

    python -m benchmarks.alignment.ppo_iteration                                    # all three
    python -m benchmarks.alignment.ppo_iteration --variants save_memory             # one of them
    python -m benchmarks.alignment.ppo_iteration --variants fast asynchronous_rewards --reward pickscore videoalign \\
        --rollout_batch_size 4 --reward_batch_size 4                                # the share of the rewards
    python -m benchmarks.alignment.ppo_iteration --tiny                             # a few seconds on a CPU
    python -m benchmarks.alignment.ppo_iteration --variants fast --profile fast.txt # where the seconds go, on a GPU
    accelerate launch --config_file alignment/cli/configs/accelerate/zero2.yaml --num_processes 2 \\
        --module benchmarks.alignment.ppo_iteration --variants fast

On several processes each, or each group of `--context_parallel` processes, has the prompts of one (weak scaling), and
the first one's figures are printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.cli.launcher import without_gpu
from alignment.lora import LoraArguments
from alignment.rollouts.rollout import Rollout
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from benchmarks.alignment.gpu_profile import Recorder, write_profile
from benchmarks.alignment.random_wan import (
    PROMPTS,
    TINY_SIZE,
    add_model_arguments,
    build_generator,
    pretend_accelerator,
    tiny_architecture,
)
from benchmarks.reward import random_rewards
from generator.families.wan import WanGenerator
from generator.solvers import ONE_CALL_SOLVERS
from reward import load_reward
from reward.models.base import FunctionReward, RewardModel

USUAL = ("fast", "conditional_gradient", "save_memory")
VARIANTS: dict[str, dict[str, Any]] = {
    "fast": {"no_unconditional_gradient": False},
    "conditional_gradient": {"no_unconditional_gradient": True, "micro_batch": 2},
    "save_memory": {
        "no_unconditional_gradient": False,
        "gradient_checkpointing": True,
        "tiling": True,
        "micro_batch": 1,
        "reward_batch_size": 1,
    },
    "defaults": {
        "no_unconditional_gradient": False,
        "beta": PPOConfig.beta,
        "monitor_videos": PPOConfig.monitor_videos,
    },
    "asynchronous_rewards": {"no_unconditional_gradient": False, "asynchronous_rewards": True},
}
"""Settings of each variant beside what was asked for."""

GIB = 2**30
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
FIRST = int(os.environ.get("RANK", "0")) == 0


def brightness(videos: Tensor, prompts: list[str]) -> Tensor:
    """The mean of all pixels of each video."""
    return videos.float().mean(dim=(1, 2, 3, 4))


def build_rewards(arguments: argparse.Namespace, device: torch.device) -> list[RewardModel]:
    """The rewards of `--reward`, with random weights where there are stand-ins; else the brightness."""
    if not arguments.reward:
        return [FunctionReward(brightness, "brightness")]
    return [
        random_rewards.random_reward(name, device, arguments.tiny)
        if name.split(":")[0] in random_rewards.NAMES
        else load_reward(name, device)
        for name in arguments.reward
    ]


class Clock:
    """Wall-clock seconds and peak memory of named parts; waits for the GPU at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.recorder: Recorder | None = None

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def measure(self, name: str, function: Callable[[], Any]) -> Any:
        start, since = self.now(), time.time_ns()
        self.note_peak("update")
        result = function()
        self.note_peak(name)
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start
        if self.recorder is not None:
            self.recorder.note(RECORDED.get(name, name), since, time.time_ns())
        return result

    def note_peak(self, name: str) -> None:
        """Counts the peak since the last call for `name`."""
        if self.device.type == "cuda":
            self.peak[name] = max(
                self.peak.get(name, 0.0), torch.cuda.max_memory_allocated(self.device) / GIB
            )
            torch.cuda.reset_peak_memory_stats(self.device)


RECORDED = {"rollout": "sampling", "judging": "decode and reward", "decode": "decode and reward"}
"""Parts of a profile by the clock's names; inner ones are not counted for outer ones."""


class TimedPPOTrainer(PPOTrainer):
    """`PPOTrainer` with a clock around the rollout; everything else of an iteration is the update."""

    clock: Clock

    def make_rollout(self, index: int) -> Rollout:
        rollout = self.clock.measure("rollout", lambda: super(TimedPPOTrainer, self).make_rollout(index))
        if FIRST:
            print(
                ", ".join(f"{name} {value:.2f} s" for name, value in self.clock.seconds.items()), flush=True
            )
        return rollout


class Iterations(TrainerCallback):
    """One record an optimiser step, which is one iteration here."""

    def __init__(self, clock: Clock, name: str, recorded: int | None = None) -> None:
        self.clock = clock
        self.name = name
        self.recorded = recorded
        """Number of the iteration that is profiled, from 0."""
        self.records: list[dict[str, float]] = []
        self.start, self.since = 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.seconds.clear()
        self.clock.note_peak("update" if self.records else "start")
        if self.recorded == len(self.records):
            self.clock.recorder = Recorder(self.clock.device)
            self.clock.recorder.begin()
        self.start, self.since = self.clock.now(), time.time_ns()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        total = self.clock.now() - self.start
        if self.clock.recorder is not None and self.clock.recorder.running:
            self.clock.recorder.note("update", self.since, time.time_ns())
            self.clock.recorder.end()
        self.clock.note_peak("update")
        # A process of a group that shares tokens may have no batch to judge.
        rollout, judging, decoding = (
            self.clock.seconds.get(name, 0.0) for name in ("rollout", "judging", "decode")
        )
        record = {
            "total": total,
            "sampling": rollout - judging,
            "decode and reward": judging,
            "update": total - rollout,
            "reward alone": judging - decoding,
        }
        self.records.append(record)
        if FIRST:
            print(
                f"{self.name}, iteration {len(self.records)}: "
                + ", ".join(f"{k} {v:.2f} s" for k, v in record.items()),
                flush=True,
            )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--context_parallel", type=int, default=1, help="Processes that share out tokens.")
    parser.add_argument("--num_frames", type=int, default=33)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=416)
    parser.add_argument("--num_prompts", type=int, default=2)
    parser.add_argument("--num_generations", type=int, default=4)
    parser.add_argument("--num_inference_steps", type=int, default=10)
    parser.add_argument("--rollout_solver", default="euler", choices=ONE_CALL_SOLVERS)
    parser.add_argument("--trained_steps", type=int, default=3)
    parser.add_argument("--guidance_scale", type=float, default=5.0)
    parser.add_argument("--lora_r", type=int, default=64)
    parser.add_argument(
        "--lora_target_modules", nargs="+", help="Default: the family's, all attention projections."
    )
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(USUAL))
    parser.add_argument(
        "--reward",
        nargs="+",
        help="Rewards by name, weights random. Default: the brightness, which costs nothing.",
    )
    parser.add_argument("--asynchronous_rewards", action="store_true")
    parser.add_argument(
        "--beta", type=float, default=0.0, help="Weight of the KL divergence, 0 measures none."
    )
    parser.add_argument("--monitor_videos", type=int, default=0, help="Videos that are decoded for the log.")
    parser.add_argument("--micro_batch", type=int, default=1, help="Denoising steps in one backward pass.")
    parser.add_argument("--rollout_batch_size", type=int, default=8, help="Videos sampled together.")
    parser.add_argument("--reward_batch_size", type=int, default=8, help="Videos decoded together.")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--gradient_checkpointing_share", type=float, default=1.0)
    parser.add_argument("--tiling", action="store_true", help="Decode tile by tile and video by video.")
    parser.add_argument("--tile", type=int, default=256, help="Largest side of a tile in pixels.")
    parser.add_argument(
        "--small_rollout", type=int, default=4, help="Videos sampled together with save_memory."
    )
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], help="Default: bfloat16 on a GPU, else float32."
    )
    parser.add_argument("--no_compile", action="store_true", help="No regional torch.compile.")
    parser.add_argument(
        "--attention_backend", help="Diffusers' name of the kernel, for example _native_cudnn."
    )
    parser.add_argument("--warmup", type=int, default=2, help="Iterations before those that count.")
    parser.add_argument("--iterations", type=int, default=3, help="Iterations that count.")
    parser.add_argument(
        "--profile",
        help="Also write where the seconds of one more iteration go to this file, of the first variant.",
    )
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.architecture = tiny_architecture(arguments.architecture)
        arguments.num_frames, arguments.height, arguments.width = TINY_SIZE
    return arguments


def with_variant(arguments: argparse.Namespace, variant: str) -> argparse.Namespace:
    """The arguments of one of `VARIANTS`."""
    changes = dict(VARIANTS[variant])
    if variant == "save_memory":
        changes["rollout_batch_size"] = arguments.small_rollout
    return argparse.Namespace(**{**vars(arguments), "variant": variant, **changes})


def configuration(arguments: argparse.Namespace, output_dir: str, bf16: bool) -> PPOConfig:
    """The trainer's configuration: one optimiser step an iteration."""
    return PPOConfig(
        output_dir=output_dir,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        bf16=bf16,
        **without_gpu(),
        num_rollouts=arguments.warmup + arguments.iterations + bool(arguments.profile),
        num_prompts=arguments.num_prompts * (PROCESSES // arguments.context_parallel),
        num_generations=arguments.num_generations,
        num_mini_batches=1,
        num_frames=arguments.num_frames,
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.num_inference_steps,
        rollout_solver=arguments.rollout_solver,
        sde_window_size=arguments.trained_steps,
        guidance_scale=arguments.guidance_scale,
        unconditional_gradient=not arguments.no_unconditional_gradient,
        beta=arguments.beta,
        monitor_kl=False,
        monitor_videos=arguments.monitor_videos,
        probe_prompts=0,
        sample_groups=False,
        per_device_train_batch_size=arguments.micro_batch,
        rollout_batch_size=arguments.rollout_batch_size,
        reward_batch_size=arguments.reward_batch_size,
        asynchronous_rewards=arguments.asynchronous_rewards,
        **({"gradient_checkpointing": True} if arguments.gradient_checkpointing else {}),
        gradient_checkpointing_share=arguments.gradient_checkpointing_share,
        activation_offloading=arguments.activation_offloading,
        compile_blocks=not arguments.no_compile,
        context_parallel=arguments.context_parallel,
        attention_backend=arguments.attention_backend,
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains `warmup + iterations` iterations; returns the mean figures of the latter."""
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if torch.cuda.is_available() else "float32"))
    output_dir = tempfile.mkdtemp()  # nothing is written, but the trainer wants a place
    config = configuration(arguments, output_dir, dtype == torch.bfloat16)
    device = config.device
    generator = build_generator(
        arguments.architecture, device, dtype, arguments.offload_weights, arguments.quantization
    )
    if device.type == "cuda":  # the weights are made in float32 first
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if arguments.tiling:
        generator.save_decoding_memory(tile=arguments.tile)
    clock = Clock(device)
    decode = generator.decode
    vars(generator)["decode"] = lambda latents: clock.measure("decode", lambda: decode(latents))
    last = arguments.warmup + arguments.iterations
    iterations = Iterations(clock, arguments.variant, last if arguments.profile and FIRST else None)
    quoted = ' beside a sign that says "OPEN"' if "ocr" in "".join(arguments.reward or []) else ""
    prompts = [PROMPTS[i % len(PROMPTS)] + quoted for i in range(config.num_prompts)]
    trainer = TimedPPOTrainer(
        generator,
        config,
        prompts,
        build_rewards(arguments, device),
        lora=LoraArguments(lora_r=arguments.lora_r, lora_target_modules=arguments.lora_target_modules),
        callbacks=[iterations],
    )
    trainer.clock = clock
    judge = trainer.rewards.judge
    vars(trainer.rewards)["judge"] = lambda *given: clock.measure("judging", lambda: judge(*given))
    trainer.train()
    shutil.rmtree(output_dir, ignore_errors=True)
    if clock.recorder is not None:
        write_profile(Path(arguments.profile), trainer, clock.recorder)
    counted = iterations.records[arguments.warmup : last]
    mean = {name: sum(record[name] for record in counted) / len(counted) for name in counted[0]}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "variant": arguments.variant,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": _count(generator, trained=False),
        "trained_parameters": _count(generator, trained=True),
        "processes": PROCESSES,
        "tokens": _tokens(generator, arguments),
        "seconds": {name: round(value, 3) for name, value in mean.items()},
        "peak_gib": {name: round(value, 2) for name, value in clock.peak.items()},
        "reserved_gib": round(torch.cuda.max_memory_reserved(device) / GIB, 2)
        if device.type == "cuda"
        else None,
        "losses": losses,
        "arguments": vars(arguments),
    }


def _count(generator: WanGenerator, trained: bool) -> int:
    """Number of weights; those that an engine divides count whole, offloaded ones not at all."""
    chosen = [p for p in generator.transformer.parameters() if p.requires_grad == trained]
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in chosen)


def _tokens(generator: WanGenerator, arguments: argparse.Namespace) -> int:
    _, frames, height, width = generator.latent_shape(arguments.num_frames, arguments.height, arguments.width)
    return frames * height * width // 4


def forget() -> None:
    """Frees what the last variant has left, compiled code too."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    seconds, peak = found["seconds"], found["peak_gib"]
    largest = f"{max(peak.values()) * GIB / 1e9:.1f}" if peak else "–"
    reserved = f"{found['reserved_gib'] * GIB / 1e9:.1f}" if found["reserved_gib"] else "–"
    parts = ", ".join(f"{k} {v * GIB / 1e9:.1f}" for k, v in peak.items()) or "–"
    return (
        f"| {found['variant']} | {seconds['total']:.2f} s | {seconds['sampling']:.2f} s "
        f"| {seconds['decode and reward']:.2f} s | {seconds['update']:.2f} s "
        f"| {seconds['reward alone'] / seconds['total']:.1%} | {largest} | {reserved} | {parts} |"
    )


def main() -> None:
    arguments = parse_arguments()
    if arguments.tiny:
        pretend_accelerator()
    results = []
    for variant in arguments.variants:
        results.append(run(with_variant(arguments, variant)))
        arguments.profile = None
        forget()
        if FIRST and arguments.json:  # after each, so that a run that is cut short leaves what it has
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=2)
    if not FIRST:
        return
    found = results[0]
    print(
        f"{PROCESSES} x {found['device']}, torch {found['torch']}, {found['parameters'] / 1e9:.2f} B parameters, "
        f"{found['trained_parameters'] / 1e6:.1f} M trained, {found['tokens']} tokens a video"
    )
    print(
        "| variant | total | sampling | decode and reward | update | share of the reward | peak GB | peak GB reserved "
        "| peak GB by part |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for found in results:
        print(row(found))


if __name__ == "__main__":
    main()
