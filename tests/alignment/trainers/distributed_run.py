"""Trains and runs commands one after the other in the processes of one launch; started by test_distributed.py.

Arguments: the engine by its name for `--accelerate_config`, and a file of jobs: a JSON list of lists of words (a
command) and of arguments of `train`.
"""

import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from alignment import cli
from alignment.cli.launcher import without_gpu
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
from generator.testing.stand_ins import StandInGenerator
from tests.alignment.bright_reward import PROMPTS, BrightReward

FURTHER = {
    "rwr": (RWRTrainer, RWRConfig),
    "nft": (NFTTrainer, NFTConfig),
    "online_dpo": (OnlineDPOTrainer, OnlineDPOConfig),
}
SAMPLED = {"sample_prompts": "world:train:3", "sample_steps": 2}
"""Three samples for two processes."""
VARIANTS = {
    "sft_checkpoints": (
        "sft",
        {"gradient_checkpointing": True, "gradient_checkpointing_share": 0.5, **SAMPLED},
    ),
    "sft_unsampled": ("sft", {"gradient_checkpointing": True, "gradient_checkpointing_share": 0.5}),
    "sft_accumulates": ("sft", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}),
    "dpo_ipo": ("dpo", {"loss_type": "ipo"}),
    "dpo_precomputes": ("dpo", {"precompute_ref_log_probs": True, "gradient_checkpointing": True}),
    "dpo_sft": ("dpo", {"sft_weight": 0.5, "num_noise_draws": 2}),
    "ppo_guidance": ("ppo", {"guidance_scale": 3.0, "gradient_checkpointing": True, "beta": 0.1}),
    "ppo_conditional": ("ppo", {"guidance_scale": 3.0, "unconditional_gradient": False, **SAMPLED}),
    "ppo_critic": ("ppo", {"advantage": "critic", "critic_trunk": "own"}),
    "ppo_passes": ("ppo", {"num_iterations": 2, "num_mini_batches": 2, "sde_window_size": 2}),
    "ppo_ptx": ("ppo", {"ptx_coef": 0.1, "ptx_batch_size": 4, "gradient_checkpointing": True}),
    "ppo_asynchronous": ("ppo", {"asynchronous_rewards": True, "per_device_train_batch_size": 6}),
    "online_dpo_sft": ("online_dpo", {"guidance_scale": 3.0, "sft_weight": 0.1}),
    "refl": ("backprop", {"method": "refl", "guidance_scale": 3.0, "beta": 0.1}),
    # The worst model is loaded at the end, which is that of the first evaluation.
    "ppo_best": ("ppo", {"load_best_model_at_end": True, "greater_is_better": False, "num_eval_videos": 3}),
    "rwr_stops": ("rwr", {"early_stopping_patience": 1, "greater_is_better": False, "num_rollouts": 6}),
    "backprop_best": ("backprop", {"load_best_model_at_end": True, "greater_is_better": False}),
    "draft": ("backprop", {"guidance_scale": 3.0, "beta": 0.1, "gradient_checkpointing": True}),
}


COUNTED = ("sft", "sft_accumulates")
"""Trainings whose reductions, and those of saving, are counted: one and two micro-batches a step."""


