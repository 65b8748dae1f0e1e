"""Table of what is trained, shown before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from alignment.data.latent_dataset import LatentDataset
from alignment.memory.training_memory import count_tokens
from generator.base import VideoGenerator
from generator.latent_cache import Size
from generator.training.table import describe_device, format_table, trained_share

if TYPE_CHECKING:
    from alignment.trainers.base_trainer import AlignmentTrainer

_SIZES_NAMED = 4


def size_of_latents(generator: VideoGenerator, shape: Sequence[int]) -> Size:
    """Frames, height and width of the video that latents `(channels, frames, height, width)` stand for."""
    side, time = generator.size_multiples()
    _, of_one, rows, _ = generator.latent_shape(1, side, side)
    of_more = generator.latent_shape(time + 1, side, side)[1]
    space = side // rows
    return (shape[1] - of_one) * time // (of_more - of_one) + 1, shape[2] * space, shape[3] * space


def describe_sizes(generator: VideoGenerator, shapes: Sequence[Sequence[int]]) -> dict[str, str]:
    """Rows that say how large videos with latents of these shapes are, and how many tokens each has."""
    counts = Counter(tuple(shape) for shape in shapes)
    named, tokens = [], []
    for shape, count in counts.most_common(_SIZES_NAMED):
        frames, height, width = size_of_latents(generator, shape)
        each = f"{frames} frames of {height}x{width} ({frames / generator.defaults.fps:.1f} s)"
        named.append(each if len(counts) == 1 else f"{count} of {each}")
        tokens.append(str(count_tokens(generator, shape)))
    if len(counts) > _SIZES_NAMED:
        rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_SIZES_NAMED))
        named.append(f"{rest} of {len(counts) - _SIZES_NAMED} other sizes")
        tokens.append("…")
    return {"size": "; ".join(named), "tokens": f"{', '.join(tokens)} a video"}


def describe_dataset(trainer: AlignmentTrainer, dataset: LatentDataset) -> dict[str, str]:
    """Rows about a data set of clips, or of rankings of clips."""
    clips = [tuple(side.shape) for sides in dataset.latents for side in sides]
    held_out = f", {len(trainer.eval_dataset)} held out" if trainer.eval_dataset is not None else ""  # type: ignore[arg-type]
    prompts = f"{len(set(dataset.rows))} prompts"
    if dataset.ranks is None:
        data = {"clips": f"{len(clips)} with {prompts}{held_out}"}
    else:
        data = {"rankings": f"{len(dataset)} of {prompts}, {len(clips)} videos{held_out}"}
    return {**data, **describe_sizes(trainer.generator, clips)}


def describe_weights(trainer: AlignmentTrainer) -> dict[str, str]:
    """Rows about the network and where it is trained."""
    how = f"LoRA of rank {trainer.lora.lora_r} on {len(trainer.lora_layers)} layers"
    return {
        "model": trainer.generator.name,
        "trained": trained_share(trainer.generator.transformer)
        + (f" ({how})" if trainer.lora.use_peft else ""),
        "device": describe_device(trainer.args, trainer.generator.dtype),
    }


class TrainingTable(TrainerCallback):
    """Prints what is trained when training starts."""

    def __init__(self, trainer: AlignmentTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero or args.disable_tqdm:
            return
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = f"{state.max_steps} of {batch} {self.trainer.row_name}"
        if state.global_step:
            steps += f", {state.global_step} done"
        name = type(self.trainer).__name__.removesuffix("Trainer")
        rows = {**self.trainer.describe_data(), "steps": steps, **describe_weights(self.trainer)}
        print(format_table(f"{name} trains on", rows), flush=True)


def show_before_training(trainer: AlignmentTrainer) -> None:
    """Lets `trainer` print its table before its first step and before its progress bar appears."""
    trainer.callback_handler.callbacks.insert(0, TrainingTable(trainer))
