"""`vidalign reward`: trains a reward model on rankings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from generator.output import prepare_output_dir
from reward.reward_config import RewardConfig

HELP = "Train a reward model on the rankings of people (or of simulated annotators)."
EXAMPLE = "vidalign reward --model nano --preferences rankings.jsonl --output_dir runs/reward"


@dataclass
class RewardArguments:
    """What `vidalign reward` reads, beside the arguments of the training."""

    preferences: str = field(
        metadata={"help": "Rankings file (JSONL), or db:URL#campaign of the labeling app."}
    )
    model: str = field(
        default="nano",
        metadata={"help": "Generator whose first blocks are the trunk: built-in model, folder or hub id."},
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Adapter that the trunk is loaded with, such as the one from sft."}
    )
    demonstrations: str = field(
        default="",
        metadata={
            "help": "Folder of demonstrations (videos with right prompts), from which matching is learned first."
        },
    )
    merge_annotators: bool = field(
        default=False,
        metadata={
            "help": "Merge the rankings of several annotators of the same videos: by mean rank, or from a "
            "database weighed by how reliable each annotator is."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})


ARGUMENTS = (RewardArguments, RewardConfig)


def run(arguments: RewardArguments, config: RewardConfig) -> None:
    """Trains, writes the model with its figures, and prints the held-out accuracy of each dimension."""
    from generator import load_generator
    from generator.demonstrations import read_demonstrations
    from reward.preferences import merge_annotators, read_rankings
    from reward.reward_training import train_reward_model

    from_store = arguments.preferences.startswith("db:")
    if from_store:
        from labeling_app.reliability import read_store

        rankings = read_store(arguments.preferences, weighted=arguments.merge_annotators)
    else:
        rankings = read_rankings(arguments.preferences)
        if arguments.merge_annotators:
            rankings = merge_annotators(rankings)
    demonstrations = read_demonstrations(arguments.demonstrations) if arguments.demonstrations else []
    generator = load_generator(arguments.model, adapter=arguments.adapter, device=config.device)
    if config.resume_from_checkpoint is None:
        prepare_output_dir(str(config.output_dir), arguments.overwrite)
    without_order = sum(not ranking.has_order for ranking in rankings)
    print(
        f"{len(rankings)} rankings of {len({ranking.prompt for ranking in rankings})} prompts; "
        f"{without_order} of them carry no order (everything tied)."
    )
    _, metrics = train_reward_model(
        generator,
        rankings,
        config,
        trunk_adapter=arguments.adapter,
        source=None if from_store else arguments.preferences,
        demonstrations=demonstrations,
    )
    for dimension, figures in metrics.items():
        held_out = figures.get("held_out") if isinstance(figures, dict) else None
        if held_out:
            accuracy, with_ties = held_out["accuracy"], held_out["accuracy_with_ties"]
            print(
                f"{dimension}: held-out pair accuracy {accuracy['mean']:.3f} "
                f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}], with ties {with_ties['mean']:.3f} "
                f"(majority {held_out['majority_baseline']:.3f}, tie rate {held_out['tie_rate']:.3f}, "
                f"{held_out['pairs']} pairs of {held_out['prompts']} prompts)."
            )
    print(f"The reward model is in {Path(str(config.output_dir))}.")
