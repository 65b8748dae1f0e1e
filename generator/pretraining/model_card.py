"""The model card of a pretrained native generator: what it was trained on and what it does, measured."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.one_or_several import as_list
from generator.output import write_json, write_text
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import FPS, SIZES
from generator.world import categories, render_scenes, sample_prompts, training_batch, verify_batch

EVALUATION_SIZES = ((9, 32, 32), (9, 48, 48), (17, 32, 32), (17, 48, 72), (17, 72, 48), (17, 64, 64))


def gold_scores(videos: Tensor, prompts: Sequence[str], device: torch.device, batch: int = 128) -> list[Any]:
    """The verifier's judgement of each video."""
    prompts = as_list(prompts)
    judged: list[Any] = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        judged += verify_batch(videos[part].to(device), list(prompts[part]), fps=FPS)
    return judged


@torch.no_grad()
def reconstruction_quality(
    generator: VideoGenerator, size: tuple[int, int, int], count: int = 256, seed: int = 7
) -> dict[str, float]:
    """PSNR of reconstructions and how often the verifier's answers agree with those on the original clips."""
    prompts, scenes, _ = training_batch(count, seed, "test", *size, fps=FPS)
    clips = render_scenes(scenes.to(generator.device), *size, fps=FPS)
    decoded = torch.cat([generator.decode(generator.encode(part)) for part in clips.split(64)])
    before = gold_scores(clips, prompts, generator.device)
    after = gold_scores(decoded, prompts, generator.device)
    answers = [
        (name, answer, b.parts[name])
        for a, b in zip(before, after, strict=True)
        for name, answer in a.parts.items()
    ]
    shape = [(x, y) for name, x, y in answers if "shape" in name]
    error = (decoded - clips).pow(2).mean()
    return {
        "psnr": float(10 * torch.log10(4 / error)),
        "agreement": mean(x == y for _, x, y in answers),
        "shape_agreement": mean(x == y for x, y in shape) if shape else 1.0,
        "gold_clean": mean(a.score for a in before),
        "gold_reconstructed": mean(a.score for a in after),
    }


def gold_by_category(
    generator: VideoGenerator,
    prompts: list[str],
    size: tuple[int, int, int],
    guidance_scale: float = 1.0,
    num_inference_steps: int = 10,
    seed: int = 0,
    solver: str = "euler",
) -> dict[str, float]:
    """Mean gold score of generated videos, over all prompts (`all`) and over those of each category."""
    prompts = as_list(prompts)
    videos = generator.generate(
        prompts,
        num_frames=size[0],
        height=size[1],
        width=size[2],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        solver=solver,
        batch_size=128 if generator.device.type == "cuda" else 8,
    )
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, judged in zip(prompts, gold_scores(videos, prompts, generator.device), strict=True):
        for category in {"all", *categories(prompt)}:
            groups[category].append(judged.score)
    return {category: mean(scores) for category, scores in sorted(groups.items())}


