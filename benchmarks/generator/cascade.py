"""Figures of a cascade: `python -m benchmarks.generator.cascade PART … --output_dir D`.

Every part keeps its rows in D and goes on from there; with `--max_seconds 420` a call ends in time for a limit of eight
minutes. The parts, in the order in which they make sense:

    C="python -m benchmarks.generator.cascade"
    $C stages --output_dir D --stages runs/temporal runs/spatial --count 256    # against interpolation
    $C gold --output_dir D --cascade runs/cascade --count 256                   # cascade, base, base at the full size
    $C single --output_dir D --cascade runs/cascade --seconds 1700              # one model of as many weights, trained
    $C single --output_dir D --single_from nano --seconds 900                   # or the base trained on at full size
    $C alignment --output_dir D --cascade runs/cascade --adapters sft=runs/sft dpo=runs/dpo ppo=runs/ppo
    $C ppo --output_dir D --cascade runs/cascade                                # seconds of an iteration, base and full
    $C table --output_dir D                                                     # all that there is

`--max_seconds` does not end `ppo`, which is a few iterations. Gold is the score of the world's verifier on prompts of
the test split, at the frame rate of what is judged; sharpness is the share of spectral energy above half the Nyquist
frequency; differences are paired by prompt and noise, with 95 % intervals of the normal approximation.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generator.cascade_costs import (
    BASE,
    DIRECT,
    SINGLE,
    Deadline,
    load_asked,
    run_ppo,
    run_single,
)
from generator import load_generator
from generator.base import VideoGenerator
from generator.cascade.cascade import CascadeGenerator, base_of
from generator.cascade.comparison import REAL, Judged, compare, held_out_clips, mean_figures
from generator.cascade.figures import high_frequency_share
from generator.cascade.stage import load_stage
from generator.cascade.upsamplers import find_upsampler
from generator.loading import default_device
from generator.pretraining.cascade.model_card import figures_table
from generator.world import sample_prompts, verify_batch

COARSE, CASCADE = "coarse", "cascade"


class Rows:
    """Lines of a JSONL file that is written batch by batch and taken up again.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    def missing(self, way: str, count: int) -> list[int]:
        """Numbers of the videos of a way that are not there yet."""
        there = {row["index"] for row in self.rows if row["way"] == way}
        return [index for index in range(count) if index not in there]

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self.rows += rows

    def column(self, way: str, name: str) -> Tensor:
        """One figure of a way, in the order of the videos."""
        ordered = sorted((row for row in self.rows if row["way"] == way), key=lambda row: row["index"])
        return torch.tensor([float(row[name]) for row in ordered])

    def ways(self) -> list[str]:
        """Ways in the order in which they came."""
        return list(dict.fromkeys(row["way"] for row in self.rows))


def measure(
    rows: Rows,
    way: str,
    make: Callable[[list[str], list[int]], Tensor],
    fps: float,
    asked: argparse.Namespace,
    deadline: Deadline,
) -> None:
    """Makes and judges the missing videos of a way, until the time is over."""
    prompts = sample_prompts(asked.count, asked.seed, "test")
    missing = rows.missing(way, asked.count)
    while missing and not deadline.over:
        batch, missing = missing[: asked.batch_size], missing[asked.batch_size :]
        texts = [prompts[index] for index in batch]
        started = time.perf_counter()
        videos = make(texts, batch)
        seconds = (time.perf_counter() - started) / len(batch)
        videos = videos.to(default_device())
        sharp = high_frequency_share(videos).tolist()
        judged = verify_batch(videos, texts, fps=fps)
        rows.add(
            [
                {"way": way, "index": index, "gold": one.score, "sharpness": share, "seconds": seconds}
                for index, one, share in zip(batch, judged, sharp, strict=True)
            ]
        )
        print(f"{way}: {asked.count - len(missing)} of {asked.count}", flush=True)


def interval(values: Tensor) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval."""
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return mean, mean - half, mean + half


def run_stages(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Each stage against interpolation, at each size."""
    for name in asked.stages:
        folder = find_upsampler(name)
        codec = load_generator(base_of(folder))
        stage = load_stage(folder, codec)
        kind = stage.settings.stage
        for side in asked.sides or ([32] if kind == "temporal" else [64, 128]):
            rows = Rows(asked.output_dir / f"stages-{folder.name}-{side}.jsonl")
            clips = held_out_clips(asked.count, (asked.num_frames, side, side), asked.fps, asked.seed)
            missing = rows.missing(REAL, asked.count)
            while missing and not deadline.over:
                part = slice(missing[0], min(missing[0] + asked.batch_size, asked.count))
                found = compare(stage, clips, part, seed=asked.seed)
                rows.add(
                    [
                        {"way": way, "index": part.start + number, **one._asdict()}
                        for way, judged in found.items()
                        for number, one in enumerate(judged)
                    ]
                )
                missing = rows.missing(REAL, asked.count)
                print(
                    f"{folder.name}, {side} pixels: {asked.count - len(missing)} of {asked.count}", flush=True
                )


