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
from generator.pretraining.data import FPS, IMAGE_SIZES, SIZES
from generator.world import categories, render_scenes, sample_prompts, training_batch, verify_batch
from generator.world.constancy import keep_shapes

IMAGE_EVALUATION_SIZES = ((1, 32, 32), (1, 48, 48), (1, 64, 64))
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


def judged_videos(
    generator: VideoGenerator,
    prompts: list[str],
    size: tuple[int, int, int],
    guidance_scale: float = 1.0,
    num_inference_steps: int = 10,
    seed: int = 0,
    solver: str = "euler",
) -> tuple[dict[str, float], float]:
    """Mean gold score of generated videos, over all prompts (`all`) and over those of each category; and the share of
    the videos in which every object keeps its shape."""
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
    kept = torch.cat([keep_shapes(part.to(generator.device), FPS) for part in videos.split(128)])
    return {category: mean(scores) for category, scores in sorted(groups.items())}, float(kept.float().mean())


def size_name(size: tuple[int, int, int]) -> str:
    """Frames, height and width as text, such as 9x32x32."""
    return "x".join(map(str, size))


GUIDANCE = (1.0, 2.0, 3.0, 5.0)
"""Guidance scales of the card, at the first size."""


def evaluation_sizes(generator: VideoGenerator) -> tuple[tuple[int, int, int], ...]:
    """Sizes of the card's videos; those of an image model, whose default is one frame, are images."""
    return IMAGE_EVALUATION_SIZES if generator.defaults.num_frames == 1 else EVALUATION_SIZES


def measure_guidance(
    generator: VideoGenerator, prompts: list[str], scales: Sequence[float] = GUIDANCE
) -> dict[str, dict[str, float]]:
    """Mean gold score and share of kept shapes at the first size, by guidance scale."""
    found = {}
    for scale in scales:
        gold, kept = judged_videos(generator, prompts, evaluation_sizes(generator)[0], scale)
        found[f"{scale:g}"] = {"gold": gold["all"], "keeps_shape": kept}
    return found


