"""Guidance distilled into an adapter, and what PPO on the gold score reaches from it.

SFT on rendered clips, distillation of classifier-free guidance (`SFTConfig.distill_guidance`) from the base and from
the SFT model, and PPO without guidance from the distilled SFT model; each is measured on held-out prompts at several
guidance scales, with the same noise for all. The adapter `distilled-base` of the second call ships as `nano-distilled`.

    G="python -m benchmarks.alignment.distilled_gains"
    $G --output_dir D --sft 75 --distill 100 --ppo 450
    # what ships as `nano-distilled`, on two cores
    $G --output_dir E --scale gpu --sft 0 --ppo 0 --arms base --guidance 3 --distill 640 --demonstrations 8192 \
        --batch_size 64 --further 128
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignment.lora import LoraArguments
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.study.arms import Budget, Curve, Seed, measure, train
from benchmarks.alignment.study.settings import ALL_LINEAR, FPS, SCALES, SIZE, ppo_settings
from generator.base import VideoGenerator
from generator.world import render_scenes, training_batch
from reward.models.base import WorldReward

SWEEP = (1.0, 2.0, 3.0, 5.0)
FURTHER_SIZES = ((9, 48, 48), (17, 32, 32), (17, 48, 72), (17, 64, 64))
"""Frames, height and width of the other clips that guidance is distilled on."""
PPO: dict[str, Any] = {
    "learning_rate": 5e-4, "step_weight": "inverse_std", "num_prompts": 64, "num_generations": 16, "noise_level": 1.0,
    "guidance_scale": 1.0,
}  # fmt: skip


def demonstrations(
    job: Seed, generator: VideoGenerator, count: int, further: int
) -> tuple[list[torch.Tensor], list[str]]:
    """Latents and prompts of rendered clips: `count` of the study's size, and `further` of each other size."""
    latents: list[torch.Tensor] = []
    prompts: list[str] = []
    sizes = [(count, SIZE)]
    sizes += [(further, {"num_frames": f, "height": h, "width": w}) for f, h, w in FURTHER_SIZES if further]
    for number, size in sizes:
        texts, scenes, _ = training_batch(number, 1000 + job.seed, "train", **size, fps=FPS)
        clips = render_scenes(scenes, **size, fps=FPS)
        for part in clips.split(min(job.scale.batch, 128)):
            latents += list(generator.encode(part.to(generator.device)).cpu())
        prompts += texts
    return latents, prompts


def best_guidance(job: Seed, arm: str) -> float:
    """The scale of the sweep at which `arm` has the highest mean gold score."""
    rows = [json.loads(line) for line in job.results.read_text(encoding="utf-8").splitlines()]
    means = {
        row["guidance"]: sum(row["scores"]) / len(row["scores"])
        for row in rows
        if row.get("arm") == arm and row["seed"] == job.seed and "scores" in row
    }
    return max(means, key=lambda scale: means[scale])


def tune(job: Seed, arm: str, start: str | None, seconds: float, further: int, **changes: Any) -> None:
    """SFT or distillation for `seconds` from the adapter `start`, measured."""
    generator = job.load(job.folder / start if start else None)
    latents, prompts = demonstrations(job, generator, job.scale.demonstrations, further)
    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        **job.common(arm) | {
            "max_steps": 100_000, "per_device_train_batch_size": job.scale.sft_batch, "compile_blocks": on_gpu,
            "caption_dropout": 0.1,
        } | changes
    )  # fmt: skip
    trainer = SFTTrainer(
        generator, config, latents, prompts, lora=LoraArguments(lora_r=32, lora_target_modules=ALL_LINEAR),
        callbacks=[Budget(f"{arm}, seed {job.seed}", seconds, job.deadline, falling=seconds < float("inf"))],
    )  # fmt: skip
    spent = train(trainer)
    trainer.save_model(str(job.folder / arm))
    measure(job, arm, generator, steps=trainer.state.global_step, seconds=spent)


