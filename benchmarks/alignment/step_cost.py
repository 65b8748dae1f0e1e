"""Seconds and memory of SFT and DPO steps on Wan's architectures: `python -m benchmarks.alignment.step_cost`.

Random weights, random latents, the project's own trainers with LoRA of rank 64 in bfloat16; nothing is downloaded. Each
setting trains a few optimiser steps, of which the first does not count, in processes of its own and each of `--modes`:
one process, with its weights offloaded or quantised, or several under an engine. Beside the measured peak stands what
`vidalign doctor` forecasts for it; the forecast is of eager mode and says nothing of `--compile`.

    python -m benchmarks.alignment.step_cost                                        # on a GPU of 80 GB
    python -m benchmarks.alignment.step_cost --settings sft-33 dpo-33 --compile     # some settings
    python -m benchmarks.alignment.step_cost --settings 14b-dpo-81 --steps 1 --modes offloaded 8bit fsdp zero3 ulysses
    python -m benchmarks.alignment.step_cost --tiny                                 # on a CPU

A setting that fails, needs too much memory or outlasts `--mode_seconds` is said, and the others go on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from alignment.cli.launcher import without_gpu
from alignment.lora import LoraArguments
from alignment.memory.work import Work
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.engine_modes import MODES, add_to, run_mode
from benchmarks.alignment.forecasts import forecast_gb
from benchmarks.alignment.random_wan import (
    PROMPTS,
    TINY_SIZE,
    build_generator,
    pretend_accelerator,
    tiny_architecture,
)

SMALL, LARGE = (33, 240, 416), (81, 480, 832)
SETTINGS: dict[str, tuple[str, Work]] = {
    "sft-33": ("1.3B", Work("sft", *SMALL, lora_r=64)),
    "sft-33-batch4": ("1.3B", Work("sft", *SMALL, batch=4, lora_r=64, checkpointed_share=1.0)),
    "dpo-33": ("1.3B", Work("dpo", *SMALL, lora_r=64)),
    "dpo-33-checkpointed": ("1.3B", Work("dpo", *SMALL, lora_r=64, checkpointed_share=1.0)),
    "sft-81": ("1.3B", Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "dpo-81": ("1.3B", Work("dpo", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "14b-sft-33": ("14B", Work("sft", *SMALL, lora_r=64, checkpointed_share=1.0)),
    "14b-sft-81": ("14B", Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "14b-dpo-81": ("14B", Work("dpo", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "a14b-sft-81": ("A14B", Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "a14b-dpo-81": ("A14B", Work("dpo", *LARGE, lora_r=64, checkpointed_share=1.0)),
}
UNDIVIDED = (
    "single",
    "offloaded",
    "activations_offloaded",
    "both_offloaded",
    "8bit",
    "multi_gpu",
    "multi_gpu_8bit",
    "ulysses",
)
"""Modes whose memory is forecast: the others divide the weights, or the optimiser."""


class Steps(TrainerCallback):
    """Seconds of each optimiser step, and the peak after the first, or of the only one."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Makes AdamW's averages before the first step, whose peak is then that of the later ones."""
        if args.deepspeed is not None or "ACCELERATE_USE_DEEPSPEED" in os.environ:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            if state.global_step <= 1:
                torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        if args.process_index == 0:
            print(f"step {len(self.seconds)}: {self.seconds[-1]:.2f} s", flush=True)


def in_mode(work: Work, mode: str, processes: int) -> Work:
    """The work of each process in a mode."""
    chosen = MODES[mode]
    return dataclasses.replace(
        work,
        offload_weights="--offload_weights" in chosen.flags,
        activation_offloading="--activation_offloading" in chosen.flags,
        quantization="8bit" if "--quantization" in chosen.flags else None,
        context_parallel=processes if chosen.shares_tokens else 1,
    )


def setting(name: str, tiny: bool) -> tuple[str, Work]:
    """Architecture and work of a setting."""
    architecture, work = SETTINGS[name]
    if not tiny:
        return architecture, work
    size = dict(zip(("num_frames", "height", "width"), TINY_SIZE))
    return tiny_architecture(architecture), dataclasses.replace(work, **size, lora_r=4)