def measure(generator: VideoGenerator, num_prompts: int) -> dict[str, Any]:
    """All figures of the model card, on `num_prompts` prompts and on half as many reconstructed clips."""
    prompts = sample_prompts(num_prompts, 1, "test")
    name = "{0}x{1}x{2}".format
    return {
        "reconstruction": {
            name(*size): reconstruction_quality(generator, size, max(num_prompts // 2, 1))
            for size in EVALUATION_SIZES
        },
        "gold": {name(*size): gold_by_category(generator, prompts, size) for size in EVALUATION_SIZES},
        "gold_guidance_3": {
            name(*EVALUATION_SIZES[0]): gold_by_category(generator, prompts, EVALUATION_SIZES[0], 3.0)
        },
        "gold_40_steps": {
            name(*EVALUATION_SIZES[0]): gold_by_category(
                generator, prompts, EVALUATION_SIZES[0], num_inference_steps=40
            )
        },
        "gold_ab2": {
            name(*EVALUATION_SIZES[0]): gold_by_category(
                generator, prompts, EVALUATION_SIZES[0], solver="ab2"
            )
        },
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _gold_table(gold: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(gold.values())))
    return _table(
        ["size (frames×height×width)", *columns],
        [[size, *(f"{values.get(c, float('nan')):.3f}" for c in columns)] for size, values in gold.items()],
    )


def _ceiling_table(reconstruction: dict[str, dict[str, float]]) -> str:
    return _table(
        [
            "size",
            "PSNR (dB)",
            "answers agree",
            "shape answers agree",
            "gold of clips",
            "gold of reconstructions",
        ],
        [
            [
                size,
                f"{v['psnr']:.1f}",
                f"{v['agreement']:.3f}",
                f"{v['shape_agreement']:.3f}",
                f"{v['gold_clean']:.3f}",
                f"{v['gold_reconstructed']:.3f}",
            ]
            for size, v in reconstruction.items()
        ],
    )


def model_card(
    config: PretrainConfig, history: dict[str, list[dict[str, float]]], figures: dict[str, Any]
) -> str:
    sizes = ", ".join(f"{f}×{h}×{w}" for f, h, w, _ in SIZES)
    phases = "\n".join(
        f"- {phase}: {rows[-1]['step']:.0f} steps, {rows[-1]['clips']:,.0f} clips, {rows[-1]['seconds']:.0f} s, "
        f"final loss {mean(row['loss'] for row in rows[-5:]):.4f}"
        for phase, rows in history.items()
        if rows
    )
    gold, ceiling = _gold_table(figures["gold"]), _ceiling_table(figures["reconstruction"])
    guided = next(iter(figures["gold_guidance_3"].values()))["all"]
    second_order = next(iter(figures["gold_ab2"].values()))["all"]
    many_steps = next(iter(figures["gold_40_steps"].values()))["all"]
    return f"""# nano: the built-in text-to-video generator

A U-ViT over spacetime latent patches, a causal video autoencoder (4×4×4) and a T5 text encoder, trained from
scratch on clips of the built-in video world. `vidalign pretrain` writes this card;
`python -m generator.pretraining.model_card FOLDER --prompts {figures["prompts"]}` measures again and rewrites it.

## Data
Clips are rendered on the fly ({sizes}; {FPS:g} frames a second) with captions from the training split of the grammar.
**{config.wrong_share:.0%} of the captions are wrong**, as web captions are: in these every claim is re-drawn with
probability one half. This is what alignment mends. {config.caption_dropout:.0%} of the captions are empty, for
guidance.

## Training
{phases}

## Gold adherence
Mean score of the world's verifier on {figures["prompts"]} held-out prompts (combinations never seen in training),
guidance 1, 10 Euler steps.

{gold}

At the first size: guidance 3 gives {guided:.3f}; 40 steps instead of 10 give {many_steps:.3f};
ten steps of the solver `ab2` give {second_order:.3f}.

## The ceiling that the autoencoder sets
The verifier's answers on rendered held-out clips against those on their reconstructions.

{ceiling}

## Configuration
```json
{_configuration(config)}
```
"""


def _configuration(config: PretrainConfig) -> str:
    values = asdict(config)
    for name in ("output_dir", "autoencoder_from", "weights_from", "overwrite", "num_workers"):
        values.pop(name)
    return json.dumps(values, indent=2)


def write_model_card(
    generator: VideoGenerator,
    config: PretrainConfig,
    history: dict[str, list[dict[str, float]]],
    output_dir: Path,
) -> dict[str, Any]:
    """Measures `generator` and writes `README.md`, `metrics.json` and `samples.png` to `output_dir`."""
    from generator.video import contact_sheet

    figures = {"prompts": config.evaluation_prompts, **measure(generator, config.evaluation_prompts)}
    write_json(output_dir / "metrics.json", {**figures, "history": history, "config": asdict(config)})
    write_text(output_dir / "README.md", model_card(config, history, figures))
    prompts = sample_prompts(16, 3, "test")
    contact_sheet(generator.generate(prompts, seed=0), output_dir / "samples.png", labels=prompts)
    return figures


def main() -> None:
    """Measures a pretrained pipeline again and rewrites its card, `metrics.json` and `samples.png`."""
    from generator.loading import load_generator

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="Folder of a pipeline with metrics.json.")
    parser.add_argument("--prompts", type=int, default=512, help="Held-out prompts a size.")
    arguments = parser.parse_args()
    stored = json.loads((arguments.folder / "metrics.json").read_text(encoding="utf-8"))
    config = PretrainConfig(**{**stored["config"], "evaluation_prompts": arguments.prompts})
    write_model_card(load_generator(arguments.folder), config, stored["history"], arguments.folder)


if __name__ == "__main__":
    main()
