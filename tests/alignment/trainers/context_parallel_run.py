"""Trains tiny Wan models one after the other in the processes of one launch; started by test_context_parallel.py.

Arguments: the number of processes that share the tokens of a video, the folder of the models, and a file of jobs: a
JSON list of arguments of `train`, with `own_seeds` of `train_with_own_seeds`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from alignment.cli.launcher import without_gpu
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
from generator.output import InputError
from tests.alignment.bright_reward import PROMPTS, BrightReward

STEPS = 3
SIZE = 9, 32, 32
IMAGE = "first.png"
SHOWN = ("wan2.2-ti2v", "wan-i2v")
"""Families that are shown the first frame."""
LARGER = 9, 64, 64
"""With the autoencoder of TI2V-5B as many tokens as `SIZE` with that of the others."""
ROLLOUTS = {
    "ppo": (PPOTrainer, PPOConfig),
    "rwr": (RWRTrainer, RWRConfig),
    "nft": (NFTTrainer, NFTConfig),
    "online_dpo": (OnlineDPOTrainer, OnlineDPOConfig),
}
SAMPLED = {"sample_prompts": "world:train:3", "sample_steps": 2, "sample_num_inference_steps": 2}
SHORT = {"num_rollouts": 2, "monitor_videos": 0, "probe_prompts": 0, "num_inference_steps": 3}
KINDS = {
    "sft": ("sft", "wan", {"ema_decay": 0.5, "eval_strategy": "steps", "eval_steps": 2, **SAMPLED}),
    "sft_checkpoints": (
        "sft",
        "wan",
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    ),
    "sft_bfloat16": ("sft", "wan", {"bf16": True, "gradient_checkpointing": True}),
    "sft_a14b": ("sft", "wan2.2-a14b", {}),
    "sft_ti2v": ("sft", "wan2.2-ti2v", {}),
    "sft_i2v": ("sft", "wan-i2v", {}),
    "dpo": ("dpo", "wan", {"beta": 10.0, "adam_epsilon": 1e-3}),
    "ppo": (
        "ppo",
        "wan",
        {"guidance_scale": 3.0, "beta": 0.1, "reward_batch_size": 3, "adam_epsilon": 1e-3},
    ),
    "ppo_asynchronous": ("ppo", "wan", {"asynchronous_rewards": True, "reward_batch_size": 4, **SHORT}),
    "online_dpo": ("online_dpo", "wan", {"beta": 10.0, "adam_epsilon": 1e-3, **SHORT}),
    "nft": ("nft", "wan", {"adam_epsilon": 1e-3, **SHORT}),
    "rwr": ("rwr", "wan", SHORT),
    "backprop": ("backprop", "wan", {"guidance_scale": 3.0, "beta": 0.1, "backprop_steps": 2}),
}
"""Method, family of the tiny model, and settings of each kind."""


def make_trainer(kind, models, folder, context_parallel, further):
    """The trainer of a kind of `KINDS`; four examples or prompts a step on all processes together."""
    method, family, settings = KINDS[kind]
    generator = load_generator(models / family, device="cpu", dtype=torch.float32)
    settings = {
        "output_dir": str(folder), "report_to": "none", "disable_tqdm": True, "seed": 3,
        "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2, "logging_steps": 1,
        "learning_rate": 1e-2, "adam_epsilon": 1e-2, "context_parallel": context_parallel, **without_gpu(),
        **settings, **further,
    }  # fmt: skip
    size = dict(zip(("num_frames", "height", "width"), SIZE, strict=True))
    lora = LoraArguments(lora_r=4)
    if method in ROLLOUTS or method == "backprop":
        settings = {**size, "num_inference_steps": 4, "eval_steps": 2, **settings}
        texts = {"eval_prompts": ["a dog", "a dot", "a cat"], "lora": lora}
        if method == "backprop":
            settings = {"max_steps": STEPS, "per_device_train_batch_size": 4, **settings}
            return BackpropTrainer(
                generator, BackpropConfig(**settings), PROMPTS[:4], BrightReward(), **texts
            )
        trainer, config = ROLLOUTS[method]
        settings = {
            "num_rollouts": STEPS, "num_prompts": 2, "num_generations": 4, "num_mini_batches": 1, **settings
        }  # fmt: skip
        return trainer(generator, config(**settings), PROMPTS, BrightReward(), **texts)
    random = torch.Generator().manual_seed(1)
    shape = generator.latent_shape(*(LARGER if family == "wan2.2-ti2v" else SIZE))
    latents = [torch.randn(shape, generator=random) for _ in range(8)]
    prompts = (PROMPTS * 2)[:8]
    settings = {"max_steps": STEPS, "per_device_train_batch_size": 4, **settings}
    if method == "sft":
        held_out = (latents[:3], prompts[:3]) if "eval_steps" in settings else ()
        # A known first frame gives TI2V-5B a noise level for each token.
        images = [(str(models / IMAGE), None)] * 8 if family in SHOWN else None
        args = SFTConfig(**settings)
        return SFTTrainer(generator, args, latents, prompts, *held_out, lora=lora, images=images)
    args = DPOConfig(**settings)
    return DPOTrainer.from_pairs(generator, args, latents, latents[::-1], prompts, lora=lora)


def train(kind, models, folder, context_parallel=1, resumed_from=None, **further):
    """Trains and saves the adapter, the logged figures, and the trained weights of this process."""
    trainer = make_trainer(kind, Path(models), Path(folder), context_parallel, further)
    trainer.train(resume_from_checkpoint=resumed_from)
    trainer.save_model()
    folder, rank = Path(folder), trainer.args.process_index
    logged = [{k: v for k, v in entry.items() if "runtime" not in k and "per_second" not in k}
              for entry in trainer.state.log_history]  # fmt: skip
    (folder / f"log{rank}.json").write_text(json.dumps(logged))
    if not trainer.divided_by:
        state = trainer.policy.state_dict()
        save_file(
            {k: v.contiguous() for k, v in state.items() if "lora" in k}, folder / f"rank{rank}.safetensors"
        )
    trainer.accelerator.wait_for_everyone()


def train_with_own_seeds(kind, models, folder, context_parallel):
    """Writes the mistake of processes of a group that are given different batches."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        train(kind, models, folder, context_parallel, seed=int(os.environ["RANK"]))
    except InputError as error:
        Path(folder, f"error{os.environ['RANK']}.txt").write_text(str(error))


def main():
    size, models = int(sys.argv[1]), sys.argv[2]
    torch.accelerator.device_count = lambda: 1  # 0 without a GPU, by which diffusers divides
    for job in json.loads(Path(sys.argv[3]).read_text()):
        run = train_with_own_seeds if job.pop("own_seeds", False) else train
        run(models=models, context_parallel=size, **job)
    return 0
