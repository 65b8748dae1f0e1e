"""Patch n' pack against buckets and padding: `python -m benchmarks.generator.packing --device cuda`.

Fill of rows by several ways of packing; tokens a second of packed rows, of buckets and of padding; what token dropping
costs and gains; and whether packed training reaches the loss of bucketed training, against the spread of seeds.

A batch that is padded to the longest clip costs what a batch of longest clips costs, so padding is timed on those and
only the tokens of the mix count.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generator.short_training import (
    Clips,
    Run,
    collect,
    encode,
    held_out,
    held_out_loss,
    mean_caption,
    new_pipeline,
    rows_from_pool,
    train,
)
from generator import load_generator
from generator.inputs.packing import pack_rows
from generator.native.pipeline import NativeVideoPipeline
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import CaptionedScenes
from generator.pretraining.latent_pool import LatentPool


def next_fit(lengths: list[int], row_length: int) -> float:
    """Fill of rows to which clips are added in their order, a new one begun where a clip does not fit."""
    rows, used = 1, 0
    for length in lengths:
        if used + length > row_length:
            rows, used = rows + 1, 0
        used += length
    return sum(lengths) / (rows * row_length)


def fill_table(lengths: list[int], row_lengths: list[int]) -> list[dict[str, float]]:
    """Fill of rows by next fit and best fit, and of padding to the longest."""
    table = []
    for row_length in row_lengths:
        rows = sum(1 for _ in pack_rows(((0, n) for n in lengths), row_length))
        table.append(
            {
                "row": row_length,
                "padded": sum(lengths) / (len(lengths) * max(lengths)),
                "next fit": next_fit(lengths, row_length),
                "best fit": sum(lengths) / (rows * row_length),
            }
        )
        print("| {row} | {padded:.3f} | {next fit:.3f} | {best fit:.3f} |".format(**table[-1]), flush=True)
    return table


def mixed_lengths(
    pool: LatentPool, clips: Clips, pipeline: NativeVideoPipeline, config: PretrainConfig, count: int
) -> list[int]:
    """Tokens of clips as training draws them, captions included."""
    rows = rows_from_pool(pool, clips.stream, pipeline, config, lambda: 0.0)
    candidates = rows.candidates()
    return [next(candidates)[1] for _ in range(count)]


class Comparison:
    """Runs that differ in how clips are put together, on the same clips and from the same weights."""

    def __init__(
        self, pipeline: NativeVideoPipeline, config: PretrainConfig, clips: Clips, device: torch.device
    ) -> None:
        self.vae = pipeline.vae
        self.config = config
        self.clips = clips
        self.device = device
        self.pool = encode(clips, pipeline, config, device)
        self.unseen: list[CaptionedScenes] = []

    def run(
        self, seconds: float, pool: LatentPool | None = None, **changes: Any
    ) -> tuple[Run, NativeVideoPipeline]:
        """A new model trained for `seconds` with these changes of the configuration."""
        config = replace(self.config, **changes)
        pipeline = new_pipeline(config, self.vae, self.device)
        stream = self.clips.stream
        return train(pipeline, config, pool or self.pool, stream, self.device, seconds), pipeline

    def padded_tokens_per_second(self, seconds: float, fill: float) -> float:
        """Real tokens a second of batches padded to the longest clip."""
        longest = max(self.pool.rings, key=lambda kind: self.pool.rings[kind].latents[0].numel())
        only = LatentPool(1.0, self.pool.pad_token_id, self.pool.eos_token_id)
        only.rings = {longest: self.pool.rings[longest]}
        run, _ = self.run(seconds, only)
        return run.late_tokens_per_second * fill


def speeds(comparison: Comparison, seconds: float, padding_fill: float) -> dict[str, float]:
    """Real tokens a second, in the second half of each run."""
    found = {
        "packed": comparison.run(seconds, pack=True)[0].late_tokens_per_second,
        "buckets": comparison.run(seconds)[0].late_tokens_per_second,
        "padded": comparison.padded_tokens_per_second(seconds, padding_fill),
    }
    if comparison.device.type == "cuda":
        compiled = comparison.run(seconds + 40, pack=True, compile_blocks=True)[0]
        found["packed, blocks compiled"] = compiled.late_tokens_per_second
    for name, value in found.items():
        print(f"| {name} | {value:,.0f} | {found['packed'] / value:.2f} |", flush=True)
    return found


def losses(comparison: Comparison, seconds: float, seeds: int, drops: list[float]) -> dict[str, Any]:
    """Held-out loss after `seconds` of training, of every way and seed; and the clips that were seen."""
    ways: dict[str, dict[str, Any]] = {"buckets": {}, "packed": {"pack": True}}
    ways |= {f"packed, {drop:.0%} dropped": {"pack": True, "token_dropping": drop} for drop in drops}
    table = {}
    comparison.unseen = held_out(comparison.clips, 24)
    for name, changes in ways.items():
        values, clips, curves = [], [], []
        for seed in range(seeds):
            run, pipeline = comparison.run(seconds, seed=seed, **changes)
            values.append(held_out_loss(pipeline, comparison.unseen, comparison.config, comparison.device))
            clips.append(run.clips / run.phase.elapsed)
            curves.append([(row["step"], row["mse"]) for row in run.phase.history])
        table[name] = {"loss": values, "clips_per_second": clips, "steps": run.phase.step, "curves": curves}
        spread = np.std(values, ddof=1) if seeds > 1 else float("nan")
        print(
            f"| {name} | {np.mean(values):.4f} ± {spread:.4f} | {np.mean(clips):,.0f} | {run.phase.step} |",
            flush=True,
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="Seconds of each timed run, half of it warm-up; 0 leaves them out.",
    )
    parser.add_argument(
        "--loss_seconds",
        type=float,
        default=30.0,
        help="Seconds of each run whose loss is compared, or 0.",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--drops", type=float, nargs="*", default=[0.5])
    parser.add_argument("--tokens", type=int, default=25_000, help="Tokens of a batch.")
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--num_layers", type=int, default=13)
    parser.add_argument("--collect_seconds", type=float, default=30.0, help="Seconds of sampling scenes.")
    parser.add_argument("--batches", type=int, default=500, help="Batches of scenes, at most.")
    parser.add_argument("--num_workers", type=int, default=12)
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the figures.")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = PretrainConfig(
        output_dir="",
        transformer_tokens=arguments.tokens,
        hidden_size=arguments.hidden_size,
        num_layers=arguments.num_layers,
        num_workers=arguments.num_workers,
        wrong_share=0.0,
    )
    pipeline = load_generator("nano", device=device).pipeline
    least = min(24 if device.type == "cuda" else 8, arguments.batches)
    clips = collect(
        pipeline.tokenizer,
        config,
        arguments.collect_seconds,
        min(least, arguments.batches),
        arguments.batches,
    )
    comparison = Comparison(pipeline, config, clips, device)
    print(
        f"{len(clips.scenes)} batches, captions of {mean_caption(comparison.pool):.1f} tokens\n", flush=True
    )
    print("| row (tokens) | padded to the longest | next fit | best fit |\n|---|---|---|---|")
    lengths = mixed_lengths(comparison.pool, clips, pipeline, config, 5000)
    row_lengths = [length for length in (512, 1024, 2048, arguments.tokens) if length >= max(lengths)]
    figures: dict[str, Any] = {"fill": fill_table(lengths, row_lengths)}
    if arguments.seconds:
        print("\n| way | real tokens a second | packed is faster by |\n|---|---|---|")
        figures["speed"] = speeds(comparison, arguments.seconds, figures["fill"][0]["padded"])
    if arguments.loss_seconds:
        print("\n| way | held-out loss ± std of seeds | clips a second | steps |\n|---|---|---|---|")
        figures["loss"] = losses(comparison, arguments.loss_seconds, arguments.seeds, arguments.drops)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
