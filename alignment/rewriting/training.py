"""Fine-tuning of a rewriter on pairs of prompts, by TRL's `SFTTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError, read_jsonl

SCRATCH = "scratch"


@dataclass
class RewriterTrainingArguments:
    """Language model, pairs of prompts and training."""

    output_dir: str = field(metadata={"help": "Folder of the trained rewriter and its checkpoints."})
    pairs: str = field(
        metadata={
            "help": "Pairs to learn from: JSONL with `prompt` and `rewritten_prompt`, as `vidalign rewrite` writes it, "
            "or world:N[:SEED] for N vague prompts of the built-in world and what its grammar makes of them."
        }
    )
    model: str = field(
        default=SCRATCH,
        metadata={
            "help": "Causal language model with a chat template: a folder or hub id, or scratch for a new one of a "
            "million weights that knows the words of the built-in world alone."
        },
    )
    instruction: str | None = field(
        default=None,
        metadata={
            "help": "Text file with the instruction that stands before each prompt, in training and later. Unset: none."
        },
    )
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA adapters; 0 trains all weights."})
    max_steps: int = field(default=1500, metadata={"help": "Optimiser steps."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs of a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate; it falls by a cosine."})
    save_steps: int = field(default=250, metadata={"help": "Steps between two checkpoints."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and order."})
    report_to: str = field(default="tensorboard", metadata={"help": "Tracker of metrics, or none."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint folder to go on from, or latest."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete what this command wrote into the output folder before."}
    )

    def __post_init__(self) -> None:
        for name in ("max_steps", "per_device_train_batch_size", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.lora_r < 0:
            raise InputError(f"--lora_r is {self.lora_r}, but it must be at least 0.")
        if self.lora_r and self.model == SCRATCH:
            raise InputError(
                "--lora_r adapts a model that is trained already, but --model is scratch: name one, or leave it out."
            )

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no pairs."""
        if not self.pairs.startswith("world:") and not Path(self.pairs).is_file():
            raise InputError(f"The pairs {self.pairs} do not exist: name a .jsonl file, or world:N[:SEED].")


def read_pairs(source: str) -> list[tuple[str, str]]:
    """Pairs of a prompt and its rewritten form.

    Args:
        source: a JSONL file with `prompt` and `rewritten_prompt`, or `world:N[:SEED]`.

    Raises:
        InputError: a line lacks one of them, or there is no pair.
    """
    if source.startswith("world:"):
        from generator.world.elaborate import elaborate, vague_prompts

        count, *seed = source.split(":")[1:]
        if len(seed) > 1 or not all(part.isdecimal() for part in (count, *seed)) or int(count) < 1:
            raise InputError(f"{source} is no source of pairs: write world:N or world:N:SEED.")
        prompts = vague_prompts(int(count), int(seed[0]) if seed else 0)
        return [(prompt, elaborate(prompt)) for prompt in prompts]
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


def sft_trainer(arguments: RewriterTrainingArguments, instruction: str, pairs: list[tuple[str, str]]) -> Any:
    """The trainer of a rewriter, which learns the rewritten prompts and not the prompts."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTTrainer

    from alignment.rewriting.instructions import message_of
    from alignment.rewriting.rewriters import find_chat_model, load_chat_model
    from alignment.rewriting.small_model import small_model, small_tokenizer

    config = sft_config(arguments)
    if arguments.model == SCRATCH:
        tokenizer = small_tokenizer()
        model = small_model(tokenizer)
    else:
        model, tokenizer = load_chat_model(find_chat_model(arguments.model))
    tokenizer.padding_side = "right"
    rows = [
        {
            "prompt": [{"role": "user", "content": message_of(instruction, prompt)}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for prompt, text in pairs
    ]
    lora = LoraConfig(r=arguments.lora_r, lora_alpha=2 * arguments.lora_r, target_modules="all-linear")
    return SFTTrainer(
        model,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora if arguments.lora_r else None,
    )


def sft_config(arguments: RewriterTrainingArguments) -> Any:
    """TRL's configuration of the training; sets the seed of new weights."""
    import torch
    from transformers import set_seed
    from trl import SFTConfig

    set_seed(arguments.seed)
    return SFTConfig(
        output_dir=arguments.output_dir,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=arguments.per_device_train_batch_size,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, arguments.max_steps // 20),
        save_steps=arguments.save_steps,
        save_total_limit=2,
        logging_steps=25,
        seed=arguments.seed,
        report_to=arguments.report_to,
        resume_from_checkpoint=arguments.resume_from_checkpoint,
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=False,
        completion_only_loss=True,
    )