def measure(generator: VideoGenerator, num_prompts: int) -> dict[str, Any]:
    """All figures of the model card, on `num_prompts` prompts and on half as many reconstructed clips."""
    prompts = sample_prompts(num_prompts, 1, "test", generator.defaults.num_frames == 1)
    sizes = evaluation_sizes(generator)
    first = sizes[0]
    judged = {size_name(size): judged_videos(generator, prompts, size) for size in sizes}
    return {
        "reconstruction": {
            size_name(size): reconstruction_quality(generator, size, max(num_prompts // 2, 1))
            for size in sizes
        },
        "gold": {name: gold for name, (gold, _) in judged.items()},
        "keeps_shape": {name: kept for name, (_, kept) in judged.items()},
        "guidance": measure_guidance(generator, prompts),
        "gold_40_steps": judged_videos(generator, prompts, first, num_inference_steps=40)[0]["all"],
        "gold_ab2": judged_videos(generator, prompts, first, solver="ab2")[0]["all"],
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _gold_table(gold: dict[str, dict[str, float]], kept: dict[str, float]) -> str:
    columns = list(next(iter(gold.values())))
    return _table(
        ["size (frames×height×width)", *columns, "shapes kept"],
        [
            [size, *(f"{values.get(c, float('nan')):.3f}" for c in columns), f"{kept[size]:.3f}"]
            for size, values in gold.items()
        ],
    )


def _guidance_table(models: dict[str, dict[str, dict[str, float]]]) -> str:
    """Gold and kept shapes of each model at each guidance scale."""
    scales = list(next(iter(models.values())))
    return _table(
        ["guidance", *scales],
        [
            [f"{name}{what}", *(f"{found[scale][key]:.3f}" for scale in scales)]
            for name, found in models.items()
            for what, key in ((": gold", "gold"), (": shapes kept", "keeps_shape"))
        ],
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
    kinds = [(1, h, w) for h, w, _ in IMAGE_SIZES] if config.images_only else [kind[:3] for kind in SIZES]
    sizes = ", ".join(f"{f}×{h}×{w}" for f, h, w in kinds)
    made = "image" if config.images_only else "video"
    phases = "\n".join(
        f"- {phase}: {rows[-1]['step']:.0f} steps, {rows[-1]['clips']:,.0f} clips, {rows[-1]['seconds']:.0f} s, "
        f"final loss {mean(row['loss'] for row in rows[-5:]):.4f}"
        for phase, rows in history.items()
        if rows
    )
    gold = _gold_table(figures["gold"], figures["keeps_shape"])
    ceiling = _ceiling_table(figures["reconstruction"])
    models = {"this model": figures["guidance"]}
    right = figures.get("right_captions")
    if right is not None:
        models["trained on with right captions"] = right["guidance"]
    return f"""# nano: the built-in text-to-{made} generator

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
guidance 1, 10 Euler steps; and the share of the videos in which every object keeps its shape in every frame.

{gold}

At the first size, 40 steps instead of 10 give {figures["gold_40_steps"]:.3f}, ten steps of the solver `ab2`
{figures["gold_ab2"]:.3f}. By guidance:

{_guidance_table(models)}
{_right_captions(right)}
## The ceiling that the autoencoder sets
The verifier's answers on rendered held-out clips against those on their reconstructions.

{ceiling}

## Configuration
```json
{_configuration(config)}
```
"""


def _right_captions(right: dict[str, Any] | None) -> str:
    """Explains the row of a model that was trained on with right captions."""
    if right is None:
        return ""
    return f"\nThe second model is this one after {right['seconds']:.0f} s more of training with right captions only.\n"


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
    right_captions: Path | None = None,
) -> dict[str, Any]:
    """Measures `generator` and writes `README.md`, `metrics.json` and `samples.png` to `output_dir`.

    Args:
        right_captions: pipeline that was trained on from this one with right captions, to be measured beside it.
    """
    from generator.video import contact_sheet

    figures = {"prompts": config.evaluation_prompts, **measure(generator, config.evaluation_prompts)}
    if right_captions is not None:
        figures["right_captions"] = measure_right_captions(right_captions, config.evaluation_prompts)
    write_json(output_dir / "metrics.json", {**figures, "history": history, "config": asdict(config)})
    write_text(output_dir / "README.md", model_card(config, history, figures))
    prompts = sample_prompts(16, 3, "test", config.images_only)
    contact_sheet(generator.generate(prompts, seed=0), output_dir / "samples.png", labels=prompts)
    return figures


def measure_right_captions(folder: Path, num_prompts: int) -> dict[str, Any]:
    """Figures of a pipeline that was trained on with right captions, and how long that training was."""
    from generator.loading import load_generator

    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    generator = load_generator(folder)
    prompts = sample_prompts(num_prompts, 1, "test", generator.defaults.num_frames == 1)
    return {
        "seconds": stored["config"]["transformer_seconds"],
        "guidance": measure_guidance(generator, prompts),
    }


def main() -> None:
    """Measures a pretrained pipeline again and rewrites its card, `metrics.json` and `samples.png`."""
    from generator.loading import load_generator

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="Folder of a pipeline with metrics.json.")
    parser.add_argument("--prompts", type=int, default=512, help="Held-out prompts a size.")
    parser.add_argument(
        "--right_captions", type=Path, help="Pipeline trained on from this one with --wrong_share 0."
    )
    arguments = parser.parse_args()
    stored = json.loads((arguments.folder / "metrics.json").read_text(encoding="utf-8"))
    config = PretrainConfig(**{**stored["config"], "evaluation_prompts": arguments.prompts})
    generator = load_generator(arguments.folder)
    write_model_card(generator, config, stored["history"], arguments.folder, arguments.right_captions)


if __name__ == "__main__":
    main()
