"""Reward models: from rankings to a folder that `load_reward` reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.state import PartialState
from transformers import TrainerCallback

from generator.adapters.base_adapters import split_weight
from generator.base import VideoGenerator
from generator.data.demonstrations import read_demonstrations
from generator.files.output_folder import open_output_dir
from generator.hardware.zero3 import outside_engine
from generator.lost_words import warn_of_lost_words
from generator.one_or_several import as_list
from generator.output import InputError, refuse_unwritable
from generator.sampling import video_size
from generator.training.output_dir import check_training_dir, goes_on_inside
from generator.training.table import describe_device, format_table, trained_share
from generator.video import check_videos
from generator.video_model import require_one_model
from reward.formats import FORMAT_HELP, read_preferences
from reward.models.base import RewardModel
from reward.models.latent import ADAPTER_NAME
from reward.models.storage import CONFIG_NAME, read_reward_config, reward_folder
from reward.models.trunk_files import stored_sources
from reward.preferences import (
    Ranking,
    merge_annotators,
    require_source,
    split_rankings,
    warn_of_few_prompts,
)
from reward.tags import read_tag_weights, tag_dimension, tag_rankings, weighted_by_tags
from reward.training.outputs import OUTPUTS
from reward.training.reward_config import RewardConfig
from reward.training.train import train_reward_model
from reward.training.vlm_trainer import VLMArguments, train_vlm_reward_model, vlm_reward_config

SOURCES = ("base_adapter", "transformer", "transformer_2", "motion_adapter")
"""Arguments that name files beside the trunk's folder."""


@dataclass
class RewardArguments:
    """Preferences and trunk of the reward model."""

    preferences: str = field(
        metadata={
            "help": "Rankings file (JSONL, or one of VideoGen-RewardBench, GenAI-Bench, ImageReward or Rapidata), "
            "or db:URL#campaign of the labeling app."
        }
    )
    format: str = field(default="auto", metadata={"help": FORMAT_HELP})
    model_type: str = field(
        default="latent",
        metadata={
            "help": "Kind: latent (the generator's first blocks, no decoding) or vlm (a vision-language model, --vlm)."
        },
    )
    model: str = field(
        default="nano",
        metadata={"help": "Generator whose first blocks are the trunk: built-in model, folder or hub id."},
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Adapter that the trunk is loaded with, such as the one from sft."}
    )
    base_adapter: list[str] | None = field(
        default=None,
        metadata={
            "help": "LoRA files FILE[:WEIGHT] that make the trunk's base, as those of sft and ppo, such as a few-step "
            "LoRA; kept with the model."
        },
    )
    transformer: str | None = field(
        default=None,
        metadata={
            "help": "File with the weights of the trunk's transformer instead of those in the model's folder, as that "
            "of sft; it has to stay where it is."
        },
    )
    transformer_2: str | None = field(
        default=None, metadata={"help": "The same for the transformer of low noise (Wan 2.2 A14B)."}
    )
    motion_adapter: str | None = field(
        default=None, metadata={"help": "AnimateDiff's motion modules of the trunk, as those of sft."}
    )
    demonstrations: str = field(
        default="",
        metadata={
            "help": "Folder of demonstrations (videos with right prompts), from which matching is learned first."
        },
    )
    pretraining: str = field(
        default="",
        metadata={
            "help": "Rankings file to learn from before those of people, such as of near misses: "
            "`python -m generator.world.near_misses`; best with --full_trunk true."
        },
    )
    weights_from: str = field(
        default="",
        metadata={
            "help": "Latent reward model to go on from, when more rankings have come, as a folder or as a name such as "
            "nano-v1-reward: it says what the model is made of, and --model and --adapter are its own."
        },
    )
    merge_annotators: bool = field(
        default=False,
        metadata={
            "help": "Merge the rankings of several annotators of the same videos: by mean rank, or from a "
            "database weighed by how reliable each annotator is."
        },
    )

    tag_dimension: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tags of `label export` that become dimensions of their own, such as wrong_motion: a video with "
            "the tag ranks below one without."
        },
    )
    tag_weights: list[str] | None = field(
        default=None,
        metadata={
            "help": "Weights of tags in the loss, such as artefact=0.5 wrong_count=2: a pair of videos weighs the "
            "product of the weights of the tags that either has; 0 leaves the pair out."
        },
    )

    def __post_init__(self) -> None:
        self.base_adapter = None if self.base_adapter is None else as_list(self.base_adapter)

    def sources(self) -> dict[str, Any]:
        """Files beside its folder that the trunk is loaded from: keyword arguments of `load_generator` and names of
        flags."""
        found = {name: getattr(self, name) for name in SOURCES}
        return {name: value for name, value in found.items() if value}

    def check_inputs(self) -> None:
        """Raises `InputError` for a type of model that does not exist or goes with other inputs, and where there is no
        file of rankings."""
        _check_model_type(self)
        read_tag_weights(self.tag_weights or ())
        require_source(self.preferences, self.format)


