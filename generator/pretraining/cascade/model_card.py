"""The card of a trained stage: how it was trained and what it does, measured beside interpolation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

from generator.cascade.comparison import REAL, STAGE, baselines, compare, held_out_clips, mean_figures
from generator.cascade.stage import CascadeStage
from generator.output import write_json, write_text
from generator.pretraining.cascade.config import StageConfig
from generator.pretraining.cascade.data import coarse
from generator.pretraining.config import PretrainConfig
from generator.video import contact_sheet

COLUMNS = {
    "psnr": ("PSNR (dB)", ".2f"),
    "sharpness": ("high-frequency share", ".4f"),
    "gold": ("gold", ".3f"),
    "motion": ("motion", ".3f"),
    "seconds": ("seconds a clip", ".3f"),
}
"""Figures of `generator.cascade.comparison.Judged`: heading and format."""


def measure_stage(
    stage: CascadeStage, config: StageConfig, count: int, batch: int = 8
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean figures on held-out clips of each of the stage's sides, by size and way."""
    found = {}
    for side in config.sides:
        size = (config.stage_frames, side, side)
        clips = held_out_clips(count, size, config.stage_fps, 1)
        rows: dict[str, list[Any]] = {}
        for start in tqdm(range(0, count, batch), desc=f"Measuring {side} pixels", unit="batch"):
            for name, judged in compare(stage, clips, slice(start, min(start + batch, count))).items():
                rows.setdefault(name, []).extend(judged)
        found["x".join(map(str, size))] = {name: mean_figures(judged) for name, judged in rows.items()}
    return found


def figures_table(figures: dict[str, dict[str, float]]) -> str:
    """A Markdown table of the ways to one size."""
    lines = [
        "| | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, values in figures.items():
        cells = [
            "–" if name == REAL and key in ("psnr", "seconds") else f"{values[key]:{form}}"
            for key, (_, form) in COLUMNS.items()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stage_card(
    config: StageConfig,
    general: PretrainConfig,
    history: list[dict[str, float]],
    figures: dict[str, Any],
    weights: int,
) -> str:
    """Text of `README.md` of a stage."""
    kinds = {"temporal": "four times the frame rate", "spatial": "twice the height and width"}
    trained = "not recorded"
    if history:
        trained = (
            f"{history[-1]['step']:.0f} steps, {history[-1]['clips']:,.0f} clips, {history[-1]['seconds']:.0f} s, "
            f"final loss {mean(row['loss'] for row in history[-5:]):.4f}"
        )
    tables = "\n\n".join(f"### {size}\n{figures_table(table)}" for size, table in figures["sizes"].items())
    sides = ", ".join(map(str, config.sides))
    footage = "" if general.footage is None else f", {general.footage_share:.0%} of the batches camera clips"
    return f"""# A {config.stage} stage: {kinds[str(config.stage)]}

A network of space-time separable blocks with {weights / 1e6:.1f} M weights on the latents of `{config.stage_base}`,
whose autoencoder and text encoder it uses. `vidalign pretrain --stage {config.stage}` writes this card.

| | |
|---|---|
| clips | {config.stage_frames} frames at {config.stage_fps:g} a second, sides of {sides} pixels, rendered{footage} |
| training | {trained} |
| input | coarse clips upsampled by interpolation, noised to a random level up to {config.stage_augmentation:g} |
| blocks | {config.stage_layers} of width {config.stage_width}, windows of {config.window or "whole frames"}, \
{config.temporal} along time |

## Against interpolation
On {figures["clips"]} clips of held-out prompts that were made coarse and fine again. PSNR is that of frames that were
not given; the high-frequency share is that of spectral energy above half the Nyquist frequency; gold and motion are
answers of the world's verifier.

{tables}
"""


def draw_samples(stage: CascadeStage, config: StageConfig, path: Path, count: int = 3) -> None:
    """A contact sheet of held-out clips: the true clip, interpolation and the stage below each other."""
    side = max(config.sides)
    clips = held_out_clips(count, (config.stage_frames, side, side), config.stage_fps, 3)
    truth = clips.render(slice(0, count), stage.codec.device)
    kind = stage.settings.stage
    low = coarse(truth, kind)
    fps = config.stage_fps / (stage.settings.factor if kind == "temporal" else 1)
    baseline, make = list(baselines(kind).items())[-1 if kind == "temporal" else 0]
    made = stage.upsample(low, fps, clips.prompts, list(range(count)))
    rows = torch.stack([truth.cpu(), make(low).cpu(), made], dim=1).flatten(0, 1)
    names = (REAL, baseline, STAGE)
    labels = [f"{name}: {prompt}" for prompt in clips.prompts for name in names]
    contact_sheet(list(rows), path, labels=labels)


def write_stage_card(
    stage: CascadeStage,
    config: StageConfig,
    general: PretrainConfig,
    history: list[dict[str, float]],
    folder: Path,
) -> None:
    """Measures a stage and writes `README.md`, `metrics.json` and `samples.png` into its folder."""
    figures = {
        "clips": general.evaluation_prompts,
        "sizes": measure_stage(stage, config, general.evaluation_prompts),
    }
    draw_samples(stage, config, folder / "samples.png")
    weights = sum(p.numel() for p in stage.transformer.parameters())
    kept = {key: value for key, value in asdict(config).items() if key != "join_stages"}
    write_json(folder / "metrics.json", {**figures, "weights": weights, "history": history, "config": kept})
    write_text(folder / "README.md", stage_card(config, general, history, figures, weights))
