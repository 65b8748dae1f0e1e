"""An image model becomes a video model: figure 2 of Video LDM as numbers, its decoder, and its stack for long videos.

    python -m benchmarks.generator.video_ldm train --output_dir D --seconds 300 --slice 420  # again until it says done
    python -m benchmarks.generator.video_ldm measure --output_dir D --count 256

`train` makes an image model from the weights of `nano`, a video model of it, and an interpolation and a prediction
model of that, `--seconds` each; it ends after `--slice` seconds of training, and the same command goes on. `measure`
prints one table a part; a part that is done is read from `D/measure.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from generator.loading import default_device, load_generator
from generator.output import write_json
from generator.pretraining.config import PretrainConfig
from generator.pretraining.pretrain import SliceDone, pretrain
from generator.video_ldm.config import VideoLDMConfig
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.frame_sampling import FrameSampling, sample_frames
from generator.video_ldm.model_card import (
    Figures,
    context_figures,
    decoder_figures,
    figure_two,
    motion_figures,
    rendered_clips,
    table,
)
from generator.video_ldm.stack import FACTOR, Stack, generate_stack
from generator.video_ldm.training import train_temporal_layers
from generator.world import categories, verify_batch

STAGES = ("image", "video", "interpolation", "prediction")
TASKS = {"video": "generation", "interpolation": "interpolation", "prediction": "prediction"}
KEY_FPS = 2.0
BATCH = 16

Rows = dict[str, Figures]


def configuration(folder: Path, asked: argparse.Namespace, left: float) -> PretrainConfig:
    """Arguments of `vidalign pretrain` for a stage; `tiny` is for a CPU."""
    size: dict[str, Any] = {
        "num_workers": asked.num_workers,
        "transformer_tokens": 32_768,
        "pool_gigabytes": 8,
    }
    if asked.tiny:
        size = {
            "num_workers": 0,
            "transformer_tokens": 1500,
            "autoencoder_pixels": 20_000,
            "pool_gigabytes": 0.5,
        }
    return PretrainConfig(
        str(folder),
        transformer_seconds=asked.seconds,
        autoencoder_seconds=asked.decoder_seconds,
        slice_seconds=left,
        tensorboard=False,
        evaluation_prompts=asked.card_prompts,
        **size,
    )


def train(asked: argparse.Namespace) -> None:
    """Trains what is left of the stages, for at most `--slice` seconds."""
    device = default_device()
    started = time.monotonic()
    for stage in STAGES:
        folder = asked.output_dir / stage
        if (folder / "metrics.json").is_file():
            continue
        left = asked.slice - (time.monotonic() - started)
        if left <= 0:
            print(f"The slice is over before the stage {stage}: give the same command again.")
            return
        config = configuration(folder, asked, left)
        try:
            if stage == "image":
                config.autoencoder_from = config.weights_from = asked.image_from
                config.images_only = True
                pretrain(config, device)
            else:
                source = asked.output_dir / ("image" if stage == "video" else "video")
                video = VideoLDMConfig(temporal_from=str(source), temporal_task=TASKS[stage])
                train_temporal_layers(config, video, device)
        except SliceDone as done:
            print(f"{stage}: {done} Give the same command again.")
            return
        print(f"The stage {stage} is done.")
    print("All stages are done.")


def load(folder: Path) -> VideoLDMGenerator:
    """A video model of a stage."""
    model = load_generator(folder)
    assert isinstance(model, VideoLDMGenerator)
    return model


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the transformer in a folder."""
    weights: dict[str, Tensor] = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        weights |= load_file(file)
    return weights


def spatial(asked: argparse.Namespace) -> Rows:
    """Tensors of the image model, and how many of them each video model holds bit for bit."""
    image = saved_weights(asked.output_dir / "image")
    rows = {}
    for stage in STAGES[1:]:
        video = saved_weights(asked.output_dir / stage)
        equal = sum(torch.equal(value, video[name]) for name, value in image.items())
        rows[stage] = {"image tensors": float(len(image)), "equal": float(equal)}
    return rows


def frames(asked: argparse.Namespace) -> Rows:
    """Image model, video model and real clips (figure 2 of arXiv 2304.08818)."""
    return figure_two(load(asked.output_dir / "video"), asked.count)


def decoder(asked: argparse.Namespace) -> Rows:
    """Decoder before and after, at several levels of noise on the latents."""
    model = load(asked.output_dir / "video")
    rows = {}
    for noise in (0.0, 0.05, 0.1, 0.2):
        found = decoder_figures(model, asked.count, noise)
        rows |= {f"{name}, noise {noise:g}": figures for name, figures in found.items()}
    return rows