def read_rankings_file(preferences: str, format: str, merge: bool) -> list[Ranking]:
    """Rankings from a file of any known layout, those of several annotators merged if asked for."""
    rankings = read_preferences(preferences, format)
    return merge_annotators(rankings) if merge else rankings


def train_reward(
    model: str | Path | None = None,
    preferences: str | Path | Sequence[Ranking] | RewardArguments = "",
    *,
    args: RewardConfig,
    adapter: str | Path | None = None,
    vlm: VLMArguments | None = None,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    read: Callable[[str, str, bool], list[Ranking]] = read_rankings_file,
) -> tuple[RewardModel, dict[str, Any]]:
    """Trains a reward model on rankings and writes it, with its figures, to `args.output_dir`.

    Args:
        model: name or folder of the generator whose first blocks are the trunk; that of `preferences` where not given.
        preferences: file of rankings, the rankings themselves, or the arguments of the command `reward`.
        args: configuration of the training.
        adapter: folder of an adapter that the trunk is loaded with; that of `preferences` where not given.
        vlm: what a vision-language reward model is made of.
        generator: takes the place of loading the trunk; it must not be the generator that is aligned.
        callbacks: further callbacks of the trainer.
        read: reads the rankings of a source, by the layout's name and whether annotators are merged.

    Returns:
        The model in evaluation mode, and the figures of `metrics.json`; see `train_reward_model`.

    Raises:
        InputError: the rankings, the model or the output folder cannot be used.
    """
    arguments, rankings = _arguments_of(preferences, model, adapter)
    vlm = vlm or VLMArguments()
    _check_model_type(arguments)
    full_trunk = args.full_trunk
    if arguments.weights_from:
        _check_weights_from(arguments, args)
        arguments, full_trunk = with_stored_trunk(arguments)
    args, go_on = _with_checkpoint(arguments, args, vlm)
    if rankings is None:
        rankings = read(arguments.preferences, arguments.format, arguments.merge_annotators)
    if arguments.tag_dimension or arguments.tag_weights:
        rankings, args = _with_tags(arguments, rankings, args, read)
    demonstrations = read_demonstrations(arguments.demonstrations) if arguments.demonstrations else []
    pretraining = read(arguments.pretraining, "auto", False) if arguments.pretraining else []
    check_videos([video for ranking in (*rankings, *pretraining) for video in ranking.videos])
    split_rankings(rankings, args.held_out_fraction, args.validation_fraction, args.seed)
    refuse_unwritable(str(args.output_dir))
    if arguments.model_type == "latent":
        generator = generator or _load_trunk(arguments, args, full_trunk)
        warn_of_lost_words(generator, [ranking.prompt for ranking in rankings])
        video_size(generator, args.num_frames, args.height, args.width)
    else:
        vlm_reward_config(vlm, args, rankings)
    PartialState().wait_for_everyone()  # all have looked at the folder before one writes into it
    if args.process_index == 0:
        open_output_dir(str(args.output_dir), OUTPUTS, args.overwrite, go_on)
        warn_of_few_prompts(
            (ranking.prompt for ranking in rankings),
            "a reward model learns its prompts by heart and its held-out accuracy has no interval",
        )
    table: list[TrainerCallback] = [RewardTable(rankings), *callbacks]
    # A source that is no file has no hash, and the URL of a database may hold a password.
    is_file = bool(arguments.preferences) and not arguments.preferences.startswith("db:")
    source = arguments.preferences if is_file else None
    if arguments.model_type == "vlm":
        return train_vlm_reward_model(rankings, vlm, args, source, callbacks=table)
    return train_reward_model(
        cast(VideoGenerator, generator),
        rankings,
        args,
        trunk_adapter=arguments.adapter,
        source=source,
        callbacks=table,
        demonstrations=demonstrations,
        pretraining=pretraining,
        weights_from=arguments.weights_from or None,
    )


