"""Kills a training with SIGKILL at random moments, resumes it each time, and compares the weights bit for bit.

    python -m benchmarks.alignment.resume_sigkill --kinds sft dpo ppo --kills 10

Each training is a process of its own on the CPU (a small random generator, LoRA, EMA, accumulation, warm-up). It
writes a checkpoint at every second step, so many kills fall into the writing of one. Prints, for each trainer, how
often it was killed, at which steps it resumed, and whether adapter, averaged weights and losses are those of the run
that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = {
    "sft": "SFT",
    "dpo": "DPO",
    "ppo": "PPO",
    "rwr": "RWR",
    "nft": "NFT",
    "online_dpo": "OnlineDPO",
    "backprop": "Backprop",
}
ADAPTER = "pytorch_lora_weights.safetensors"
STEPS = 60


def worker(kind: str, folder: Path) -> None:
    """One training; goes on from the newest checkpoint in the folder."""
    import torch

    import vidalign
    from alignment.lora import LoraArguments
    from alignment.stages.stage import checkpoint_to_resume, train_and_save
    from generator.testing import tiny_generator
    from reward.models.base import RewardModel

    class Bright(RewardModel):
        name = "bright"
        scores_latents = True

        def score(self, videos: torch.Tensor, prompts: Any) -> Any:
            return {"overall": videos.mean((1, 2, 3, 4))}

        def score_latents(self, latents: torch.Tensor, conditions: Any) -> Any:
            return {"overall": latents.mean((1, 2, 3, 4))}

    config_class: Any = getattr(vidalign, f"{KINDS[kind]}Config")
    trainer_class: Any = getattr(vidalign, f"{KINDS[kind]}Trainer")
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "resume_from_checkpoint": "latest",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_steps": 2,
        "logging_steps": 1,
        "ema_decay": 0.9,
        "learning_rate": 1e-3,
        "seed": 5,
    }
    sizes = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 4}
    rollouts = {"num_rollouts": STEPS // 2, "num_prompts": 2, "num_generations": 4, "num_mini_batches": 2}
    prompts = ["a red ball", "a blue cube", "a star", "two rings"]
    generator = tiny_generator()
    noise = torch.Generator().manual_seed(0)
    latents = [torch.randn(*generator.latent_shape(5, 16, 16), generator=noise) for _ in range(8)]
    if kind in ("sft", "dpo"):
        common |= {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        config = config_class(**common, warmup_steps=5)
        lora = LoraArguments(lora_dropout=0.1 if kind == "sft" else 0.0)
        texts = (prompts * 2)[:8]
        if kind == "sft":
            trainer: Any = trainer_class(generator, config, latents, texts, lora=lora)
        else:
            trainer = trainer_class.from_pairs(generator, config, latents, latents[::-1], texts, lora=lora)
    elif kind == "backprop":
        config = config_class(**common, **sizes, max_steps=STEPS, per_device_train_batch_size=2)
        trainer = trainer_class(generator, config, prompts, Bright())
    else:
        more = {"adaptive_kl_target": 1e-4, "advantage": "critic"} if kind == "ppo" else {}
        config = config_class(**common, **sizes, **rollouts, **more)
        trainer = trainer_class(generator, config, prompts, Bright())
    checkpoint = checkpoint_to_resume(config)
    print(f"resumed from {Path(checkpoint).name if checkpoint else 'nothing'}", flush=True)
    train_and_save(trainer, checkpoint)


def start(kind: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A training that has just begun, and the checkpoint that it goes on from."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--worker", kind, str(folder)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("resumed from"):
            return process, line.split()[-1]
    raise RuntimeError(f"The training {kind} ended before it began: run {' '.join(command)} to see why.")


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"A training failed with exit code {process.returncode}.")


def logged_losses(run: Path) -> list[float]:
    history = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def compare(kind: str, kills: int, seed: int) -> bool:
    """Runs one trainer twice; whether the killed run ends like the other one."""
    from safetensors.torch import load_file

    draw = random.Random(f"{seed} {kind}")
    with tempfile.TemporaryDirectory(prefix="vidalign-resume-") as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        process, _ = start(kind, whole)
        begin = time.perf_counter()
        finish(process)
        duration = time.perf_counter() - begin
        places, done = [], 0
        while done < kills:
            process, place = start(kind, killed)
            places.append(place)
            try:
                process.communicate(timeout=duration * draw.uniform(0.2, 1.5) / kills)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                done += 1
        process, place = start(kind, killed)
        places.append(place)
        finish(process)
        files = [load_file(run / ADAPTER) for run in (whole, killed)]
        equal = all((files[0][name] == files[1][name]).all() for name in files[0])
        losses = [logged_losses(run) for run in (whole, killed)]
        same = equal and losses[0] == losses[1]
        word = "bit for bit" if same else "NOT EQUAL"
        print(f"| {kind} | {done} | {', '.join(places)} | {word} |", flush=True)
        return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]))
        return
    print("| trainer | kills | resumed from | against the uninterrupted run |")
    print("|---|---|---|---|", flush=True)
    results = [compare(kind, arguments.kills, arguments.seed) for kind in arguments.kinds]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
