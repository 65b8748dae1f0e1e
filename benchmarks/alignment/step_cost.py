"""Seconds and memory of SFT and DPO steps on Wan2.1's architecture: `python -m benchmarks.alignment.step_cost`.

Random weights, random latents, the project's own trainers with LoRA of rank 64 in bfloat16; nothing is downloaded. Each
setting trains a few optimiser steps, of which the first does not count. Beside the measured peak stands what
`vidalign doctor` forecasts for it; the forecast is of eager mode and says nothing of `--compile`.

    python -m benchmarks.alignment.step_cost                                        # all settings, on a GPU of 80 GB
    python -m benchmarks.alignment.step_cost --settings sft-33 dpo-33 --compile     # some of them
    python -m benchmarks.alignment.step_cost --tiny                                 # a few seconds on a CPU
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from alignment.lora import LoraArguments
from alignment.memory.forecast import Work, forecast
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.memory_forecast import write_configurations
from benchmarks.alignment.ppo_iteration import ARCHITECTURES, PROMPTS, build_generator, forget
from generator.hardware.offloading import offload_linear_layers

SMALL, LARGE = (33, 240, 416), (81, 480, 832)
SETTINGS: dict[str, tuple[str, Work]] = {
    "sft-33": ("1.3B", Work("sft", *SMALL, lora_r=64)),
    "sft-33-batch4": ("1.3B", Work("sft", *SMALL, batch=4, lora_r=64, checkpointed_share=1.0)),
    "dpo-33": ("1.3B", Work("dpo", *SMALL, lora_r=64)),
    "dpo-33-checkpointed": ("1.3B", Work("dpo", *SMALL, lora_r=64, checkpointed_share=1.0)),
    "sft-81": ("1.3B", Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "dpo-81": ("1.3B", Work("dpo", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "14b-sft-81": ("14B", Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0)),
    "14b-sft-81-offloaded": (
        "14B",
        Work("sft", *LARGE, lora_r=64, checkpointed_share=1.0, offload_weights=True),
    ),
}
TINY = (5, 16, 32)


class Steps(TrainerCallback):
    """Seconds of each optimiser step, and the peak after the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            if state.global_step == 1:
                torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def measure(architecture: str, work: Work, steps: int, compiled: bool) -> dict[str, Any]:
    """Mean seconds of a step after the first, and peak memory in GB (None without a GPU)."""
    on_gpu = torch.cuda.is_available()
    folder = tempfile.mkdtemp()
    kind = SFTConfig if work.method == "sft" else DPOConfig
    config = kind(
        output_dir=folder,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        max_steps=steps,
        per_device_train_batch_size=work.batch,
        compile_blocks=compiled,
        gradient_checkpointing=work.checkpointed_share > 0,
        gradient_checkpointing_share=work.checkpointed_share or 1.0,
    )
    generator = build_generator(architecture, config.device, torch.bfloat16 if on_gpu else torch.float32)
    if work.offload_weights:
        offload_linear_layers(generator.blocks())
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    latents = torch.randn(2 * work.batch, 2, *shape, generator=torch.Generator().manual_seed(0))
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
    after = counted.seconds[1:]
    return {
        "seconds": sum(after) / len(after),
        "peak": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def forecast_gb(architecture: str, work: Work) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return forecast(write_configurations(architecture, Path(folder)), work).peak / 1e9


def row(name: str, architecture: str, work: Work, expected: float, found: dict[str, Any]) -> str:
    """A line of the table."""
    notes = [f"{work.checkpointed_share:.0%} of the blocks" if work.checkpointed_share else "none"]
    notes += ["weights offloaded"] if work.offload_weights else []
    peak, error = found["peak"], "–"
    if peak:
        error = f"{expected / peak - 1:+.0%}"
    return (
        f"| {name} | Wan {architecture} | {work.num_frames} × {work.height} × {work.width} | {work.batch} "
        f"| {', '.join(notes)} | {found['seconds']:.2f} | {'–' if peak is None else f'{peak:.1f}'} | {expected:.1f} "
        f"| {error} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--steps", type=int, default=3, help="Optimiser steps, of which the first does not count."
    )
    parser.add_argument("--compile", action="store_true", help="Regional torch.compile.")
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments = parser.parse_args()
    print(
        "| setting | model | frames × sides | batch | checkpointed | s a step | peak GB | forecast GB | error |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    results = []
    for name in arguments.settings:
        architecture, work = SETTINGS[name]
        if arguments.tiny:
            architecture = "tiny"
            work = dataclasses.replace(work, num_frames=TINY[0], height=TINY[1], width=TINY[2], lora_r=4)
        assert architecture in ARCHITECTURES
        expected = forecast_gb(architecture, work)
        try:
            found = measure(architecture, work, arguments.steps, arguments.compile)
        except torch.cuda.OutOfMemoryError:
            print(f"| {name} | out of memory |", flush=True)
            forget()
            continue
        forget()
        print(row(name, architecture, work, expected, found), flush=True)
        results.append({"setting": name, "forecast": expected, **found})
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
