"""Training of a rewriter: its arguments, pairs of prompts, and TRL's `SFTTrainer` on them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError, read_jsonl

SCRATCH = "scratch"
METHODS = ("sft", "grpo")
VARIED_SHARE = 0.3
"""Share of the world's pairs that say other claims, values and phrases than the grammar prefers."""
DEFAULTS = {
    "sft": {"max_steps": 1500, "learning_rate": 2e-3, "logging_steps": 25},
    "grpo": {"max_steps": 200, "learning_rate": 3e-4, "logging_steps": 1},
}
"""Values of unset fields by method."""


@dataclass
class RewriterTrainingArguments:
    """Language model and training."""

    output_dir: str = field(metadata={"help": "Folder of the trained rewriter and its checkpoints."})
    method: str = field(
        default="sft",
        metadata={
            "help": "Method: sft on pairs of prompts, or grpo on rewards of the videos that a rewriter's own texts "
            "give.",
            "choices": list(METHODS),
        },
    )
    pairs: str | None = field(
        default=None,
        metadata={
            "help": "Pairs for sft: JSONL with `prompt` and `rewritten_prompt`, as `vidalign rewrite` writes it, or "
            "world:N[:SEED] for N vague prompts of the built-in world and what its grammar makes of them."
        },
    )
    model: str = field(
        default=SCRATCH,
        metadata={
            "help": "Causal language model with a chat template: a folder, hub id or nano-rewriter, or scratch for a "
            "new one of a million weights that knows the words of the built-in world alone (sft)."
        },
    )
    instruction: str | None = field(
        default=None,
        metadata={
            "help": "Text file with the instruction that stands before each prompt, in training and later. Unset: that "
            "of a rewriter that is trained further, else none."
        },
    )
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA adapters; 0 trains all weights."})
    max_steps: int | None = field(
        default=None, metadata={"help": "Optimiser steps. Unset: 1500 with sft, 200 with grpo."}
    )
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Pairs, or rewritten prompts, of a process in a step."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Micro-batches of a step."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate; it falls by a cosine with sft. Unset: 2e-3 with sft, 3e-4 with grpo."
        },
    )
    save_steps: int = field(default=250, metadata={"help": "Steps between two checkpoints."})
    save_minutes: float = field(
        default=10.0,
        metadata={
            "help": "Save a checkpoint whenever so many minutes have passed too; 0: by save_steps alone."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, order, texts and noise."})
    report_to: str = field(default="tensorboard", metadata={"help": "Tracker of metrics, or none."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint folder to go on from, or latest."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU where there is a GPU too."})
    deepspeed: str | None = field(
        default=None, metadata={"help": "DeepSpeed configuration; --accelerate_config zero2 gives one."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete what this command wrote into the output folder before."}
    )

    def __post_init__(self) -> None:
        for name, value in DEFAULTS.get(self.method, {}).items():
            if getattr(self, name, 0) is None:
                setattr(self, name, value)
        for name in ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.lora_r < 0:
            raise InputError(f"--lora_r is {self.lora_r}, but it must be at least 0.")
        if self.lora_r and self.model == SCRATCH:
            raise InputError(
                "--lora_r adapts a model that is trained already, but --model is scratch: name one, or leave it out."
            )
        if self.method == "grpo" and self.model == SCRATCH:
            raise InputError(
                "--method grpo goes on from a rewriter, but --model is scratch: name nano-rewriter, a folder that "
                "--method sft wrote, or a chat model."
            )
        if self.method == "sft" and self.pairs is None:
            raise InputError("No pairs were given: pass --pairs FILE.jsonl, or world:N[:SEED].")

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no pairs."""
        pairs = self.pairs or "world:"
        if not pairs.startswith("world:") and not Path(pairs).is_file():
            raise InputError(f"The pairs {pairs} do not exist: name a .jsonl file, or world:N[:SEED].")


def read_pairs(source: str) -> list[tuple[str, str]]:
    """Pairs of a prompt and its rewritten form.

    Args:
        source: a JSONL file with `prompt` and `rewritten_prompt`, or `world:N[:SEED]`.

    Raises:
        InputError: a line lacks one of them, or there is no pair.
    """
    if source.startswith("world:"):
        count, *seed = source.split(":")[1:]
        if len(seed) > 1 or not all(part.isdecimal() for part in (count, *seed)) or int(count) < 1:
            raise InputError(f"{source} is no source of pairs: write world:N or world:N:SEED.")
        return _world_pairs(int(count), int(seed[0]) if seed else 0)
    pairs = []
    for place, row in read_jsonl(source):
        texts = row.get("prompt"), row.get("rewritten_prompt")
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(
                f"{place}: expected texts `prompt` and `rewritten_prompt`, found {', '.join(row)}."
            )
        pairs.append((str(texts[0]), str(texts[1])))
    if not pairs:
        raise InputError(f"{source} holds no pair: write at least one line.")
    return pairs


def _world_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Vague prompts of the training split with what the grammar prefers to make of them; a share of `VARIED_SHARE`
    is rewritten in another way, so that the most probable text is the preferred one and sampled texts differ."""
    from generator.world.elaborate import elaborate, vague_prompts, vary

    rng = random.Random(f"pairs-{seed}")
    return [
        (prompt, vary(prompt, rng) if rng.random() < VARIED_SHARE else elaborate(prompt))
        for prompt in vague_prompts(count, seed)
    ]


def sft_trainer(
    arguments: RewriterTrainingArguments, config: Any, instruction: str, pairs: list[tuple[str, str]]
) -> Any:
    """TRL's `SFTTrainer`, which learns the rewritten prompts and not the prompts."""
    from datasets import Dataset
    from trl import SFTTrainer

    from alignment.rewriting.instructions import message_of
    from alignment.rewriting.small_model import small_model, small_tokenizer

    if arguments.model == SCRATCH:
        tokenizer = small_tokenizer()
        model, lora = small_model(tokenizer), None
    else:
        model, tokenizer, lora = trainable_model(arguments, config.device)
    tokenizer.padding_side = "right"
    rows = [
        {
            "prompt": [{"role": "user", "content": message_of(instruction, prompt)}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for prompt, text in pairs
    ]
    return SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora
    )


def sft_config(arguments: RewriterTrainingArguments) -> Any:
    """TRL's configuration of `sft`; sets the seed of new weights."""
    from trl import SFTConfig

    return SFTConfig(
        **shared_settings(arguments),
        lr_scheduler_type="cosine",
        warmup_steps=max(1, (arguments.max_steps or 1) // 20),
        completion_only_loss=True,
    )


def shared_settings(arguments: RewriterTrainingArguments) -> dict[str, Any]:
    """Arguments that TRL's configurations of both methods share; sets the seed."""
    import torch
    from transformers import set_seed

    from generator.training.engines import leave_out_inference_kernel

    set_seed(arguments.seed)
    on_gpu = torch.cuda.is_available() and not arguments.use_cpu
    if arguments.deepspeed and not on_gpu:
        leave_out_inference_kernel()
    same = (
        "output_dir",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "save_steps",
        "seed",
        "report_to",
        "resume_from_checkpoint",
        "deepspeed",
    )
    return {
        **{name: getattr(arguments, name) for name in same},
        "logging_steps": DEFAULTS[arguments.method]["logging_steps"],
        "save_total_limit": 2,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": False,
    }


def trainable_model(arguments: RewriterTrainingArguments, device: Any) -> tuple[Any, Any, Any]:
    """A language model to train, its tokenizer, and the configuration of new LoRA layers; None without.

    Weights that are trained are float32. An adapter's folder is trained further as it is.

    Raises:
        InputError: it cannot be loaded, or is an adapter and new layers are asked for.
    """
    import torch
    from peft import AutoPeftModelForCausalLM, LoraConfig

    from alignment.rewriting.rewriters import find_chat_model, load_chat_model

    folder = find_chat_model(arguments.model)
    adapted = (folder / "adapter_config.json").is_file()
    if adapted and arguments.lora_r:
        raise InputError(
            f"--lora_r is {arguments.lora_r}, but {arguments.model} is an adapter, which is trained further as it is: "
            "leave --lora_r out."
        )
    frozen = adapted or arguments.lora_r > 0
    model, tokenizer = load_chat_model(folder, device, None if frozen else torch.float32)
    if model.dtype == torch.float16:
        model.float()
    if adapted:
        model = AutoPeftModelForCausalLM.from_pretrained(str(folder), is_trainable=True, dtype=model.dtype)
        return model.to(device), tokenizer, None
    if not arguments.lora_r:
        return model, tokenizer, None
    layers = LoraConfig(r=arguments.lora_r, lora_alpha=2 * arguments.lora_r, target_modules="all-linear")
    return model, tokenizer, layers