def make_trainer(kind, folder, bfloat16=False):
    world = int(os.environ.get("WORLD_SIZE", "1"))
    saves = kind not in VARIANTS or kind in COUNTED or "best" in kind  # else their kinds are saved
    kind, further = VARIANTS.get(kind, (kind, {}))
    settings = {
        "output_dir": folder, "report_to": "none", "disable_tqdm": True, "seed": 3,
        "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2, "logging_steps": 1,
        "save_total_limit": None, "learning_rate": 1e-2,
        "adam_epsilon": 1e-3, **without_gpu(),
    }  # fmt: skip
    generator = StandInGenerator()
    if bfloat16:
        generator.transformer.to(torch.bfloat16)
    random = torch.Generator().manual_seed(1)
    latents = [torch.randn(4, 2, 2, 2, generator=random) for _ in range(8)]
    prompts = (PROMPTS * 2)[:8]
    if kind in ("ppo", "rwr", "nft", "online_dpo"):
        settings |= {
            "num_rollouts": 4, "num_prompts": 4, "num_generations": 4, "num_inference_steps": 4,
            "num_mini_batches": 1, "per_device_train_batch_size": 24,
        }  # fmt: skip
    else:
        settings |= {"max_steps": 4, "per_device_train_batch_size": 4 // world}
    held_out = (
        ["a dog", "a dot", "a red cat"] if kind in ("ppo", "rwr", "nft", "online_dpo", "backprop") else None
    )
    if held_out:
        settings |= {"eval_steps": 2}
    if kind == "backprop":
        settings |= {"num_inference_steps": 4, "backprop_steps": 2}
    if kind == "dpo":
        settings |= {"beta": 100.0}
    settings |= further
    if not saves:
        settings |= {"save_strategy": "no"}
    if kind == "ppo":
        # Only the first process observes this; its log must not wait for the others' values.
        first = int(os.environ.get("RANK", "0")) == 0
        monitors = [lambda rollout: {"first": 2.5}] if first else []
        demonstrations = (latents, prompts) if "ptx_coef" in further else None
        return PPOTrainer(
            generator,
            PPOConfig(**settings),
            PROMPTS,
            BrightReward(),
            demonstrations=demonstrations,
            monitors=monitors,
            eval_prompts=held_out,
        )
    if kind in FURTHER:
        trainer_class, config_class = FURTHER[kind]
        return trainer_class(
            generator, config_class(**settings), PROMPTS, BrightReward(), eval_prompts=held_out
        )
    if kind == "backprop":
        return BackpropTrainer(
            generator, BackpropConfig(**settings), prompts, BrightReward(), eval_prompts=held_out
        )
    if kind == "sft":
        return SFTTrainer(generator, SFTConfig(**settings), latents, prompts)
    return DPOTrainer.from_pairs(generator, DPOConfig(**settings), latents, latents[::-1], prompts)


class Reductions(TorchDispatchMode):
    """Counts the calls of each kind of reduction inside, by the engine or by a trainer.

    Not by torch.profiler, whose end may meet threads of torch.distributed that still write to it.
    """

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # so that its own reductions come here
        if func.namespace == "c10d" and "reduce" in func.name():
            self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def traffic(file, counted):
    """Writes the number of calls of each kind of reduction inside the block."""
    if not counted or "RANK" not in os.environ:
        yield
        return
    with Reductions() as seen:
        yield
    file.write_text(json.dumps(seen.calls))


@contextmanager
def unchanged_outputs(network):
    """Fails where anything changes in place what the network has returned, which FSDP's hooks would not outlive."""
    returned = []

    def note(module, inputs, output):
        if torch.is_grad_enabled():
            output = output if isinstance(output, torch.Tensor) else output[0]
            returned.append((output.detach(), output._version))

    hook = network.register_forward_hook(note)
    yield
    hook.remove()
    assert returned
    assert all(output._version == version for output, version in returned)


ENGINES = {
    "single": DistributedType.NO, "multi_gpu": DistributedType.MULTI_CPU, "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED, "fsdp": DistributedType.FSDP,
}  # fmt: skip


def train(kind, engine, folder, resumed_from=None, bfloat16=False):
    """Trains, saves the adapter, and writes each process's weights.

    Args:
        kind: sft, dpo, ppo, rwr, nft, online_dpo, backprop or one of `VARIANTS`.
        resumed_from: a checkpoint.
        bfloat16: whether the frozen base is in bfloat16.
    """
    folder = Path(folder)
    trainer = make_trainer(kind, str(folder), bfloat16)
    assert trainer.accelerator.distributed_type == ENGINES[engine]  # not DDP, which would be as right
    counted = traffic(folder / f"traffic{trainer.args.process_index}.json", kind in COUNTED)
    with counted, unchanged_outputs(trainer.policy.transformer):
        trainer.train(resume_from_checkpoint=resumed_from)
    if engine == "multi_gpu":
        assert not trainer.model_wrapped.find_unused_parameters
    trainer.save_model()
    losses = {e["step"]: e["loss"] for e in trainer.state.log_history if "loss" in e}
    (folder / f"losses{trainer.args.process_index}.json").write_text(json.dumps(losses))
    if kind.startswith("ppo"):
        assert all(entry["first"] == 2.5 for entry in trainer.state.log_history if "reward" in entry)
    state = trainer.policy.state_dict()
    if engine in ("zero3", "fsdp"):
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    trained = {name: value.clone().contiguous() for name, value in state.items() if "lora" in name}
    if trained:
        save_file(trained, folder / f"rank{trainer.args.process_index}.safetensors")
    evaluations = {e["step"]: e["eval_reward"] for e in trainer.state.log_history if "eval_reward" in e}
    if evaluations:
        name = f"evaluations{trainer.args.process_index}.json"
        (folder / name).write_text(json.dumps(evaluations))
    trainer.accelerator.wait_for_everyone()


def main() -> int:
    engine, jobs = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    for job in jobs:
        if isinstance(job, list):
            code = cli.main(job)
            if code:
                return code
        else:
            train(engine=engine, **job)
    return 0
