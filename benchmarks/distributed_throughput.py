"""Two GPUs against one: the loss curve with the same global batch, and the throughput.

    python benchmarks/distributed_throughput.py --num_processes 2

Supervised fine-tuning of a widened built-in transformer with random weights (`--hidden_size`, `--num_layers`), on
random latents, as one process and under `multi_gpu`, `zero2` and `zero3`, each started as `--accelerate_config`
starts it. Prints the largest relative difference of the loss curve from that of one process, samples a second after
the first steps, and the speed-up. `--tiny` is a small model for trying this out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from alignment.launcher import LaunchArguments, launch_command

MODES = ("single", "multi_gpu", "zero2", "zero3")
WARM_UP = 3


class Stamps(TrainerCallback):
    """When each optimiser step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def worker(arguments: argparse.Namespace) -> None:
    """One process of one mode; the first writes losses and throughput."""
    from alignment.adapters import LoraArguments
    from alignment.sft_config import SFTConfig
    from alignment.sft_trainer import SFTTrainer
    from generator.families.native import NativeGenerator
    from generator.native.building import build_pipeline

    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = SFTConfig(
        output_dir=arguments.worker, max_steps=arguments.steps, learning_rate=1e-4, logging_steps=1,
        per_device_train_batch_size=arguments.batch // world, report_to="none", disable_tqdm=True,
        save_strategy="no", lr_scheduler_type="constant", bf16=torch.cuda.is_available() and arguments.bf16,
    )  # fmt: skip
    head = arguments.hidden_size // arguments.num_heads
    axes = (head // 4, head // 8 * 3, head // 8 * 3)
    transformer = {
        "hidden_size": arguments.hidden_size, "num_layers": arguments.num_layers,
        "num_attention_heads": arguments.num_heads, "rope_axes_dim": axes,
    }  # fmt: skip
    generator = NativeGenerator(build_pipeline(transformer=transformer, seed=0), "widened")
    with torch.no_grad():
        weight = generator.transformer.proj_out.weight
        weight.copy_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    for module in generator.pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.to(config.device).requires_grad_(False)
    shape = generator.latent_shape(arguments.num_frames, arguments.height, arguments.width)
    latents = list(torch.randn(2 * arguments.batch, *shape, generator=torch.Generator().manual_seed(1)))
    prompts = [f"a red circle and {number} blue squares" for number in range(len(latents))]
    stamps = Stamps()
    lora = LoraArguments(use_peft=not arguments.full)
    trainer = SFTTrainer(generator, config, latents, prompts, lora=lora, callbacks=[stamps])
    trainer.train()
    if config.process_index == 0:
        times = stamps.times[WARM_UP - 1 :]
        result = {
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
            "samples_per_second": arguments.batch * (len(times) - 1) / (times[-1] - times[0]),
            "weights": sum(p.numel() for p in generator.transformer.parameters()),
            "trained": sum(p.numel() for p in trainer.policy.parameters() if p.requires_grad),
        }
        (Path(arguments.worker) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def run(mode: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    processes = 1 if mode == "single" else arguments.num_processes
    launch = argparse.Namespace(**vars(LaunchArguments(accelerate_config=mode, num_processes=processes)))
    words = launch_command(launch, [], torch.cuda.device_count())
    passed = [word for word in sys.argv[1:] if word != "--tiny"]
    out = folder / mode
    out.mkdir()
    sizes = [f"--{name}={getattr(arguments, name)}" for name in TINY] if arguments.tiny else []
    command = [*words[: words.index("--module")], __file__, *passed, *sizes, "--worker", str(out)]
    environment = dict(os.environ)
    if torch.cuda.device_count() == 0:
        environment |= {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{mode} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


TINY: dict[str, int] = {
    "hidden_size": 64, "num_layers": 3, "num_heads": 2, "batch": 4, "steps": 6,
    "num_frames": 5, "height": 16, "width": 16,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--hidden_size", type=int, default=1536)
    parser.add_argument("--num_layers", type=int, default=29)
    parser.add_argument("--num_heads", type=int, default=24)
    parser.add_argument("--batch", type=int, default=32, help="over all processes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num_frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="train all weights instead of LoRA")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    if arguments.tiny:
        vars(arguments).update(TINY)
    print("| mode | processes | largest relative difference of the loss | samples a second | speed-up |")
    print("|---|---|---|---|---|", flush=True)
    first: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vidalign-throughput-") as folder:
        for mode in arguments.modes:
            result = run(mode, arguments, Path(folder))
            first = first or result
            pairs = zip(result["losses"], first["losses"], strict=True)
            difference = max(abs(a - b) / abs(b) for a, b in pairs)
            speed = result["samples_per_second"]
            processes = 1 if mode == "single" else arguments.num_processes
            gain = speed / first["samples_per_second"]
            print(f"| {mode} | {processes} | {difference:.1e} | {speed:.2f} | {gain:.2f} |", flush=True)
    print(f"\n{first['weights'] / 1e6:.0f} M weights, {first['trained'] / 1e6:.1f} M trained")


if __name__ == "__main__":
    main()
