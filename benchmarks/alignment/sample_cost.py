"""Seconds that samples while training cost, and whether the weights are those of a training without.

    python -m benchmarks.alignment.sample_cost

Trains SFT on random latents, once without samples and once with `--sample_prompts`; prints the seconds of both, of a
sample, and the largest difference of the trained weights, which is 0.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from generator import load_generator


def trained(asked: argparse.Namespace, folder: Path, sampled: bool) -> tuple[dict[str, Tensor], float, int]:
    """Weights, seconds and number of samples of a training."""
    generator = load_generator(asked.model, dtype=torch.bfloat16 if asked.bf16 else None)
    own = generator.defaults
    size = (asked.num_frames or own.num_frames, asked.height or own.height, asked.width or own.width)
    random = torch.Generator().manual_seed(0)
    latents = [torch.randn(generator.latent_shape(*size), generator=random) for _ in range(8)]
    samples = {
        "sample_prompts": asked.sample_prompts, "sample_steps": asked.sample_steps, "sample_count": asked.sample_count,
        "sample_num_inference_steps": asked.num_inference_steps, "sample_num_frames": asked.sample_num_frames,
    }  # fmt: skip
    config = SFTConfig(
        output_dir=str(folder), max_steps=asked.steps, per_device_train_batch_size=asked.batch_size, bf16=asked.bf16,
        gradient_checkpointing=asked.bf16, report_to="none", save_strategy="no", disable_tqdm=True,
        **(samples if sampled else {}),
    )  # fmt: skip
    trainer = SFTTrainer(generator, config, latents, ["a red circle"] * len(latents))
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    weights = {name: p.detach().cpu() for name, p in trainer.policy.named_parameters() if p.requires_grad}
    return weights, seconds, len(list(folder.glob("samples/step-*/*.mp4")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--bf16", action="store_true")
    for name in ("num_frames", "height", "width", "num_inference_steps", "sample_num_frames"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--sample_prompts", default="world:test:4")
    parser.add_argument("--sample_steps", type=int, default=25)
    parser.add_argument("--sample_count", type=int, default=4)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        trained(asked, Path(folder) / "first", sampled=False)  # what is done once is not measured
        plain, without, _ = trained(asked, Path(folder) / "plain", sampled=False)
        sampled, with_samples, count = trained(asked, Path(folder) / "sampled", sampled=True)
    figures = {
        "steps": asked.steps,
        "seconds without samples": round(without, 2),
        "seconds with samples": round(with_samples, 2),
        "samples": count,
        "seconds a sample": round((with_samples - without) / count, 3),
        "largest difference of the weights": max(
            (plain[name] - sampled[name]).abs().max().item() for name in plain
        ),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