def _arguments_of(
    preferences: str | Path | Sequence[Ranking] | RewardArguments,
    model: str | Path | None,
    adapter: str | Path | None,
) -> tuple[RewardArguments, list[Ranking] | None]:
    """The arguments of the command, and the rankings where they were given themselves."""
    rankings: list[Ranking] | None = None
    if isinstance(preferences, RewardArguments):
        arguments = preferences
    elif isinstance(preferences, str | Path):
        arguments = RewardArguments(preferences=str(preferences))
    else:
        arguments, rankings = RewardArguments(preferences=""), list(preferences)
    if model is not None:
        arguments = replace(arguments, model=str(model))
    if adapter is not None:
        arguments = replace(arguments, adapter=str(adapter))
    return arguments, rankings


def _check_model_type(arguments: RewardArguments) -> None:
    if arguments.model_type not in ("latent", "vlm"):
        raise InputError(f"The model type {arguments.model_type!r} is unknown: use latent or vlm.")
    if arguments.model_type == "vlm" and (
        arguments.pretraining or arguments.demonstrations or arguments.weights_from
    ):
        raise InputError(
            "--pretraining, --demonstrations and --weights_from are for --model_type latent: leave them off with vlm."
        )
    if arguments.model_type == "vlm" and arguments.sources():
        raise InputError(
            f"--{next(iter(arguments.sources()))} names weights of a generator, on which only --model_type latent is "
            "built: leave it off with vlm."
        )


def _with_tags(
    arguments: RewardArguments,
    rankings: list[Ranking],
    args: RewardConfig,
    read: Callable[[str, str, bool], list[Ranking]],
) -> tuple[list[Ranking], RewardConfig]:
    """The rankings with those by tags and with weights by tags, and the configuration with the tags' dimensions.

    Merged rankings have no tags, so theirs come of the annotators' own.
    """
    merges = arguments.merge_annotators
    own = (
        read(arguments.preferences, arguments.format, False) if merges and arguments.preferences else rankings
    )
    if arguments.tag_dimension:
        by_tag = tag_rankings(own, arguments.tag_dimension)
        rankings = [*rankings, *(merge_annotators(by_tag) if merges else by_tag)]
        args = _with_dimensions(args, arguments.tag_dimension)
    if arguments.tag_weights:
        weights = read_tag_weights(arguments.tag_weights)
        rankings = weighted_by_tags(rankings, weights, own if merges else ())
    return rankings, args


def _with_dimensions(args: RewardConfig, tags: Sequence[str]) -> RewardConfig:
    """A copy of a configuration whose dimensions, where it names some, have the tags too, each of weight 1."""
    if not args.dimensions:
        return args
    args = copy.copy(args)
    args.dimensions = [*args.dimensions, *map(tag_dimension, tags)]
    if args.dimension_weights:
        args.dimension_weights = [*args.dimension_weights, *[1.0] * len(tags)]
    return args