def measure(
    architecture: str, work: Work, steps: int, compiled: bool, groups: int, attention_backend: str | None
) -> dict[str, Any]:
    """Mean seconds of a step after the first, or of the only one, and peak memory in GB (None without a GPU).

    Args:
        groups: processes, or groups that share tokens, each of which has a batch of its own.
    """
    on_gpu = torch.cuda.is_available()
    folder = tempfile.mkdtemp()
    kind = SFTConfig if work.method == "sft" else DPOConfig
    config = kind(
        output_dir=folder,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        bf16=on_gpu,
        **without_gpu(),
        max_steps=steps,
        per_device_train_batch_size=work.batch,
        compile_blocks=compiled,
        gradient_checkpointing=work.checkpointed_share > 0,
        gradient_checkpointing_share=work.checkpointed_share or 1.0,
        activation_offloading=work.activation_offloading,
        context_parallel=work.context_parallel,
        attention_backend=attention_backend,
    )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    generator = build_generator(architecture, config.device, dtype, work.offload_weights, work.quantization)
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    latents = torch.randn(2 * work.batch * groups, 2, *shape, generator=torch.Generator().manual_seed(0))
    prompts = [PROMPTS[i % 2] for i in range(len(latents))]
    counted = Steps()
    more: dict[str, Any] = {"lora": LoraArguments(lora_r=work.lora_r), "callbacks": [counted]}
    trainer: Any
    if work.method == "sft":
        trainer = SFTTrainer(generator, config, list(latents[:, 0]), prompts, **more)
    else:
        pairs = [list(pair) for pair in latents]
        trainer = DPOTrainer(generator, config, pairs, [[1, 2]] * len(pairs), prompts, **more)
    generator.pipeline.text_encoder.to("cpu")  # a stand-in, which the forecast does not count
    trainer.train()
    shutil.rmtree(folder, ignore_errors=True)
    after = counted.seconds[1:] or counted.seconds
    return {
        "seconds": sum(after) / len(after),
        "peak": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "steps": steps,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
    }


def worker(arguments: argparse.Namespace) -> None:
    """One process of one setting in one mode; the first writes its figures."""
    if arguments.tiny:
        pretend_accelerator()
    architecture, work = setting(arguments.settings[0], arguments.tiny)
    groups = int(os.environ.get("WORLD_SIZE", "1")) // arguments.context_parallel
    work = dataclasses.replace(
        work,
        offload_weights=arguments.offload_weights,
        activation_offloading=arguments.activation_offloading,
        quantization=arguments.quantization,
        context_parallel=arguments.context_parallel,
    )
    found = measure(
        architecture, work, arguments.steps, arguments.compile, groups, arguments.attention_backend
    )
    if int(os.environ.get("RANK", "0")) == 0:
        Path(arguments.json).write_text(json.dumps(found), encoding="utf-8")


def row(name: str, work: Work, architecture: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    head = f"| {name} | {found['mode']} | {found['processes']} "
    if "results" not in found:
        return f"{head}| {found['failed']} |"
    result, expected = found["results"], found.get("forecast")
    peak = result["peak"]
    error = f"{expected / peak - 1:+.0%}" if peak and expected else "–"
    gigabytes = ["–" if value is None else f"{value:.1f}" for value in (peak, expected)]
    share = f"{work.checkpointed_share:.0%}" if work.checkpointed_share else "none"
    return (
        f"{head}| Wan {architecture} | {work.num_frames} × {work.height} × {work.width} | {work.batch} | {share} "
        f"| {result['seconds']:.2f} | {' | '.join(gigabytes)} | {error} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS)[:8])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["single"])
    parser.add_argument("--num_processes", type=int, default=2, help="Processes of a mode that has several.")
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        help="Optimiser steps, of which the first does not count, unless it is one.",
    )
    parser.add_argument("--compile", action="store_true", help="Regional torch.compile.")
    parser.add_argument(
        "--attention_backend", help="Diffusers' name of the kernel, for example _native_cudnn."
    )
    parser.add_argument("--mode_seconds", type=float, default=300.0, help="Most that a setting may take.")
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--json", help="Append the figures to this file, a line a setting.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    for name in ("--offload_weights", "--activation_offloading", "--quantization", "--context_parallel"):
        kind: Any = (
            {"action": "store_true"} if name in ("--offload_weights", "--activation_offloading") else {}
        )
        kind |= {"type": int, "default": 1} if name == "--context_parallel" else {}
        parser.add_argument(name, help=argparse.SUPPRESS, **kind)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    titles = (
        "setting, mode, processes, model, frames × sides, batch, checkpointed, s a step, peak GB, forecast GB"
    )
    print("| " + titles.replace(", ", " | ") + " | error |\n" + "|---" * 11 + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="vidalign-steps-") as folder:
        for name, mode in itertools.product(arguments.settings, arguments.modes):
            found = run_setting(name, mode, arguments, Path(folder))
            architecture, work = setting(name, arguments.tiny)
            print(row(name, work, architecture, found), flush=True)
            if "failed" in found:
                print(found["said"], flush=True)
            add_to(arguments.json, {"setting": name, **found})


def run_setting(name: str, mode: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of a setting in a mode, and the forecast for it."""
    words = ["--worker", "--settings", name, "--steps", str(arguments.steps)]
    words += ["--compile"] if arguments.compile else []
    words += ["--tiny"] if arguments.tiny else []
    words += ["--attention_backend", arguments.attention_backend] if arguments.attention_backend else []
    report = folder / f"{name}-{mode}.json"
    found = run_mode(__file__, mode, arguments.num_processes, words, report, arguments.mode_seconds)
    if mode in UNDIVIDED:
        architecture, work = setting(name, arguments.tiny)
        found["forecast"] = forecast_gb(architecture, in_mode(work, mode, arguments.num_processes))
    return found


if __name__ == "__main__":
    main()
