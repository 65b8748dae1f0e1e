"""Two GPUs against one: the loss curve with the same global batch, and the throughput.

    python -m benchmarks.alignment.distributed_throughput --num_processes 2

Supervised fine-tuning of a widened built-in transformer with random weights (`--hidden_size`, `--num_layers`), on
random latents in float32, as one process and under `zero2` and `zero3` (or the `--modes` asked for), each started as
`--accelerate_config` starts it. Prints the largest relative difference of the loss curve from that of one process,
samples a second after the first steps, and the speed-up. A mode that fails or outlasts `--mode_seconds` is
said, and the others go on. `--tiny` is a small model for trying this out on a CPU.
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

from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command, without_gpu

MODES = ("single", "multi_gpu", "zero2", "zero3")
WARM_UP = 3


class Stamps(TrainerCallback):
    """Times at which the optimiser steps ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def worker(arguments: argparse.Namespace) -> None:
    """One process of one mode; the first writes losses and throughput."""
    from alignment.lora import LoraArguments
    from alignment.trainers.sft_config import SFTConfig
    from alignment.trainers.sft_trainer import SFTTrainer
    from generator.families.native import NativeGenerator
    from generator.native.building import build_pipeline

    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = SFTConfig(
        output_dir=arguments.worker,
        max_steps=arguments.steps,
        learning_rate=1e-3,
        logging_steps=1,
        per_device_train_batch_size=arguments.batch // world,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        lr_scheduler_type="constant",
        bf16=torch.cuda.is_available() and arguments.bf16,
        **without_gpu(),
    )
    head = arguments.hidden_size // arguments.num_heads
    axes = (head // 4, head // 8 * 3, head // 8 * 3)
    transformer = {
        "hidden_size": arguments.hidden_size,
        "num_layers": arguments.num_layers,
        "num_attention_heads": arguments.num_heads,
        "rope_axes_dim": axes,
    }
    with config.device:  # drawing a billion weights takes long on a CPU
        pipeline = build_pipeline(transformer=transformer, seed=0)
    generator: Any = NativeGenerator(pipeline, "widened")
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
            "engine": trainer.accelerator.distributed_type.value,
        }
        (Path(arguments.worker) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def run(mode: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    # Not in the workers, which are started by the file's path.
    from benchmarks.alignment.engine_modes import wait_or_stop

    processes = 1 if mode == "single" else arguments.num_processes
    launch = argparse.Namespace(**vars(LaunchArguments(accelerate_config=mode, num_processes=processes)))
    words = launch_command(launch, [], torch.cuda.device_count())
    passed = without_option(sys.argv[1:], "--modes", "--json")
    out = folder / mode
    out.mkdir()
    sizes = [f"--{name}={getattr(arguments, name)}" for name in TINY] if arguments.tiny else []
    command = [*words[: words.index("--module")], __file__, *passed, *sizes, "--worker", str(out)]
    environment = dict(os.environ)
    if torch.cuda.device_count() == 0:
        environment |= environment_without_gpu(words) | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with (out / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = wait_or_stop(process, arguments.mode_seconds)
        log.seek(0)
        said = log.read()
    if code != 0:
        reason = f"stopped after {arguments.mode_seconds:.0f} s" if code is None else code
        raise RuntimeError(f"{mode} failed ({reason}):\n{said[-4000:]}")
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return {**result, "mode": mode, "processes": processes, "seconds": time.perf_counter() - start}


def without_option(words: list[str], *names: str) -> list[str]:
    """`words` without some options and their values, and without `--tiny`."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word.split("=")[0] in names
        if not skipping and word != "--tiny":
            kept.append(word)
    return kept


TINY: dict[str, int] = {
    "hidden_size": 64, "num_layers": 3, "num_heads": 2, "batch": 4, "steps": 6,
    "num_frames": 5, "height": 16, "width": 16,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=["single", "zero2", "zero3"], choices=MODES)
    parser.add_argument("--hidden_size", type=int, default=2048)
    parser.add_argument("--num_layers", type=int, default=17)
    parser.add_argument("--num_heads", type=int, default=32)
    parser.add_argument("--batch", type=int, default=40, help="Videos of a step, over all processes.")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--mode_seconds", type=float, default=150.0, help="Most that a mode may take.")
    parser.add_argument("--json", type=Path, help="Also write losses and figures to this file.")
    parser.add_argument("--num_frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="Train all weights instead of LoRA.")
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
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vidalign-throughput-") as folder:
        for mode in arguments.modes:
            try:
                results.append(run(mode, arguments, Path(folder)))
            except RuntimeError as error:
                print(error, flush=True)
                continue
            print(row(results[-1], results[0]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if not results:
        raise SystemExit("No mode ended well.")
    first = results[0]
    losses = ", ".join(f"{loss:.4f}" for loss in first["losses"])
    print(
        f"\n{first['weights'] / 1e6:.0f} M weights, {first['trained'] / 1e6:.1f} M trained; losses {losses}"
    )
    print("Seconds with start-up: " + ", ".join(f"{r['mode']} {r['seconds']:.0f}" for r in results))


def row(result: dict[str, Any], first: dict[str, Any]) -> str:
    """A line of the table, against the first mode that ended well."""
    pairs = zip(result["losses"], first["losses"], strict=True)
    difference = max(abs(a - b) / abs(b) for a, b in pairs)
    speed = result["samples_per_second"]
    gain = speed / first["samples_per_second"]
    return f"| {result['mode']} | {result['processes']} | {difference:.1e} | {speed:.2f} | {gain:.2f} |"


if __name__ == "__main__":
    main()