def _with_checkpoint(
    arguments: RewardArguments, args: RewardConfig, vlm: VLMArguments
) -> tuple[RewardConfig, bool]:
    """Checks the output folder; returns a configuration with the checkpoint that is gone on from, and whether the
    folder keeps what it holds."""
    inputs = [arguments.model, arguments.adapter, arguments.preferences, arguments.demonstrations]
    inputs += [arguments.pretraining, arguments.weights_from, vlm.vlm, vlm.vlm_settings]
    inputs += [str(split_weight(text)[0]) for text in arguments.base_adapter or []]
    inputs += [arguments.transformer, arguments.transformer_2, arguments.motion_adapter]
    checkpoint = check_training_dir(
        args, OUTPUTS, CONFIG_NAME, args.overwrite, [name for name in inputs if name]
    )
    go_on = goes_on_inside(args, checkpoint)
    if args.ensemble == 1:  # the members of an ensemble look for their own
        args = copy.copy(args)
        args.resume_from_checkpoint = checkpoint
    return args, go_on


def _load_trunk(arguments: RewardArguments, args: RewardConfig, full_trunk: bool) -> VideoGenerator:
    from generator import load_generator

    # Weights that are trained themselves need the precision of float32; `--bf16` is for the arithmetic.
    dtype = torch.float32 if full_trunk else None
    with outside_engine():
        files = arguments.sources()
        trunk = load_generator(
            arguments.model, adapter=arguments.adapter, device=args.device, dtype=dtype, **files
        )
    require_one_model(trunk, "A reward model has one model's trunk")
    return trunk


def _check_weights_from(arguments: RewardArguments, args: RewardConfig) -> None:
    name = arguments.weights_from
    given = [*(["adapter"] if arguments.adapter is not None else []), *arguments.sources()]
    if given:
        raise InputError(
            f"--{given[0]} was given with --weights_from {name}, whose trunk has its own: leave --{given[0]} off."
        )
    if reward_folder(name).resolve() == Path(str(args.output_dir)).resolve():
        raise InputError(
            f"--weights_from and --output_dir are both {name}: write the new model to another folder."
        )


def with_stored_trunk(arguments: RewardArguments) -> tuple[RewardArguments, bool]:
    """Arguments with the trunk of the model in `weights_from`, if any, and whether its own weights are trained."""
    if not arguments.weights_from:
        return arguments, False
    folder = reward_folder(arguments.weights_from)
    stored = read_reward_config(folder)
    model, adapter = arguments.model, folder / ADAPTER_NAME
    if model == RewardArguments.model:
        model = str(stored.get("base_model", model))
    used = str(adapter) if adapter.is_dir() else arguments.adapter
    trunk = replace(arguments, model=model, adapter=used, **stored_sources(folder, stored).options())
    return trunk, bool(stored.get("full_trunk"))


class RewardTable(TrainerCallback):
    """Prints what a reward model learns from, once, when training starts."""

    def __init__(self, rankings: Sequence[Ranking]) -> None:
        self.rankings: Sequence[Ranking] | None = rankings

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        rankings, self.rankings = self.rankings, None
        if rankings is None or args.disable_tqdm or not state.is_world_process_zero:
            return
        videos = {video for ranking in rankings for video in ranking.videos}
        size = model.reward_model.video_size()
        shown = (
            "each video's own"
            if size is None
            else f"{size['num_frames']} frames of {size['height']}x{size['width']}"
        )
        tied = sum(not ranking.has_order for ranking in rankings)
        weights = [
            ranking.weights[i][j]
            for ranking in rankings
            for i, j in combinations(range(len(ranking.weights or ())), 2)
            if ranking.weights
        ]
        weighed = (
            {"pairs weigh": f"{min(weights):.2f} to {max(weights):.2f} by their tags"} if weights else {}
        )
        rows = {
            "rankings": f"{len(rankings)} of {len({ranking.prompt for ranking in rankings})} prompts; {tied} of them "
            "carry no order (everything tied)",
            **weighed,
            "videos": str(len(videos)),
            "size": shown,
            "steps": f"{state.max_steps} of {args.per_device_train_batch_size * args.world_size} rankings",
            "judges": ", ".join(model.reward_model.dimensions),
            "trained": trained_share(model),
            "device": describe_device(args, next(model.parameters()).dtype),
        }
        print(format_table("The reward model learns from", rows), flush=True)
