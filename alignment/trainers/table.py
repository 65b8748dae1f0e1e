"""Table of what is trained, shown before the first step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from alignment.data.latent_dataset import LatentDataset
from generator.base import VideoGenerator
from generator.editing.image_cache import size_of_latents
from generator.hardware.compute import count_tokens, operations_text, video_work
from generator.training.table import describe_device, format_table, trained_share

if TYPE_CHECKING:
    from alignment.trainers.base_trainer import AlignmentTrainer

_SIZES_NAMED = 4
CLOSING = ("loss", "reward", "gold", "kl", "rewards/accuracies", "eval_loss", "eval_reward", "eval_gold")
"""Figures that are told when a training ends, where it logged them."""


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


def bucket_rows(
    generator: VideoGenerator, buckets: Sequence[tuple[int, ...]], batch_size: int, processes: int = 1
) -> list[dict[str, Any]]:
    """Size, examples, batches of an epoch and work of each bucket, the one with the most work first.

    Args:
        buckets: of each example, its number of videos and the shape of their latents; see `LatentDataset.buckets`.
        batch_size: examples of a batch.
        processes: that have a batch each at a time.

    Returns:
        `num_frames`, `height`, `width`, `examples`, `steps` (batches of one process), `tokens` (of a video) and `work`
        (share of the network's) of each bucket.
    """
    rows = []
    for bucket, count in Counter(buckets).items():
        shape = bucket[1:]
        frames, height, width = size_of_latents(generator, shape)
        rows.append(
            {
                "num_frames": frames,
                "height": height,
                "width": width,
                "examples": count,
                "steps": math.ceil(count / batch_size / processes),
                "tokens": count_tokens(generator, shape),
                "work": count * bucket[0] * video_work(generator, shape),
            }
        )
    total = sum(row["work"] for row in rows)
    rows = [{**row, "work": row["work"] / total} for row in rows]
    return sorted(rows, key=lambda row: -row["work"])


def format_buckets(rows: Sequence[dict[str, Any]], row_name: str) -> str:
    """Lines of the table of `bucket_rows`, for a terminal."""
    lines = [("size", row_name, "batches", "tokens a video", "share of compute")]
    for row in rows:
        size = f"{row['num_frames']} frames of {row['height']}x{row['width']}"
        numbers = (str(row["examples"]), str(row["steps"]), str(row["tokens"]), f"{100 * row['work']:.1f} %")
        lines.append((size, *numbers))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    return "\n".join(
        "  "
        + "  ".join(
            [line[0].ljust(first), *(text.rjust(w) for text, w in zip(line[1:], others, strict=True))]
        )
        for line in lines
    )


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


def training_compute(generator: VideoGenerator, buckets: Sequence[tuple[int, ...]], examples: int) -> str:
    """Forecast of the transformer's work: a forward pass, and a backward pass of twice its operations.

    Args:
        buckets: of each example, its number of videos and the shape of their latents; see `LatentDataset.buckets`.
        examples: that are seen in the whole training.
    """
    counts = Counter(buckets)
    mean = sum(n * b[0] * video_work(generator, b[1:]) for b, n in counts.items()) / sum(counts.values())
    operations = 3 * 2.0 * mean * len(generator.blocks()) * examples
    return f"about {operations_text(operations)} in the transformer; the bar forecasts the time from the first step on"


class TrainingTable(TrainerCallback):
    """Prints what is trained when training starts."""

    def __init__(self, trainer: AlignmentTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero or args.disable_tqdm:
            return
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.data_parallel_size
        steps = f"{state.max_steps} of {batch} {self.trainer.row_name}"
        if state.global_step:
            steps += f", {state.global_step} done"
        name = type(self.trainer).__name__.removesuffix("Trainer")
        rows = {**self.trainer.describe_data(), "steps": steps, **describe_weights(self.trainer)}
        dataset, trainer = self.trainer.train_dataset, self.trainer
        if trainer.rows is None and isinstance(dataset, LatentDataset):
            remaining = batch * (state.max_steps - state.global_step)
            rows["compute"] = training_compute(trainer.generator, dataset.buckets, remaining)
        print(format_table(f"{name} trains on", rows), flush=True)
        if trainer.rows is None and isinstance(dataset, LatentDataset) and len(set(dataset.buckets)) > 1:
            buckets = bucket_rows(
                trainer.generator, dataset.buckets, args.train_batch_size, args.data_parallel_size
            )
            print(format_buckets(buckets, trainer.row_name), flush=True)


def show_before_training(trainer: AlignmentTrainer) -> None:
    """Lets `trainer` print its table before its first step and before its progress bar appears."""
    trainer.callback_handler.callbacks.insert(0, TrainingTable(trainer))


def closing_figures(history: Sequence[dict[str, Any]]) -> str:
    """A line on a finished training: steps, time, and the first and the last logged value of its figures.

    Args:
        history: `trainer.state.log_history`.
    """
    steps = max((int(row.get("step", 0)) for row in history), default=0)
    seconds = next((row["train_runtime"] for row in reversed(history) if "train_runtime" in row), None)
    time = "" if seconds is None else f" in {_duration(seconds)}"
    changes = []
    for name in CLOSING:
        values = [row[name] for row in history if name in row and math.isfinite(row[name])]
        if len(values) > 1:
            changes.append(f"{name} {values[0]:.4g} → {values[-1]:.4g}")
        elif values:
            changes.append(f"{name} {values[0]:.4g}")
    return f"Trained {steps} steps{time}{': ' if changes else ''}{', '.join(changes)}."


def _duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