def at_full_size(cascade: CascadeGenerator, model: VideoGenerator, asked: argparse.Namespace) -> Any:
    """A function that asks a model for videos of the cascade's size directly."""
    size = cascade.defaults

    def make(prompts: list[str], seeds: list[int]) -> Tensor:
        return model.generate(
            prompts,
            size.num_frames,
            size.height,
            size.width,
            guidance_scale=asked.guidance_scale,
            seed=seeds,
            batch_size=asked.batch_size,
        )

    return make


def run_gold(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Cascade, coarse videos, the base at its own size and rate, and the base asked for the full size."""
    cascade = load_asked(asked)
    rows, base = Rows(asked.output_dir / "gold.jsonl"), cascade.base
    options = {"guidance_scale": asked.guidance_scale, "batch_size": asked.batch_size}
    ways: dict[str, tuple[Any, float]] = {
        BASE: (lambda p, s: base.generate(p, seed=s, **options), base.defaults.fps),
        COARSE: (lambda p, s: cascade.generate_base(p, seed=s, **options), cascade.base_fps),
        CASCADE: (lambda p, s: cascade.generate(p, seed=s, **options), cascade.defaults.fps),
        DIRECT: (at_full_size(cascade, base, asked), base.defaults.fps),
    }
    single = asked.output_dir / "single"
    if (single / "model_index.json").is_file():
        model = load_generator(single)
        ways[SINGLE] = at_full_size(cascade, model, asked), model.defaults.fps
    for way, (make, fps) in ways.items():
        measure(rows, way, make, fps, asked, deadline)


def run_alignment(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Gold before and after the stages, of the base and of the base with each adapter."""
    options = {"guidance_scale": asked.guidance_scale, "batch_size": asked.batch_size}
    adapters: dict[str, str | None] = {BASE: None}
    for each in asked.adapters:
        name, _, path = each.rpartition("=")
        adapters[name or Path(path).name] = path
    rows = Rows(asked.output_dir / "alignment.jsonl")
    for name, adapter in adapters.items():
        wanted = [f"{name}, {place}" for place in ("own", "before", "after")]
        if deadline.over or not any(rows.missing(way, asked.count) for way in wanted):
            continue
        cascade = load_asked(asked, adapter)
        base = cascade.base
        ways: list[tuple[Any, float]] = [
            (lambda p, s, base=base: base.generate(p, seed=s, **options), base.defaults.fps),
            (lambda p, s, whole=cascade: whole.generate_base(p, seed=s, **options), cascade.base_fps),
            (lambda p, s, whole=cascade: whole.generate(p, seed=s, **options), cascade.defaults.fps),
        ]
        for way, (make, fps) in zip(wanted, ways, strict=True):
            measure(rows, way, make, fps, asked, deadline)


def run_table(asked: argparse.Namespace, deadline: Deadline) -> None:
    """Prints all rows that there are, as Markdown."""
    for path in sorted(asked.output_dir.glob("stages-*.jsonl")):
        rows = Rows(path)
        figures = {}
        for way in rows.ways():
            lines = [row for row in rows.rows if row["way"] == way]
            figures[way] = mean_figures([Judged(*(row[name] for name in Judged._fields)) for row in lines])
        count = len(rows.column(rows.ways()[0], "gold"))
        print(f"\n{path.stem.removeprefix('stages-')}, {count} clips\n\n{figures_table(figures)}")
    _print_ways(Rows(asked.output_dir / "gold.jsonl"), asked.output_dir / "single" / "metrics.json")
    _print_alignment(Rows(asked.output_dir / "alignment.jsonl"))
    path = asked.output_dir / "ppo.json"
    if path.is_file():
        print("\n| PPO on | size | tokens a video | videos | seconds an iteration |\n|---|---|---|---|---|")
        for name, each in json.loads(path.read_text(encoding="utf-8")).items():
            size = "x".join(map(str, each["size"]))
            print(
                f"| {name} ({each['device']}) | {size} | {each['tokens']} | {each['videos']} | {each['seconds']:.2f} |"
            )


def _print_ways(rows: Rows, single: Path) -> None:
    if not rows.rows:
        return
    print(
        "\n| | videos | gold | minus base | high-frequency share | seconds a clip |\n|---|---|---|---|---|---|"
    )
    base = rows.column(BASE, "gold")
    for way in rows.ways():
        gold = rows.column(way, "gold")
        mean, low, high = interval(gold)
        paired = "–"
        if way != BASE and len(gold) == len(base):
            paired = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(gold - base))
        sharp, seconds = (float(rows.column(way, name).mean()) for name in ("sharpness", "seconds"))
        print(
            f"| {way} | {len(gold)} | {mean:.3f} [{low:.3f}, {high:.3f}] | {paired} | {sharp:.4f} | {seconds:.3f} |"
        )
    if single.is_file():
        facts = json.loads(single.read_text(encoding="utf-8"))
        start = f"from the weights of {facts['from']}" if facts["from"] else "from random weights"
        cascade = f" (cascade {facts['cascade'] / 1e6:.1f} M)" if facts["cascade"] else ""
        print(
            f"\nOne model {start}: {facts['weights'] / 1e6:.1f} M weights{cascade}, "
            f"{facts['seconds']:.0f} s of training, {facts['steps']} steps."
        )


