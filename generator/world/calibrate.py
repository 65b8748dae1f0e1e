"""Error rates of the verifier: `python -m generator.world.calibrate [--model nano]` prints Markdown tables.

On rendered clips every part of the true prompt should be answered with yes; the clip of another prompt should not get
full marks; and damages should lower the score the more the stronger they are. With `--model`, the same on what the
model's autoencoder makes of rendered clips, which is the ceiling of every generator that decodes with it.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from generator.one_or_several import as_list
from generator.output import InputError

from . import degrade
from .grammar import CATEGORIES, categories, parse
from .meaning import COLOURS, DIRECTIONS, SHAPES, SIZES, SPEEDS
from .render import render_scenes
from .scene_sampling import training_batch
from .verify import Adherence, judge, see, verify_batch

SIZES_OF_CLIPS = (
    (1, 32, 32),
    (9, 32, 32),
    (9, 32, 48),
    (9, 48, 32),
    (9, 48, 48),
    (13, 40, 72),
    (13, 72, 40),
    (17, 48, 72),
    (17, 64, 64),
)
"""Frames, height, width."""

FULL_MARKS = 0.95
"""Every part is shown and the score is at least this."""

_CURVES: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise (sigma in [0, 1])": (degrade.noise, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "blur (sigma in pixels)": (degrade.blur, (0.7, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "recolouring (mixed with grey)": (degrade.desaturate, (0.1, 0.2, 0.4, 0.6, 0.8)),
    "recolouring (hue turned, degrees)": (degrade.rotate_hue, (5.0, 10.0, 15.0, 20.0, 30.0)),
    "shuffled share of the frames": (degrade.shuffle_frames, (0.3, 0.6, 1.0)),
}
_DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as rendered": lambda videos: videos,
    "noise 0.05": lambda videos: degrade.noise(videos, 0.05),
    "blur 0.7": lambda videos: degrade.blur(videos, 0.7),
    "half resolution + blur 0.7 + noise 0.03": degrade.soft_and_noisy,
    "H.264, 4:2:0, crf 18": degrade.h264,
    "reversed": degrade.reverse,
    "frozen": degrade.freeze,
    "mirrored": degrade.mirror,
}


def part_kind(name: str) -> str:
    """Topic of a part: object, shape, colour, size, motion, speed, count, relation, background or camera."""
    if name.startswith("there are"):
        return "count"
    if name.startswith("the background"):
        return "background"
    if name.startswith("the camera"):
        return "camera"
    rest = re.sub(r"^objects?( \d)? (is|moves) ", "", name)
    for kind, values in (("shape", [f"a {shape}" for shape in SHAPES]), ("colour", COLOURS), ("size", SIZES)):
        if rest in values:
            return kind
    if rest == "there":
        return "object"
    if rest in SPEEDS:
        return "speed"
    return "relation" if re.search(r"object \d$", rest) and rest not in DIRECTIONS else "motion"


@dataclass
class Rates:
    """Counts of parts and clips that accumulate over batches.

    Attributes:
        right, asked: parts answered with yes, and all parts, by kind.
        full, clips: clips with full marks, and all clips.
        score: sum of the scores.
    """

    right: dict[str, int]
    asked: dict[str, int]
    full: int = 0
    clips: int = 0
    score: float = 0.0

    @classmethod
    def of(cls, adherences: Sequence[Adherence]) -> Rates:
        """Rates of clips that should show every part."""
        rates = cls({}, {})
        for adherence in adherences:
            for name, answer in adherence.parts.items():
                for kind in (part_kind(name), "all"):
                    rates.right[kind] = rates.right.get(kind, 0) + answer
                    rates.asked[kind] = rates.asked.get(kind, 0) + 1
            rates.full += all(adherence.parts.values()) and adherence.score >= FULL_MARKS
            rates.clips += 1
            rates.score += adherence.score
        return rates

    def share(self, kind: str = "all") -> float:
        """Share of the parts of a kind that were answered with yes; nan where none was asked."""
        return self.right[kind] / self.asked[kind] if self.asked.get(kind) else float("nan")

    @property
    def full_share(self) -> float:
        """Share of clips with full marks."""
        return self.full / max(1, self.clips)

    @property
    def mean_score(self) -> float:
        """Mean score of the clips."""
        return self.score / max(1, self.clips)


def sample_clips(
    n: int, seed: int, size: tuple[int, int, int], split: str = "test", fps: float = 8
) -> tuple[list[str], Tensor]:
    """Prompts and rendered clips [n, 3, frames, height, width] of one size."""
    prompts, scenes, _ = training_batch(n, seed, split, *size, fps)
    return prompts, render_scenes(scenes, *size, fps)


def false_accepts(videos: Tensor, prompts: Sequence[str], others: int = 20, fps: float = 8) -> float:
    """Share of clips that get full marks for another clip's prompt, of a different meaning.

    Prompts that say little ("a red circle") are truly shown by some clips of other prompts; these count too.

    Args:
        videos: [batch, 3, frames, height, width] in [-1, 1].
        prompts: the prompts they were made for.
        others: how many other prompts each clip is judged by: those that follow its own.
        fps: frames a second.
    """
    prompts = as_list(prompts)
    meanings = [parse(prompt) for prompt in prompts]
    accepted = asked = 0
    for row, sight in enumerate(see(videos, fps)):
        for other in (meanings[(row + step) % len(meanings)] for step in range(1, others + 1)):
            if other != meanings[row]:
                adherence = judge(sight, other)
                accepted += all(adherence.parts.values()) and adherence.score >= FULL_MARKS
                asked += 1
    return accepted / max(1, asked)


def reconstruction_agreement(
    reconstruct: Callable[[Tensor], Tensor],
    n: int = 200,
    seed: int = 0,
    size: tuple[int, int, int] = (9, 32, 32),
    split: str = "test",
    fps: float = 8,
    batch_size: int = 32,
) -> dict[str, float]:
    """Shares of alike answers of the verifier before and after `reconstruct`, on true prompts.

    Args:
        reconstruct: maps videos [batch, 3, frames, height, width] in [-1, 1] to the same shape.
        n, seed, size, split, fps: which rendered clips; `size` is frames, height, width.
        batch_size: clips given to `reconstruct` at once.

    Returns:
        Share of parts with the same answer, by kind ("all", "shape", "colour", ...), "psnr" in decibels with
        peak-to-peak 2, and "score", the mean score afterwards.
    """
    prompts, videos = sample_clips(n, seed, size, split, fps)
    after = torch.cat([reconstruct(part).to(videos) for part in videos.split(batch_size)]).clamp(-1, 1)
    same: dict[str, list[bool]] = {"all": []}
    score = 0.0
    for old, new in zip(verify_batch(videos, prompts, fps), verify_batch(after, prompts, fps), strict=True):
        score += new.score / n
        for name, answer in old.parts.items():
            for kind in (part_kind(name), "all"):
                same.setdefault(kind, []).append(answer == new.parts[name])
    result = {kind: sum(answers) / len(answers) for kind, answers in same.items()}
    error = ((after - videos) / 2).square().mean().clamp_min(1e-12)
    return result | {"psnr": float(-10 * error.log10()), "score": score}


def _row(*cells: object) -> str:
    return "| " + " | ".join(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def _head(*cells: str) -> list[str]:
    return ["", _row(*cells), "|" + "---|" * len(cells)]


def _size_tables(n: int, seed: int) -> Iterator[str]:
    """Rates by size, then by category of the prompt over all sizes."""
    yield "### Rendered clips by size"
    yield from _head(
        "frames x height x width",
        "n",
        "parts right",
        "full marks",
        "full marks for another prompt",
        "clips/s",
    )
    by_category: dict[str, list[Adherence]] = {}
    for place, size in enumerate(tqdm(SIZES_OF_CLIPS, desc="sizes", file=sys.stderr)):
        prompts, videos = sample_clips(n, seed + 10 * place, size)
        start = time.perf_counter()
        adherences = verify_batch(videos, prompts)
        speed = n / (time.perf_counter() - start)
        for prompt, adherence in zip(prompts, adherences, strict=True):
            for category in categories(prompt):
                by_category.setdefault(category, []).append(adherence)
        rates = Rates.of(adherences)
        other = false_accepts(videos, prompts)
        yield _row("x".join(map(str, size)), n, rates.share(), rates.full_share, other, f"{speed:.0f}")
    yield "\n### Rendered clips by category of the prompt"
    yield from _head("category", "n", "parts right", "full marks")
    for category in CATEGORIES:
        rates = Rates.of(by_category.get(category, []))
        yield _row(category, rates.clips, rates.share(), rates.full_share)


def _damage_tables(n: int, seed: int, size: tuple[int, int, int]) -> Iterator[str]:
    """Rates under damages, then curves of the score."""
    prompts, videos = sample_clips(n, seed + 1, size)
    kinds = ("shape", "colour", "size", "motion", "count", "relation", "camera")
    yield f"\n### Damaged clips, {'x'.join(map(str, size))}, n = {n}: parts still answered with yes"
    yield from _head("damage", "all", *kinds, "score")
    for name, damage in tqdm(_DAMAGES.items(), desc="damages", file=sys.stderr):
        rates = Rates.of(verify_batch(damage(videos), prompts))
        yield _row(name, rates.share(), *(rates.share(kind) for kind in kinds), rates.mean_score)
    yield f"\n### Mean score under growing damage, {'x'.join(map(str, size))}, n = {n}"
    yield from _head("damage", "strength: mean score")
    clean = Rates.of(verify_batch(videos, prompts)).mean_score
    for name, (harm, strengths) in tqdm(_CURVES.items(), desc="curves", file=sys.stderr):
        points = [f"0: {clean:.3f}"]
        for strength in strengths:
            rates = Rates.of(verify_batch(harm(videos, strength), prompts))
            points.append(f"{strength:g}: {rates.mean_score:.3f}")
        yield _row(name, ", ".join(points))


def _model_table(model: str, n: int, seed: int) -> Iterator[str]:
    from generator import load_generator

    generator = load_generator(model)
    kinds = ("shape", "colour", "size", "motion", "count", "relation", "camera")
    yield f"\n### Reconstructions by the autoencoder of {model}: parts answered as before"
    yield from _head("frames x height x width", "n", "PSNR (dB)", "all", *kinds, "score")

    def reconstruct(videos: Tensor) -> Tensor:
        with torch.no_grad():
            return generator.decode(generator.encode(videos)).float()

    for place, size in enumerate(tqdm(SIZES_OF_CLIPS, desc="reconstructions", file=sys.stderr)):
        found = reconstruction_agreement(reconstruct, n, seed + 2 + 10 * place, size)
        rates = (found.get(kind, float("nan")) for kind in kinds)
        yield _row("x".join(map(str, size)), n, f"{found['psnr']:.1f}", found["all"], *rates, found["score"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m generator.world.calibrate", description=__doc__)
    parser.add_argument(
        "--model", help="Also measure reconstructions by this model's autoencoder, such as nano."
    )
    parser.add_argument("--n", type=int, default=300, help="Clips a row.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of prompts and scenes.")
    given = parser.parse_args(arguments)
    try:
        if given.n < 1:
            raise InputError(f"--n is {given.n}, but at least 1 clip is needed: give a larger number.")
        for line in _size_tables(given.n, given.seed):
            print(line, flush=True)
        for size in ((9, 32, 32), (17, 64, 64)):
            for line in _damage_tables(given.n, given.seed, size):
                print(line, flush=True)
        if given.model is not None:
            for line in _model_table(given.model, max(1, given.n // 3), given.seed):
                print(line, flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
