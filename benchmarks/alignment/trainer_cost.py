"""Time and peak memory of one optimiser step of each trainer, with and without gradient checkpointing.

    python -m benchmarks.alignment.trainer_cost --model nano --num_frames 17 --height 64 --width 64

On a GPU the memory is torch's peak of allocated memory; on a CPU it is the growth of the process's peak resident set,
which later rows can only raise, so compare memory on a GPU. A step has `--batch` videos (SFT, backprop), rankings of
two videos (DPO), or as many rows of a rollout as `--batch` prompts with 8 videos each give (the others), and includes
the share of the rollout that belongs to it.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PrinterCallback

from alignment.lora import LoraArguments
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from generator import load_generator
from generator.base import VideoGenerator
from reward.models.base import RewardModel

MIB = 2**20
PROMPTS = [f"a red circle and {number} blue squares" for number in range(64)]


class Bright(RewardModel):
    """A reward that costs nothing, so that the figures are the trainer's."""

    name = "bright"
    scores_latents = True

    def score(self, videos: torch.Tensor, prompts: Any) -> dict[str, torch.Tensor]:
        return {"overall": videos.mean((1, 2, 3, 4))}

    def score_latents(self, latents: torch.Tensor, conditions: Any) -> dict[str, torch.Tensor]:
        return {"overall": latents.mean((1, 2, 3, 4))}


def load(name: str) -> VideoGenerator:
    if name == "tiny":
        from generator.testing import tiny_generator

        return tiny_generator()
    return load_generator(name, device="cuda" if torch.cuda.is_available() else "cpu")


def trainers(
    arguments: argparse.Namespace, folder: str
) -> dict[str, Callable[[VideoGenerator, dict[str, Any]], Any]]:
    """Functions that make each trainer, from a generator and the common arguments of its configuration."""
    size = {"num_frames": arguments.num_frames, "height": arguments.height, "width": arguments.width}
    batch, steps = arguments.batch, arguments.num_inference_steps
    sampled = {**size, "num_inference_steps": steps, "monitor_videos": 0}
    rollouts = {
        **sampled,
        "num_rollouts": arguments.steps,
        "num_prompts": batch,
        "num_generations": 8,
        "num_mini_batches": 1,
        "per_device_train_batch_size": 8 * batch,
        "rollout_batch_size": 8 * batch,
    }
    plain = {"max_steps": arguments.steps, "per_device_train_batch_size": batch}
    lora = LoraArguments()

    def latents(generator: VideoGenerator) -> list[torch.Tensor]:
        shape = generator.latent_shape(**size)
        return list(torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)))

    def from_rewards(
        trainer: Any, config: Any, **more: Any
    ) -> Callable[[VideoGenerator, dict[str, Any]], Any]:
        return lambda generator, common: trainer(
            generator, config(**{**rollouts, **more, **common}), PROMPTS, Bright(), lora=lora
        )

    return {
        "sft": lambda g, c: SFTTrainer(g, SFTConfig(**plain, **c), latents(g), PROMPTS, lora=lora),
        "dpo": lambda g, c: DPOTrainer.from_pairs(
            g, DPOConfig(**plain, **c), latents(g), latents(g)[::-1], PROMPTS, lora=lora
        ),
        "ppo": from_rewards(PPOTrainer, PPOConfig, beta=0.01),
        "ppo, beta 0": from_rewards(PPOTrainer, PPOConfig, beta=0.0),
        "ppo, critic": from_rewards(PPOTrainer, PPOConfig, beta=0.0, advantage="critic"),
        "online_dpo": from_rewards(OnlineDPOTrainer, OnlineDPOConfig),
        "nft": from_rewards(NFTTrainer, NFTConfig),
        "rwr": from_rewards(RWRTrainer, RWRConfig),
        "backprop": lambda g, c: BackpropTrainer(
            g, BackpropConfig(**plain, **size, num_inference_steps=steps, **c), PROMPTS, Bright(), lora=lora
        ),
    }


def measure(trainer: Any, steps: int) -> tuple[float, float]:
    """Seconds of a step after the first one, and peak memory in MiB."""
    stamps: list[float] = []
    step = trainer.training_step

    def stamped(*args: Any, **kwargs: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return step(*args, **kwargs)

    trainer.training_step = stamped
    trainer.remove_callback(PrinterCallback)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trainer.train()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    end = time.perf_counter()
    micro_batches = len(stamps) // steps
    return (end - stamps[micro_batches]) / (steps - 1), peak / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="Model; `tiny` is a random one for trying this out.")
    parser.add_argument("--num_frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--num_inference_steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="Names of rows.")
    arguments = parser.parse_args()
    print(
        "| trainer | s a step | MiB | s a step, checkpointing | MiB, checkpointing |\n|---|---|---|---|---|"
    )
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vidalign-cost-") as folder:
        for name, make in trainers(arguments, folder).items():
            if arguments.only and name not in arguments.only:
                continue
            cells = []
            for checkpointing in (False, True):
                common = {
                    "output_dir": folder,
                    "report_to": "none",
                    "disable_tqdm": True,
                    "save_strategy": "no",
                    "gradient_checkpointing": checkpointing,
                    "logging_strategy": "no",
                }
                gc.collect()  # what the row before held
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                try:
                    seconds, memory = measure(make(load(arguments.model), common), arguments.steps)
                except (RuntimeError, ValueError) as error:  # the other rows are still worth having
                    failed.append(f"{name}, checkpointing {checkpointing}: {error!r}")
                    cells += ["failed", "–"]
                else:
                    cells += [f"{seconds:.3f}", f"{memory:.0f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n".join(["", *failed]) if failed else "", end="")


if __name__ == "__main__":
    main()
