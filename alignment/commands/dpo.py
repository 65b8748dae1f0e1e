"""`vidalign dpo`: direct preference optimisation on human rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.dpo_config import DPOConfig
from alignment.dpo_trainer import DPOTrainer
from alignment.latent_dataset import encode_files
from alignment.training_run import checkpoint_to_resume, data_record, load_generator_to_train, train_and_save
from generator.base import VideoGenerator
from generator.output import InputError

HELP = "Align a generator directly with rankings of its videos, without a reward model (flow-DPO)."
EXAMPLE = (
    "vidalign dpo --model nano --adapter sft/ --preferences rankings.jsonl --output_dir dpo/ --max_steps 200"
)


@dataclass
class DPOArguments:
    """What `dpo` learns from."""

    preferences: str = field(
        default="",
        metadata={"help": "Rankings, JSONL: prompt, videos, ranks (lower is better, equal is a tie)."},
    )
    dimension: str = field(
        default="overall", metadata={"help": "Which rankings are used: overall, visual, motion or alignment."}
    )
    eval_fraction: float = field(
        default=0.0,
        metadata={"help": "Share of the prompts held out to measure accuracy on; never split a prompt."},
    )
    num_frames: int | None = field(
        default=None,
        metadata={"help": "Frames to train on. Unset: each video's own duration at the model's rate."},
    )
    height: int | None = field(
        default=None, metadata={"help": "Height to resize to. Unset: each video's own."}
    )
    width: int | None = field(default=None, metadata={"help": "Width to resize to. Unset: each video's own."})


def run(
    model: GeneratorArguments,
    data: DPOArguments,
    lora: LoraArguments,
    config: DPOConfig,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[Any] = (),
) -> DPOTrainer:
    """Trains and saves; `generator` takes the place of loading `model`. Returns the trainer after
    training."""
    from reward.preferences import preference_pairs, read_rankings, split_by_prompt

    if not data.preferences:
        raise InputError("No rankings were given: pass --preferences FILE.jsonl.")
    rankings = [r for r in read_rankings(data.preferences) if r.dimension == data.dimension]
    train, held_out = split_by_prompt(rankings, data.eval_fraction, config.seed)
    pairs, eval_pairs = preference_pairs(train), preference_pairs(held_out)
    if not pairs:
        raise InputError(
            f"{data.preferences} gives no pair of videos of which one is better in the dimension "
            f"{data.dimension!r}: "
            "choose another --dimension or add rankings."
        )
    checkpoint = checkpoint_to_resume(config)
    generator = generator or load_generator_to_train(model, config)
    paths = [Path(pair[side]) for pair in [*pairs, *eval_pairs] for side in ("chosen", "rejected")]
    with config.main_process_first():
        latents = encode_files(
            generator,
            paths,
            data.num_frames,
            data.height,
            data.width,
            progress=not config.disable_tqdm,
        )
    chosen, rejected = latents[::2], latents[1::2]
    prompts = [pair["prompt"] for pair in [*pairs, *eval_pairs]]
    cut = len(pairs)
    trainer = DPOTrainer(
        generator,
        config,
        chosen[:cut],
        rejected[:cut],
        prompts[:cut],
        chosen[cut:],
        rejected[cut:],
        prompts[cut:],
        lora=lora,
        record={"model": vars(model), "pairs": cut, **data_record(data.preferences, paths, prompts)},
        callbacks=callbacks,
    )
    train_and_save(trainer, checkpoint)
    return trainer


ARGUMENTS = (GeneratorArguments, DPOArguments, LoraArguments, DPOConfig)
