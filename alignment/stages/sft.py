"""Supervised fine-tuning: from a folder of demonstrations to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.example_images import TrainingClip, check_all_or_none
from alignment.data.latent_dataset import split_prompts
from alignment.lora import LoraArguments
from alignment.stages.arguments import ClipArguments, GeneratorArguments
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
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from generator.base import VideoGenerator
from generator.data.demonstrations import (
    Demonstration,
    mix_captions,
    read_demonstrations,
    require_data_set,
)
from generator.editing.image_cache import ImageSource
from generator.output import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class _Demonstrations:
    """Demonstrations, and their split."""

    dataset: str = field(
        default="",
        metadata={
            "help": 'Folder with videos and metadata.jsonl, one {"file_name": …, "prompt": …} a line; '
            "or with a text file beside each video."
        },
    )
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave out missing and unreadable videos with a warning instead of failing."},
    )
    eval_fraction: float = field(
        default=0.0, metadata={"help": "Share of the prompts held out to measure `eval_loss` on."}
    )
    caption_mix: float = field(
        default=1.0,
        metadata={
            "help": "Share of the videos that are trained on with the caption of `vidalign caption`; the others take "
            "their original prompt, such as 0.95."
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.caption_mix <= 1:
            raise InputError(
                f"caption_mix is {self.caption_mix}, but a share must be in [0, 1]: 0.95 is usual."
            )

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no demonstrations."""
        if not self.dataset:
            raise InputError("No demonstrations were given: pass --dataset FOLDER.")
        require_data_set(self.dataset)


@dataclass
class SFTArguments(ClipArguments, _Demonstrations):
    """Demonstrations that `sft` learns from."""

    def __post_init__(self) -> None:
        ClipArguments.__post_init__(self)
        _Demonstrations.__post_init__(self)


def train_sft(
    model: str | Path | GeneratorArguments = "nano",
    dataset: str | Path | SFTArguments = "",
    *,
    args: SFTConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    callbacks: Sequence[Any] = (),
) -> SFTTrainer:
    """Trains a generator on demonstrations and writes the result to `args.output_dir`.

    Args:
        model: name or folder of the generator, or how it is loaded.
        dataset: folder of demonstrations, or what is learnt from them.
        args: configuration of the trainer.
        lora: LoRA settings; the defaults of `LoraArguments` where not given.
        generator: takes the place of loading `model`.
        callbacks: further callbacks of the trainer.

    Returns:
        The trainer after training.

    Raises:
        InputError: the demonstrations, the model or the output folder cannot be used.
    """
    model, lora = GeneratorArguments.of(model), lora or LoraArguments()
    data = dataset if isinstance(dataset, SFTArguments) else SFTArguments(dataset=str(dataset))
    data.check_inputs()
    demonstrations = read_demonstrations(data.dataset, skip_bad=data.skip_bad)
    demonstrations = mix_captions(demonstrations, data.caption_mix, args.seed)
    prompts = [demonstration.prompt for demonstration in demonstrations]
    paths = [Path(demonstration.video) for demonstration in demonstrations]
    images = [demonstration.images for demonstration in demonstrations]
    check_all_or_none(data.dataset, images, "demonstrations", args.pack)
    train, held_out = split_prompts(prompts, data.eval_fraction, args.seed)
    pictures = image_paths(images)
    checkpoint = checkpoint_to_resume(args, [*generator_inputs(model), data.dataset, *paths, *pictures])
    generator = generator or load_generator_to_train(model, args, size_of_all(data))
    check_trainable(generator, args, lora, "sft", SFTTrainer.shows_first_frames)
    encoded = encode_training_clips(generator, args, [[path] for path in paths], data, tiling=model.tiling)
    shown = prepare_images(generator, args, data.dataset, images, encoded)
    data_columns = [_Columns.of(indices, demonstrations, encoded, shown) for indices in (train, held_out)]
    trainer = SFTTrainer(
        generator,
        args,
        data_columns[0].latents,
        data_columns[0].prompts,
        data_columns[1].latents,
        data_columns[1].prompts,
        lora=lora,
        record={
            "model": vars(model),
            **data_record(data.dataset, [*paths, *pictures], prompts),
            **images_record(shown, pictures),
        },
        callbacks=callbacks,
        images=data_columns[0].images,
        eval_images=data_columns[1].images,
    )
    train_and_save(trainer, checkpoint)
    return trainer


@dataclass
class _Columns:
    """Latents, prompts and, where the model is shown any, images of the examples of a split."""

    latents: list[Tensor]
    prompts: list[str]
    images: list[ImageSource] | None

    @classmethod
    def of(
        cls,
        indices: Sequence[int],
        demonstrations: Sequence[Demonstration],
        clips: Sequence[Sequence[TrainingClip]],
        images: Sequence[Sequence[ImageSource]] | None,
    ) -> _Columns:
        """All clips of the demonstrations `indices`, each as often as it is repeated."""
        chosen = [
            (index, place)
            for occurrence in range(max(demonstration.repeats for demonstration in demonstrations))
            for index in indices
            if occurrence < demonstrations[index].repeats
            for place in range(len(clips[index]))
        ]
        return cls(
            [clips[index][place].latents for index, place in chosen],
            [demonstrations[index].prompt for index, _ in chosen],
            None if images is None else [images[index][place] for index, place in chosen],
        )
