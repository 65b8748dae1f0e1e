"""`vidalign rewriter`: a language model trained to rewrite prompts."""

from __future__ import annotations

from typing import Any

from alignment.rewriting.training import RewriterTrainingArguments
from generator.files.output_folder import Outputs

HELP = "Train a language model on pairs of prompts, so that it rewrites prompts for a generator."
EXAMPLE = "vidalign rewriter --pairs world:40000 --output_dir runs/rewriter"
RESUME = "To go on from the last checkpoint:"

ARGUMENTS = (RewriterTrainingArguments,)
OUTPUTS = Outputs(
    "rewriter",
    (
        "rewriter.json",
        "*.json",
        "*.safetensors",
        "*.jinja",
        "*.bin",
        "README.md",
        "runs/*/*",
        "checkpoint-#/*",
        "checkpoint-#/*/*",
    ),
    early=("runs/*/*", "checkpoint-#/*", "checkpoint-#/*/*"),
)


def run(arguments: RewriterTrainingArguments) -> Any:
    """Trains by `SFTTrainer`, writes the model in half precision, its tokenizer and `rewriter.json`."""
    import torch

    from alignment.rewriting.instructions import read_instruction
    from alignment.rewriting.rewriters import RECORD
    from alignment.rewriting.training import read_pairs, sft_config, sft_trainer
    from generator.files.output_folder import open_output_dir
    from generator.output import write_json
    from generator.training.output_dir import check_training_dir, goes_on_inside

    instruction = "" if arguments.instruction is None else read_instruction(arguments.instruction)
    pairs = read_pairs(arguments.pairs)
    config = sft_config(arguments)
    checkpoint = check_training_dir(
        config, OUTPUTS, RECORD, arguments.overwrite, [arguments.model, arguments.pairs]
    )
    trainer = sft_trainer(arguments, instruction, pairs)
    folder = open_output_dir(
        arguments.output_dir, OUTPUTS, arguments.overwrite, goes_on_inside(config, checkpoint)
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.model.to(torch.float16).save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    facts = {
        "instruction": instruction,
        "trainer": "SFTTrainer",
        "model": arguments.model,
        "pairs": arguments.pairs,
    }
    write_json(folder / RECORD, {**facts, "num_pairs": len(pairs), "max_steps": arguments.max_steps})
    print(f"The rewriter is in {folder}: pass --rewriter {folder} to generate, evaluate and ppo.")
    return trainer