def interpolation(asked: argparse.Namespace) -> Rows:
    """Interpolation at the frame rates of both steps, against linear blending."""
    return context_figures(load(asked.output_dir / "interpolation"), asked.count)


def prediction(asked: argparse.Namespace) -> Rows:
    """Prediction from four frames, against holding the last one."""
    return context_figures(load(asked.output_dir / "prediction"), asked.count)


def long(asked: argparse.Namespace) -> Rows:
    """Key frames and two interpolations against direct sampling of as many frames, and real clips."""
    models = {stage: load(asked.output_dir / stage) for stage in STAGES[1:]}
    stack = Stack(models["video"], models["interpolation"], models["prediction"])
    device, size = models["video"].device, (asked.num_frames, 32, 32)
    fps = KEY_FPS * FACTOR
    prompts, clips = rendered_clips(asked.count, size, fps, torch.device("cpu"), seed=11)

    def by_stack(texts: list[str], seeds: list[int]) -> Tensor:
        return generate_stack(stack, texts, *size, FrameSampling(seeds, KEY_FPS))

    def directly(texts: list[str], seeds: list[int]) -> Tensor:
        model = models["video"]
        latents = torch.zeros(len(texts), *model.latent_shape(*size))
        none = torch.zeros(latents.shape[2], dtype=torch.bool)
        return model.decode(sample_frames(model, texts, latents, none, FrameSampling(seeds, fps))).cpu()

    rows = {}
    for name, make in (("key frames, I, II", by_stack), ("direct", directly)):
        made = []
        make(prompts[:BATCH], list(range(BATCH)))  # what is set up once is not counted
        started = time.monotonic()
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            made.append(make(part, list(range(start, start + len(part)))))
        seconds = (time.monotonic() - started) / len(prompts)
        rows[name] = {**judged(torch.cat(made), prompts, fps, device), "seconds a video": seconds}
    rows["real clips"] = {**judged(clips, prompts, fps, device), "seconds a video": None}
    return rows


def judged(videos: Tensor, prompts: list[str], fps: float, device: torch.device) -> Figures:
    """Gold, gold of prompts about motion, identity and displacement."""
    scores: list[float] = []
    for start in range(0, len(prompts), BATCH):
        part = videos[start : start + BATCH].to(device)
        scores += [each.score for each in verify_batch(part, prompts[start : start + BATCH], fps=fps)]
    motion = [score for score, prompt in zip(scores, prompts, strict=True) if "motion" in categories(prompt)]
    moved = mean(motion) if motion else None
    return {"gold": mean(scores), "gold of motion": moved, **motion_figures(videos.to(device), fps)}


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "spatial": spatial,
    "frames": frames,
    "decoder": decoder,
    "interpolation": interpolation,
    "prediction": prediction,
    "long": long,
}


def measure(asked: argparse.Namespace) -> None:
    """Measures the parts that are not there yet, and prints all tables."""
    path = asked.output_dir / "measure.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part in asked.parts:
        key = f"{part}, {asked.count}"
        if key not in found:
            found[key] = PARTS[part](asked)
            write_json(path, found)
        print(f"\n{part} ({PARTS[part].__doc__})\n{table(found[key])}", flush=True)


def main() -> None:
    """Trains or measures, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["train", "measure"], help="Training or measuring.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of all stages.")
    parser.add_argument(
        "--image_from", default="nano", help="Pipeline whose weights the image model starts from."
    )
    parser.add_argument("--seconds", type=float, default=300, help="Seconds of training of each stage.")
    parser.add_argument(
        "--decoder_seconds", type=float, default=60, help="Seconds of the decoder's training."
    )
    parser.add_argument("--slice", type=float, default=420, help="Seconds after which `train` ends.")
    parser.add_argument("--num_workers", type=int, default=14, help="Processes that sample scenes.")
    parser.add_argument("--card_prompts", type=int, default=64, help="Prompts for the cards of the stages.")
    parser.add_argument("--count", type=int, default=256, help="Held-out prompts of each part.")
    parser.add_argument("--num_frames", type=int, default=129, help="Frames of long videos, 16k + 1.")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="Parts to measure."
    )
    parser.add_argument("--tiny", action="store_true", help="Sizes for a CPU.")
    asked = parser.parse_args()
    {"train": train, "measure": measure}[asked.action](asked)


if __name__ == "__main__":
    main()
