"""A stage beside interpolation on held-out clips of the video world: distance from the truth, sharpness, gold, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from generator.cascade.figures import high_frequency_share, psnr
from generator.cascade.resampling import blend_frames, enlarge, keep_frames, reduce, repeat_frames
from generator.cascade.stage import FACTORS, OWN_SAMPLING, CascadeStage, StageSampling
from generator.one_or_several import as_list
from generator.world import SceneBatch, render_scenes, training_batch, verify_batch
from generator.world.calibrate import part_kind

REAL = "rendered clips"
STAGE = "stage"
MOTION = ("motion", "speed")
"""Kinds of parts that say how something moves (`generator.world.calibrate.part_kind`)."""


class Clips(NamedTuple):
    """Held-out captions and scenes, and the size and rate at which they are rendered."""

    prompts: list[str]
    scenes: SceneBatch
    size: tuple[int, int, int]
    fps: float

    def render(self, part: slice, device: torch.device) -> Tensor:
        """Clips `[batch, 3, frames, height, width]` in [-1, 1]."""
        return render_scenes(self.scenes.index(part).to(device), *self.size, fps=self.fps)


class Judged(NamedTuple):
    """Figures of one video.

    Attributes:
        psnr: in dB against the true clip; of a temporal stage over the frames that were not given.
        sharpness: share of energy above half the Nyquist frequency.
        gold: score of the world's verifier.
        motion: share of the parts about motion that are shown; nan where there is none.
        seconds: that making the video took.
    """

    psnr: float
    sharpness: float
    gold: float
    motion: float
    seconds: float


def held_out_clips(count: int, size: tuple[int, int, int], fps: float, seed: int) -> Clips:
    """Captions and scenes of the world's test split."""
    prompts, scenes, _ = training_batch(count, seed, "test", *size, fps=fps)
    return Clips(prompts, scenes, size, fps)


def baselines(kind: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways without a network from coarse videos to the size of a stage's, by name.

    Args:
        kind: `temporal` or `spatial`.
    """
    factor = FACTORS[kind]
    if kind == "temporal":
        return {
            "frame doubling": lambda videos: repeat_frames(videos, factor),
            "linear blending": lambda videos: blend_frames(videos, factor),
        }
    return {
        "bicubic": lambda videos: enlarge(videos, factor),
        "trilinear": lambda videos: enlarge(videos, factor, "bilinear"),
    }


def judge(
    videos: Tensor, prompts: Sequence[str], fps: float, truth: Tensor, seconds: float = 0.0, given: int = 0
) -> list[Judged]:
    """Figures of videos `[batch, 3, frames, height, width]`.

    Args:
        truth: the true clips, of the same shape.
        seconds: that all videos took together.
        given: every so many frames one was given, which does not count in the PSNR; 0 for none.
    """
    prompts = as_list(prompts)
    counted = torch.ones(videos.shape[2], dtype=torch.bool)
    if given:
        counted[::given] = False
    near = psnr(videos[:, :, counted.to(videos.device)], truth[:, :, counted.to(truth.device)]).tolist()
    sharp = high_frequency_share(videos).tolist()
    rows = []
    for number, one in enumerate(verify_batch(videos, prompts, fps=fps)):
        moving = [answer for name, answer in one.parts.items() if part_kind(name) in MOTION]
        motion = sum(moving) / len(moving) if moving else float("nan")
        rows.append(Judged(near[number], sharp[number], one.score, motion, seconds / len(prompts)))
    return rows


def compare(
    stage: CascadeStage,
    clips: Clips,
    part: slice,
    sampling: StageSampling = OWN_SAMPLING,
    seed: int = 0,
) -> dict[str, list[Judged]]:
    """Figures of the stage, of every baseline and of the true clips, for the clips of `part`; by name.

    All start from the true clips with every fourth frame or half the sides.
    """
    kind, device = stage.settings.stage, stage.codec.device
    truth, prompts = clips.render(part, device), clips.prompts[part]
    factor = FACTORS[kind]
    given = factor if kind == "temporal" else 0
    low = keep_frames(truth, factor) if kind == "temporal" else reduce(truth, factor)
    fps = clips.fps / factor if kind == "temporal" else clips.fps
    seeds = [seed + index for index in range(part.start, part.start + len(prompts))]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        STAGE: lambda videos: stage.upsample(videos, fps, prompts, seeds, sampling).to(device),
        **baselines(kind),
    }
    found = {REAL: judge(truth, prompts, clips.fps, truth)}
    for name, make in ways.items():
        started = time.perf_counter()
        videos = make(low)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        found[name] = judge(videos, prompts, clips.fps, truth, seconds, given)
    return found


def mean_figures(rows: Sequence[Judged]) -> dict[str, float]:
    """Mean of each figure over the videos that have it; nan where none has."""
    means = {}
    for name in Judged._fields:
        values = [value for row in rows if (value := getattr(row, name)) == getattr(row, name)]
        means[name] = sum(values) / len(values) if values else float("nan")
    return means
