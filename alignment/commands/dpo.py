"""`vidalign dpo`: direct preference optimisation on human rankings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.dpo_config import DPOConfig
from alignment.dpo_trainer import RankingDPOTrainer
from alignment.latent_dataset import encode_files
from alignment.training_run import (
    checkpoint_to_resume,
    data_record,
    generator_inputs,
    load_generator_to_train,
    train_and_save,
)
from generator.base import VideoGenerator
from generator.output import InputError

if TYPE_CHECKING:
    from reward.preferences import Ranking

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
    merge_annotators: bool = field(
        default=False,
        metadata={
            "help": "Learn from one ranking of each set of videos, the order of its mean ranks, instead of from "
            "each annotator's own."
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


def run(
    model: GeneratorArguments,
    data: DPOArguments,
    lora: LoraArguments,
    config: DPOConfig,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[Any] = (),
) -> RankingDPOTrainer:
    """Trains and saves; `generator` takes the place of loading `model`. Returns the trainer after
    training."""
    from reward.formats import read_preferences
    from reward.preferences import merge_annotators, split_by_prompt, warn_of_few_prompts

    if not data.preferences:
        raise InputError("No rankings were given: pass --preferences FILE.jsonl.")
    rankings = [r for r in read_preferences(data.preferences) if r.dimension == data.dimension]
    if data.merge_annotators:
        rankings = merge_annotators(rankings)
    train, held_out = (
        comparisons(part, config.loss_type)
        for part in split_by_prompt(rankings, data.eval_fraction, config.seed)
    )
    if not train:
        raise InputError(
            f"{data.preferences} gives no pair of videos of which one is better in the dimension "
            f"{data.dimension!r}: "
            "choose another --dimension or add rankings."
        )
    if config.process_index == 0:
        warn_of_few_prompts(
            (ranking.prompt for ranking in rankings),
            "the policy learns these videos rather than what is preferred",
        )
    both = [*train, *held_out]
    paths = [path for comparison in both for path in comparison.videos]
    checkpoint = checkpoint_to_resume(config, [*generator_inputs(model), data.preferences, *paths])
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
    remaining = iter(latents)
    videos = [list(itertools.islice(remaining, len(comparison.videos))) for comparison in both]
    ranks = [comparison.ranks for comparison in both]
    prompts = [comparison.prompt for comparison in both]
    cut = len(train)
    trainer = RankingDPOTrainer(
        generator,
        config,
        videos[:cut],
        ranks[:cut],
        prompts[:cut],
        videos[cut:],
        ranks[cut:],
        prompts[cut:],
        lora=lora,
        record={"model": vars(model), "comparisons": cut, **data_record(data.preferences, paths, prompts)},
        callbacks=callbacks,
    )
    train_and_save(trainer, checkpoint)
    return trainer


@dataclass(frozen=True)
class Comparison:
    """Videos of one prompt that are compared; lower ranks are better, equal ranks are ties."""

    prompt: str
    videos: list[Path]
    ranks: list[int]


def comparisons(rankings: Sequence[Ranking], loss_type: str) -> list[Comparison]:
    """What the loss learns from: untied pairs, whole rankings that have an order, or with `rao_kupper` all."""
    from reward.preferences import MISSING, preference_pairs

    if loss_type in ("sigmoid", "ipo"):
        return [
            Comparison(pair["prompt"], [Path(pair["chosen"]), Path(pair["rejected"])], [0, 1])
            for pair in preference_pairs(rankings)
        ]
    found = []
    for ranking in rankings:
        judged = [(video, rank) for video, rank in zip(ranking.videos, ranking.ranks) if rank != MISSING]
        if len(judged) > 1 and (ranking.has_order or loss_type == "rao_kupper"):
            videos, ranks = zip(*judged)
            found.append(Comparison(ranking.prompt, list(videos), list(ranks)))
    return found


ARGUMENTS = (GeneratorArguments, DPOArguments, LoraArguments, DPOConfig)
