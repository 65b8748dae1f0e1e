"""The card of a video model made from an image model: its figures, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from generator.output import write_json, write_text
from generator.pretraining.config import PretrainConfig
from generator.pretraining.model_card import gold_scores
from generator.video_ldm.config import VideoLDMConfig
from generator.video_ldm.data import GAP, MOST_CONTEXT
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.frame_sampling import FrameSampling, sample_frames
from generator.video_ldm.measures import displacement, flicker, keep_identity, psnr, still_clips
from generator.video_ldm.temporal import AlphaGate
from generator.world import render_scenes, sample_prompts, training_batch

Figures = dict[str, float | None]
"""Figures by their names; None where there is nothing to measure."""

SIZE = (9, 32, 32)
FPS = 8.0


def set_alphas(module: torch.nn.Module, alpha: float) -> Callable[[], None]:
    """Sets every alpha of a module; the function that is returned sets them back."""
    gates = [part for part in module.modules() if isinstance(part, AlphaGate)]
    before = [gate.opening.detach().clone() for gate in gates]
    for gate in gates:
        gate.set_alpha(alpha)

    def restore() -> None:
        for gate, opening in zip(gates, before, strict=True):
            with torch.no_grad():
                gate.opening.copy_(opening)

    return restore


def rendered_clips(
    count: int, size: tuple[int, int, int], fps: float, device: torch.device, seed: int = 7
) -> tuple[list[str], Tensor]:
    """Held-out prompts and clips `[count, 3, frames, height, width]` that show them."""
    prompts, scenes, _ = training_batch(count, seed, "test", *size, fps=fps)
    return prompts, render_scenes(scenes, *size, fps=fps, device=device)


def motion_figures(videos: Tensor, fps: float = FPS) -> Figures:
    """Share of videos whose objects keep their identity, and mean displacement between neighbouring frames."""
    way = displacement(videos, fps)
    seen = way[way.isfinite()]
    return {
        "identity": float(keep_identity(videos, fps).float().mean()),
        "displacement": float(seen.mean()) if len(seen) else None,
    }


@torch.no_grad()
def figure_two(generator: VideoLDMGenerator, count: int) -> dict[str, Figures]:
    """Figures of the image model's frames, of the same noise with temporal layers, and of real clips.

    Args:
        generator: the video model; with alpha 1 it is the image model.
        count: of held-out prompts.
    """
    device = generator.device
    prompts = sample_prompts(count, 1, "test")
    batch = 128 if device.type == "cuda" else 8
    found: dict[str, Figures] = {}

    def measured(name: str) -> None:
        videos = generator.generate(
            prompts, num_frames=SIZE[0], height=SIZE[1], width=SIZE[2], seed=0, batch_size=batch
        ).to(device)
        gold = mean(judged.score for judged in gold_scores(videos, prompts, device))
        found[name] = {**motion_figures(videos), "gold": gold}

    restore = [set_alphas(part, 1.0) for part in (generator.transformer, generator.pipeline.vae)]
    try:
        measured("image model")
    finally:
        for back in restore:
            back()
    measured("video model")
    shown, clips = rendered_clips(count, SIZE, FPS, device)
    gold = mean(judged.score for judged in gold_scores(clips, shown, device))
    found["real clips"] = {**motion_figures(clips), "gold": gold}
    return found


@torch.no_grad()
def decoder_figures(generator: VideoLDMGenerator, count: int, noise: float) -> dict[str, Figures]:
    """Flicker of reconstructed still clips and PSNR of moving ones, by the image decoder and with temporal layers.

    Args:
        generator: whose autoencoder is measured.
        count: of clips.
        noise: standard deviation of the noise on the normalised latents, drawn for every frame; the same for both.
    """
    vae = generator.pipeline.vae
    _, clips = rendered_clips(count, SIZE, FPS, generator.device)
    still = still_clips(clips)

    def decoded(videos: Tensor) -> Tensor:
        parts = []
        for index, part in enumerate(videos.split(32)):
            latents = generator.encode(part)
            random = torch.Generator().manual_seed(index)
            drawn = torch.randn(latents.shape, generator=random).to(latents.device)
            parts.append(generator.decode(latents + noise * drawn))
        return torch.cat(parts)

    def figures() -> Figures:
        return {"flicker": float(flicker(decoded(still)).mean()), "psnr": psnr(decoded(clips), clips)}

    after = figures()
    restore = set_alphas(vae.temporal, 1.0)
    try:
        before = figures()
    finally:
        restore()
    return {"image decoder": before, "temporal decoder": after}


@torch.no_grad()
def context_figures(generator: VideoLDMGenerator, count: int) -> dict[str, Figures]:
    """Clips completed by a prediction or interpolation model from the context of real ones.

    PSNR is that of the new frames. Interpolation is compared with linear blending of the key frames, prediction with
    the last context frame held.
    """
    interpolation = generator.pipeline.transformer.config.task == "interpolation"
    found: dict[str, Figures] = {}
    for fps in (8.0, 32.0) if interpolation else (2.0, 8.0):
        prompts, clips = rendered_clips(count, SIZE, fps, generator.device)
        place = torch.arange(SIZE[0])
        known = place % GAP == 0 if interpolation else place < MOST_CONTEXT
        latents = generator.encode(clips)
        sampling = FrameSampling(list(range(count)), fps)
        made = generator.decode(sample_frames(generator, prompts, latents, known, sampling))
        new = (~known).to(clips.device)
        simple = blended(clips) if interpolation else clips[:, :, [MOST_CONTEXT - 1]].expand_as(clips)
        for name, videos in (("model", made), ("linear blend" if interpolation else "held frame", simple)):
            figures = {"psnr": psnr(videos[:, :, new], clips[:, :, new]), **motion_figures(videos, fps)}
            found[f"{name}, {fps:g} fps"] = figures
    return found


def blended(clips: Tensor) -> Tensor:
    """Clips `[batch, 3, 4 k + 1, height, width]` whose frames between key frames are blended linearly."""
    keys = clips[:, :, ::GAP]
    weight = (torch.arange(GAP, device=clips.device) / GAP)[:, None, None]
    first, second = keys[:, :, :-1, None], keys[:, :, 1:, None]
    between = (first * (1 - weight) + second * weight).flatten(2, 3)
    return torch.cat([between, keys[:, :, -1:]], dim=2)


def write_video_card(
    generator: VideoLDMGenerator,
    config: PretrainConfig,
    video: VideoLDMConfig,
    history: dict[str, list[dict[str, float]]],
    output_dir: Path,
) -> dict[str, Any]:
    """Measures `generator` and writes `README.md`, `metrics.json` and `samples.png` to `output_dir`."""
    from generator.video import contact_sheet

    count = config.evaluation_prompts
    figures: dict[str, Any] = {
        "prompts": count,
        "alphas": generator.pipeline.transformer.temporal.alphas().tolist(),
        "decoder": decoder_figures(generator, count, video.decoder_noise),
    }
    if video.temporal_task == "generation":
        figures["frames"] = figure_two(generator, count)
    else:
        figures["context"] = context_figures(generator, count)
    write_json(
        output_dir / "metrics.json",
        {**figures, "history": history, "config": asdict(config), "video": asdict(video)},
    )
    write_text(output_dir / "README.md", card(video, history, figures))
    prompts = sample_prompts(16, 3, "test")
    contact_sheet(generator.generate(prompts, seed=0), output_dir / "samples.png", labels=prompts)
    return figures


def table(rows: dict[str, Figures], digits: int = 4) -> str:
    """Markdown table with one line a row and one column a figure."""
    columns = list(next(iter(rows.values())))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        values = [row[column] for column in columns]
        lines.append([name, *("–" if value is None else f"{value:.{digits}g}" for value in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(video: VideoLDMConfig, history: dict[str, list[dict[str, float]]], figures: dict[str, Any]) -> str:
    """Text of the model card."""
    phases = "\n".join(
        f"- {name}: {rows[-1]['step']:.0f} steps, {rows[-1]['clips']:,.0f} clips, {rows[-1]['seconds']:.0f} s"
        for name, rows in history.items()
        if rows
    )
    measured = table(figures["frames"] if "frames" in figures else figures["context"])
    alphas = ", ".join(f"{alpha:.2f}" for alpha in figures["alphas"])
    return f"""# Video model of {video.temporal_from}: {video.temporal_task}

Temporal layers in a frozen image model (Video LDM). `vidalign pretrain --temporal_from {video.temporal_from}
--temporal_task {video.temporal_task}` writes this card.

## Training
{phases}

## Figures
{figures["prompts"]} held-out prompts or clips, {SIZE[0]} frames of {SIZE[1]}x{SIZE[2]}. Identity: share of videos whose
objects keep shape, colour and size. Displacement: mean way from frame to frame, in shorter sides.

{measured}

Reconstructions from latents with noise of standard deviation {video.decoder_noise:g} in every frame; flicker is the
mean squared difference of neighbouring frames of still clips.

{table(figures["decoder"])}

Alpha of the layers: {alphas}.
"""