def ppo(job: Seed, arm: str, start: str, seconds: float, prompts: int, **changes: Any) -> None:
    """PPO on the gold score for `seconds` from the adapter `start`, measured."""
    generator = job.load(job.folder / start)
    on_gpu = torch.cuda.is_available()
    settings = ppo_settings(job.scale, 1024 if on_gpu else 16) | PPO | {"compile_blocks": on_gpu} | changes
    if job.scale_name == "tiny":
        settings |= {"num_prompts": 2, "num_generations": 2}
    config = PPOConfig(**job.common(arm) | settings)
    curve = Curve(lambda values: job.add(arm=arm, curve=values, settings=changes))
    trainer = PPOTrainer(
        generator, config, job.prompts(prompts, 3), WorldReward(),
        lora=LoraArguments(lora_r=64, lora_target_modules=ALL_LINEAR),
        callbacks=[Budget(f"{arm}, seed {job.seed}", seconds, job.deadline), curve],
    )  # fmt: skip
    spent = train(trainer)
    trainer.save_model(str(job.folder / arm))
    videos = len(curve.values.get("reward", [])) * config.num_prompts * config.num_generations
    measure(job, arm, generator, videos=videos, seconds=spent, settings=changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scale", default="gpu" if torch.cuda.is_available() else "tiny", choices=SCALES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guidance", type=float, help="Scale that is distilled. Unset: each model's own best."
    )
    parser.add_argument("--sft", type=float, default=75.0, help="Seconds of SFT; 0 leaves it out.")
    parser.add_argument("--distill", type=float, default=100.0, help="Seconds of each distillation; 0: none.")
    parser.add_argument(
        "--distill_steps", type=int, help="Steps of each distillation, in place of the seconds of --distill."
    )
    parser.add_argument("--ppo", type=float, default=450.0, help="Seconds of PPO; 0 leaves it out.")
    parser.add_argument(
        "--arms",
        nargs="*",
        default=["base", "sft"],
        choices=["base", "sft"],
        help="Models whose guidance is distilled.",
    )
    parser.add_argument("--start", default="distilled-sft", help="Adapter that PPO starts from.")
    parser.add_argument("--ppo_prompts", type=int, default=16384)
    parser.add_argument("--ppo_learning_rate", type=float, default=PPO["learning_rate"])
    parser.add_argument("--demonstrations", type=int, help="Rendered clips; those of the scale by default.")
    parser.add_argument("--batch_size", type=int, help="Clips of a step; those of the scale by default.")
    parser.add_argument("--further", type=int, default=1024, help="Clips of each other size to distil on.")
    arguments = parser.parse_args()
    scale = SCALES[arguments.scale]
    SCALES[arguments.scale] = replace(
        scale,
        demonstrations=arguments.demonstrations or scale.demonstrations,
        sft_batch=arguments.batch_size or scale.sft_batch,
    )
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    job = Seed(
        arguments.seed, arguments.scale, arguments.output_dir / "gains.jsonl", arguments.output_dir,
        arguments.model, time.time() + 36_000, 1, 0, SWEEP,
    )  # fmt: skip
    job.folder.mkdir(parents=True, exist_ok=True)
    if arguments.sft or arguments.distill:
        measure(job, "base", job.load())
    if arguments.sft:
        tune(job, "sft", None, arguments.sft, 0, learning_rate=2e-3, logit_mean=1.5)
    if arguments.distill:
        arms = {"base": (None, arguments.further), "sft": ("sft", 0)}
        for arm in arguments.arms:
            start, further = arms[arm]
            if start and not (job.folder / start).is_dir():
                continue
            scale = arguments.guidance or best_guidance(job, arm)
            guided = {"learning_rate": 1e-3, "distill_guidance": scale}
            seconds = arguments.distill
            if arguments.distill_steps:
                seconds = float("inf")
                guided |= {
                    "max_steps": arguments.distill_steps,
                    "warmup_steps": 5,
                    "lr_scheduler_type": "cosine",
                }
            tune(job, f"distilled-{arm}", start, seconds, further, **guided)
    if arguments.ppo:
        rate = arguments.ppo_learning_rate
        ppo(job, "ppo", arguments.start, arguments.ppo, arguments.ppo_prompts, learning_rate=rate)


if __name__ == "__main__":
    main()
