"""`vidalign sft`: supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.latent_dataset import split_prompts
from alignment.sft_config import SFTConfig
from alignment.sft_trainer import SFTTrainer
from alignment.training_run import (
    checkpoint_to_resume,
    data_record,
    generator_inputs,
    load_generator_to_train,
    train_and_save,
)
from generator.base import VideoGenerator
from generator.latent_cache import encode_files
from generator.output import InputError

HELP = "Fine-tune a generator on demonstrations: videos with the prompts they should answer."
EXAMPLE = "vidalign sft --model nano --dataset demonstrations/ --output_dir sft/ --max_steps 200"


@dataclass
class SFTArguments:
    """What `sft` learns from."""

    dataset: str = field(
        default="",
        metadata={
            "help": 'Folder with videos and metadata.jsonl, one {"file_name": …, "prompt": …} a line; '
            "or with a text file beside each video."
        },
    )
    num_frames: int | None = field(
        default=None,
        metadata={"help": "Frames to train on. Unset: each video's own duration at the model's rate."},
    )
    height: int | None = field(
        default=None, metadata={"help": "Height to resize to. Unset: each video's own."}
    )
    width: int | None = field(default=None, metadata={"help": "Width to resize to. Unset: each video's own."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave out missing and unreadable videos with a warning instead of failing."},
    )
    eval_fraction: float = field(
        default=0.0, metadata={"help": "Share of the prompts held out to measure `eval_loss` on."}
    )


def run(
    model: GeneratorArguments,
    data: SFTArguments,
    lora: LoraArguments,
    config: SFTConfig,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[Any] = (),
) -> SFTTrainer:
    """Trains and saves; `generator` takes the place of loading `model`. Returns the trainer after
    training."""
    from generator.demonstrations import read_demonstrations

    if not data.dataset:
        raise InputError("No demonstrations were given: pass --dataset FOLDER.")
    demonstrations = read_demonstrations(data.dataset, skip_bad=data.skip_bad)
    prompts = [demonstration.prompt for demonstration in demonstrations]
    paths = [Path(demonstration.video) for demonstration in demonstrations]
    train, held_out = split_prompts(prompts, data.eval_fraction, config.seed)
    checkpoint = checkpoint_to_resume(config, [*generator_inputs(model), data.dataset, *paths])
    generator = generator or load_generator_to_train(model, config)
    with config.main_process_first():
        latents = encode_files(
            generator,
            paths,
            data.num_frames,
            data.height,
            data.width,
            progress=not config.disable_tqdm,
        )
    trainer = SFTTrainer(
        generator,
        config,
        [latents[index] for index in train],
        [prompts[index] for index in train],
        [latents[index] for index in held_out],
        [prompts[index] for index in held_out],
        lora=lora,
        record={"model": vars(model), **data_record(data.dataset, paths, prompts)},
        callbacks=callbacks,
    )
    train_and_save(trainer, checkpoint)
    return trainer


ARGUMENTS = (GeneratorArguments, SFTArguments, LoraArguments, SFTConfig)
