"""Quality and time of sampling: `python -m benchmarks.generator.sampling_speed --model nano`.

For every solver and number of steps: the gold score on held-out prompts and the seconds a clip. Then the seconds a clip
at the sizes of `--sizes`, on a batch of 8 with ten Euler steps, decoding included.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator import load_generator
from generator.base import VideoGenerator
from generator.pretraining.model_card import gold_scores
from generator.solvers import SOLVERS
from generator.world import sample_prompts

BATCH = 8


def timed(generator: VideoGenerator, prompts: list[str], **arguments: Any) -> tuple[Tensor, float]:
    """Videos, and seconds a video."""
    if generator.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    videos = generator.generate(prompts, **arguments)
    return videos, (time.perf_counter() - start) / len(prompts)


def quality_rows(
    generator: VideoGenerator, prompts: list[str], steps: list[int], solvers: list[str], batch_size: int
) -> list[dict[str, Any]]:
    """Gold score with its standard error, network calls and seconds, for every solver and number of steps."""
    generator.generate(prompts[:batch_size], num_inference_steps=2, batch_size=batch_size)
    rows = []
    for count in steps:
        for solver in solvers:
            videos, seconds = timed(
                generator, prompts, num_inference_steps=count, solver=solver, batch_size=batch_size
            )
            scores = torch.tensor([one.score for one in gold_scores(videos, prompts, generator.device)])
            rows.append(
                {
                    "steps": count,
                    "solver": solver,
                    "calls": 2 * count - 1 if solver == "heun" else count,
                    "gold": float(scores.mean()),
                    "error": float(scores.std() / math.sqrt(len(scores))),
                    "seconds": seconds,
                }
            )
            print(
                "| {steps} | {solver} | {calls} | {gold:.3f} ± {error:.3f} | {seconds:.4f} |".format(
                    **rows[-1]
                ),
                flush=True,
            )
    return rows


def size_rows(
    generator: VideoGenerator, sizes: list[tuple[int, int, int]], repeats: int
) -> list[dict[str, Any]]:
    """Median seconds a clip of a batch of 8, ten steps."""
    prompts = sample_prompts(BATCH, 1, "test")
    rows = []
    for frames, height, width in sizes:
        size = {"num_frames": frames, "height": height, "width": width}
        timed(generator, prompts, num_inference_steps=2, **size)
        seconds = sorted(timed(generator, prompts, num_inference_steps=10, **size)[1] for _ in range(repeats))
        rows.append({"size": f"{frames}x{height}x{width}", "seconds": seconds[len(seconds) // 2]})
        print("| {size} | {seconds:.3f} |".format(**rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default=None, help="Cpu or cuda; the best by default.")
    parser.add_argument(
        "--count", type=int, default=128, help="Held-out prompts; 0 leaves the quality table out."
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8, 10, 20, 40])
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--batch_size", type=int, default=None)
    parser.add_argument("--sizes", nargs="*", default=["9x32x32", "17x64x64"], help="FRAMESxHEIGHTxWIDTH.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the figures.")
    arguments = parser.parse_args()
    generator = load_generator(arguments.model, device=arguments.device)
    figures: dict[str, Any] = {"device": str(generator.device), "threads": torch.get_num_threads()}
    if arguments.count:
        print("| steps | solver | network calls | gold | seconds a clip |\n|---|---|---|---|---|")
        prompts = sample_prompts(arguments.count, 1, "test")
        batch = arguments.batch_size or (128 if generator.device.type == "cuda" else BATCH)
        figures["quality"] = quality_rows(generator, prompts, arguments.steps, arguments.solvers, batch)
    print("\n| size | seconds a clip (batch of 8, 10 Euler steps) |\n|---|---|")
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
    figures["sizes"] = size_rows(generator, [(f, h, w) for f, h, w in sizes], arguments.repeats)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
