"""`vidalign rewriter`: a language model trained to rewrite prompts."""

from __future__ import annotations

from typing import Any

from alignment.rewriting.grpo import VideoRewardArguments
from alignment.rewriting.training import RewriterTrainingArguments
from alignment.stages.arguments import LoadingArguments

HELP = (
    "Train a language model to rewrite prompts for a generator, on pairs of prompts or on rewards of videos."
)
EXAMPLE = (
    "vidalign rewriter --method grpo --model nano-rewriter --prompts world:vague:256 --generator nano --reward world "
    "--output_dir runs/rewriter"
)

ARGUMENTS = (RewriterTrainingArguments, VideoRewardArguments, LoadingArguments)


def run(arguments: RewriterTrainingArguments, videos: VideoRewardArguments, loading: LoadingArguments) -> Any:
    """Runs `train_rewriter`, and says where the rewriter is."""
    from alignment.stages.rewriter import train_rewriter

    trainer = train_rewriter(arguments, videos, loading)
    if trainer.args.process_index == 0:
        folder = arguments.output_dir
        print(f"The rewriter is in {folder}: pass --rewriter {folder} to generate, evaluate and ppo.")
    return trainer