def _print_alignment(rows: Rows) -> None:
    if not rows.rows:
        return
    places = {"own": "base alone", "before": "before the stages", "after": "after them"}
    head = " | ".join(f"gold {name} | minus base" for name in places.values())
    print(f"\n| adapter | {head} |\n|---" + "|---|---" * len(places) + "|")
    for name in dict.fromkeys(way.rpartition(", ")[0] for way in rows.ways()):
        cells = []
        for place in places:
            gold, base = (rows.column(f"{each}, {place}", "gold") for each in (name, BASE))
            if not len(gold):
                cells += ["–", "–"]
                continue
            paired = "–"
            if name != BASE and len(gold) == len(base):
                paired = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(gold - base))
            cells += [f"{gold.mean():.3f}", paired]
        print(f"| {name} | " + " | ".join(cells) + " |")


PARTS = {
    "stages": run_stages,
    "gold": run_gold,
    "single": run_single,
    "alignment": run_alignment,
    "ppo": run_ppo,
    "table": run_table,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of the rows.")
    parser.add_argument("--max_seconds", type=float, default=float("inf"), help="Seconds of this call.")
    parser.add_argument("--cascade", default="nano-cascade", help="Name or folder of the cascade.")
    parser.add_argument("--stages", nargs="+", default=["temporal", "spatial"], help="Names or folders.")
    parser.add_argument("--sides", nargs="+", type=int, help="Sides of the finer clips of --stages.")
    parser.add_argument("--num_frames", type=int, default=33, help="Frames of the finer clips of --stages.")
    parser.add_argument("--fps", type=float, default=16.0, help="Their frames a second.")
    parser.add_argument("--count", type=int, default=256, help="Prompts.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the prompts.")
    parser.add_argument("--batch_size", type=int, default=16, help="Videos made at once.")
    parser.add_argument("--guidance_scale", type=float, default=None, help="Of the base; its own by default.")
    parser.add_argument("--adapters", nargs="+", default=[], help="Adapters NAME=FOLDER of the base.")
    parser.add_argument("--seconds", type=float, default=1700.0, help="Training of the one model.")
    parser.add_argument(
        "--single_from",
        help="Pipeline whose weights the one model starts from, at its size; unset: random weights, as many as the "
        "cascade has.",
    )
    parser.add_argument("--width", type=int, default=256, help="Width of the one model.")
    parser.add_argument("--tokens", type=int, default=25_000, help="Tokens of its batches.")
    parser.add_argument("--num_workers", type=int, default=12, help="Processes that sample scenes for it.")
    parser.add_argument("--iterations", type=int, default=3, help="Iterations of PPO that count.")
    parser.add_argument("--ppo_prompts", type=int, default=8, help="Prompts of an iteration of PPO.")
    parser.add_argument("--ppo_generations", type=int, default=8, help="Videos of each prompt.")
    parser.add_argument("--micro_batch", type=int, default=8, help="Denoising steps in one backward pass.")
    asked = parser.parse_args(arguments)
    PARTS[asked.part](asked, Deadline(asked.max_seconds))


if __name__ == "__main__":
    main()
