"""Direct preference optimisation: from human rankings to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.data.example_images import check_all_or_none
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments, TrainingSizeArguments
from alignment.stages.checks import check_equal_sizes
from alignment.stages.stage import (
    checkpoint_to_resume,
    data_record,
    encode_training_clips,
    generator_inputs,
    image_paths,
    images_record,
    load_generator_to_train,
    prepare_images,
    size_of_all,
    train_and_save,
)
from alignment.trainers.checks import check_trainable
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from generator.base import VideoGenerator
from generator.first_frames import ImageFiles
from generator.output import InputError
from generator.video import check_videos
from reward.formats import read_preferences
from reward.preferences import (
    MISSING,
    Ranking,
    merge_annotators,
    preference_pairs,
    require_rankings_file,
    split_by_prompt,
    warn_of_few_prompts,
)


@dataclass
class _Rankings:
    """Rankings, and their split."""

    preferences: str = field(
        default="",
        metadata={"help": "Rankings, JSONL: prompt, videos, ranks (lower is better, equal is a tie)."},
    )
    dimension: str = field(
        default="overall",
        metadata={"help": "Dimension whose rankings are used: overall, visual, motion or alignment."},
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


@dataclass
class DPOArguments(TrainingSizeArguments, _Rankings):
    """Rankings that `dpo` learns from."""

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no rankings."""
        if not self.preferences:
            raise InputError("No rankings were given: pass --preferences FILE.jsonl.")
        require_rankings_file(self.preferences)


def train_dpo(
    model: str | Path | GeneratorArguments = "nano",
    preferences: str | Path | DPOArguments = "",
    *,
    args: DPOConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[Any] = (),
) -> DPOTrainer:
    """Aligns a generator with rankings of its videos and writes the result to `args.output_dir`.

    Args:
        model: name or folder of the generator, or how it is loaded.
        preferences: file of rankings, or what is learnt from them.
        args: configuration of the trainer.
        lora: LoRA settings; the defaults of `LoraArguments` where not given.
        generator: takes the place of loading `model`.
        callbacks: further callbacks of the trainer.

    Returns:
        The trainer after training.

    Raises:
        InputError: the rankings, the model or the output folder cannot be used.
    """
    model, lora = GeneratorArguments.of(model), lora or LoraArguments()
    data = (
        preferences if isinstance(preferences, DPOArguments) else DPOArguments(preferences=str(preferences))
    )
    train, held_out = _read_comparisons(data, args)
    both = [*train, *held_out]
    paths = [path for comparison in both for path in comparison.videos]
    check_videos(paths)
    images = [comparison.images for comparison in both]
    check_all_or_none(data.preferences, images, "comparisons", getattr(args, "pack", False))
    pictures = image_paths(images)
    checkpoint = checkpoint_to_resume(args, [*generator_inputs(model), data.preferences, *paths, *pictures])
    generator = generator or load_generator_to_train(model, args, size_of_all(data))
    check_trainable(generator, args, lora, "dpo", DPOTrainer.shows_first_frames)
    groups = [comparison.videos for comparison in both]
    if not (data.area or data.frame_buckets):
        check_equal_sizes(generator, groups, data)
    clips = encode_training_clips(generator, args, groups, data, tiling=model.tiling)
    shown = prepare_images(generator, args, data.preferences, images, clips)
    used = [index for index, each in enumerate(clips) if each]
    cut = sum(index < len(train) for index in used)
    videos = [[each.latents for each in clips[index]] for index in used]
    seen = None if shown is None else [shown[index] for index in used]
    ranks = [both[index].ranks for index in used]
    prompts = [both[index].prompt for index in used]
    trainer = DPOTrainer(
        generator,
        args,
        videos[:cut],
        ranks[:cut],
        prompts[:cut],
        videos[cut:],
        ranks[cut:],
        prompts[cut:],
        lora=lora,
        record={
            "model": vars(model),
            "comparisons": cut,
            **data_record(data.preferences, [*paths, *pictures], prompts),
            **images_record(shown, pictures),
        },
        callbacks=callbacks,
        images=None if seen is None else seen[:cut],
        eval_images=None if seen is None else seen[cut:],
    )
    train_and_save(trainer, checkpoint)
    return trainer


@dataclass(frozen=True)
class Comparison:
    """Videos of one prompt that are compared; lower ranks are better, equal ranks are ties; and the files of the images
    that all of them begin and end with, where they are named."""

    prompt: str
    videos: list[Path]
    ranks: list[int]
    images: ImageFiles | None = None


def comparisons(rankings: Sequence[Ranking], loss_type: str) -> list[Comparison]:
    """Material of the loss: untied pairs, whole rankings that have an order, or with `rao_kupper` all."""
    if loss_type in ("sigmoid", "ipo"):
        return [
            Comparison(pair["prompt"], [Path(pair["chosen"]), Path(pair["rejected"])], [0, 1], ranking.images)
            for ranking in rankings
            for pair in preference_pairs([ranking])
        ]
    found = []
    for ranking in rankings:
        judged = [(video, rank) for video, rank in zip(ranking.videos, ranking.ranks) if rank != MISSING]
        if len(judged) > 1 and (ranking.has_order or loss_type == "rao_kupper"):
            videos, ranks = zip(*judged)
            found.append(Comparison(ranking.prompt, list(videos), list(ranks), ranking.images))
    return found


def _read_comparisons(data: DPOArguments, args: DPOConfig) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons to train on, and held-out ones of other prompts."""
    data.check_inputs()
    rankings = [r for r in read_preferences(data.preferences) if r.dimension == data.dimension]
    if data.merge_annotators:
        rankings = merge_annotators(rankings)
    train, held_out = (
        comparisons(part, args.loss_type) for part in split_by_prompt(rankings, data.eval_fraction, args.seed)
    )
    if not train:
        raise InputError(
            f"{data.preferences} gives no pair of videos of which one is better in the dimension "
            f"{data.dimension!r}: choose another --dimension or add rankings."
        )
    if args.process_index == 0:
        warn_of_few_prompts(
            (ranking.prompt for ranking in rankings),
            "the policy learns these videos rather than what is preferred",
        )
    return train, held_out
