"""Seconds and memory of SFT and PPO on AnimateDiff: `python -m benchmarks.alignment.animatediff_cost`.

Random weights of the size of Stable Diffusion 1.5 with a motion adapter of its third version, 16 frames of 512x512, the
project's own trainers in bfloat16 with batches of one; nothing is downloaded. PPO samples 4 videos of a prompt in 10
steps. Each setting trains a few optimiser steps (PPO: rollouts with their update), of which the first does not count.
Beside the measured peak of SFT with the default LoRA stands what `vidalign doctor` forecasts.

    python -m benchmarks.alignment.animatediff_cost            # all settings, on a GPU
    python -m benchmarks.alignment.animatediff_cost --tiny     # a few seconds on a CPU
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, TrainerCallback

from alignment.lora import LoraArguments
from alignment.memory.forecast import Work, forecast
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.ppo_iteration import brightness, forget
from benchmarks.alignment.random_wan import PROMPTS
from generator.families.animatediff import AnimateDiffGenerator
from generator.testing.pipelines import build_tiny_pipeline
from reward.models.base import FunctionReward

SIZE, TINY = (16, 512, 512), (4, 16, 16)
SPATIAL = ["to_q", "to_k", "to_v", "to_out.0"]
SETTINGS: dict[str, dict[str, Any]] = {
    "sft-motion-lora": {},
    "sft-all-lora": {"lora_target_modules": SPATIAL},
    "sft-motion-lora-checkpointed": {"checkpointed": True},
    "sft-motion-modules": {"use_peft": False},
    "ppo-motion-lora": {},
    "ppo-motion-lora-checkpointed": {"checkpointed": True},
}
"""Fields of `LoraArguments`, and whether activations are checkpointed; the method is the first word of the name."""


class Ends(TrainerCallback):
    """Times at which optimiser steps ended; the peak of memory is that after the first."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            if not self.ends:
                torch.cuda.reset_peak_memory_stats()
        self.ends.append(time.perf_counter())


def build_generator(tiny: bool, device: torch.device, dtype: torch.dtype) -> AnimateDiffGenerator:
    """AnimateDiff with random weights in the size of its release; the tiny pipeline of the tests where asked for."""
    torch.manual_seed(0)
    pipeline = build_tiny_pipeline("animatediff")
    if not tiny:
        text = CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, projection_dim=768, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        with device:
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
            )  # fmt: skip
            motion, encoder = MotionAdapter(use_motion_mid_block=False), CLIPTextModel(text)
            scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, beta_schedule="linear")
            tokenizer = pipeline.tokenizer
            pipeline = AnimateDiffPipeline(vae, encoder, tokenizer, unet, motion, scheduler)
    for name in ("unet", "vae", "text_encoder"):
        getattr(pipeline, name).to(device, dtype).requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return AnimateDiffGenerator(pipeline, "AnimateDiff, random weights")


def write_configurations(generator: AnimateDiffGenerator, folder: Path) -> Path:
    """The pipeline's configurations alone, as a download without weights has them."""
    index: dict[str, Any] = {"_class_name": "AnimateDiffPipeline", "text_encoder": [None, None]}
    for name in ("unet", "vae", "scheduler"):
        part = getattr(generator.pipeline, name)
        part.save_config(folder / name)
        index[name] = ["diffusers", type(part).__name__]
    index |= {"tokenizer": [None, None], "motion_adapter": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def measure(name: str, tiny: bool, steps: int, folder: Path) -> dict[str, Any]:
    """Mean seconds of a step (PPO: of a rollout with its update) after the first, peak and forecast in GB, None where
    there is none."""
    settings = dict(SETTINGS[name])
    on_gpu, checkpointed = torch.cuda.is_available(), settings.pop("checkpointed", False)
    common: dict[str, Any] = {
        "output_dir": str(folder / "run"), "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "logging_strategy": "no", "use_cpu": not on_gpu, "bf16": on_gpu, "gradient_checkpointing": checkpointed,
        "per_device_train_batch_size": 1,
    }  # fmt: skip
    size = TINY if tiny else SIZE
    lora = LoraArguments(**settings)
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = build_generator(tiny, device, torch.bfloat16 if on_gpu else torch.float32)
    counted = Ends()
    more: dict[str, Any] = {"lora": lora, "callbacks": [counted]}
    is_sft = name.startswith("sft")
    if is_sft:
        shape = generator.latent_shape(*size)
        latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        config = SFTConfig(**common, max_steps=steps)
        trainer: Any = SFTTrainer(generator, config, list(latents), PROMPTS, **more)
    else:
        ppo = PPOConfig(
            **common, num_rollouts=steps, num_prompts=1, num_generations=4, num_mini_batches=1,
            num_inference_steps=10, num_frames=size[0], height=size[1], width=size[2],
            rollout_batch_size=1, reward_batch_size=1,
        )  # fmt: skip
        rewards = [FunctionReward(brightness, "brightness")]
        trainer = PPOTrainer(generator, ppo, PROMPTS, rewards, **more)
    trainer.train()
    work = Work("sft" if is_sft else "ppo", *size, lora_r=lora.lora_r, checkpointed_share=float(checkpointed))
    usual = lora.use_peft and lora.lora_target_modules is None and is_sft
    return {
        "seconds": (counted.ends[-1] - counted.ends[0]) / (len(counted.ends) - 1),
        "peak": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "forecast": forecast(write_configurations(generator, folder / "model"), work).peak / 1e9
        if usual
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--steps", type=int, default=3, help="Optimiser steps, of which the first does not count; 2 at least."
    )
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments = parser.parse_args()
    print("| setting | s a step | peak GB | forecast GB |\n|---|---|---|---|", flush=True)
    results = []
    for name in arguments.settings:
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, arguments.tiny, max(2, arguments.steps), Path(folder))
        except torch.cuda.OutOfMemoryError:
            print(f"| {name} | out of memory | | |", flush=True)
            forget()
            continue
        forget()
        memory = " | ".join(
            "–" if found[key] is None else f"{found[key]:.1f}" for key in ("peak", "forecast")
        )
        print(f"| {name} | {found['seconds']:.2f} | {memory} |", flush=True)
        results.append({"setting": name, **found})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
