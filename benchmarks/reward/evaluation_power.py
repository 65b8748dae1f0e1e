"""Do the intervals of `vidalign evaluate` cover as they say, and does it find a difference of 0.03 as often as it says?

    python -m benchmarks.reward.evaluation_power --scores runs/evaluation_power.json

First the scores are recorded: `--prompts` held-out prompts of the world, `--videos` videos each, made by `--model` and
judged by the world's verifier; the file is kept and used again. They then stand for the population. Each of
`--repetitions` evaluations draws prompts from it with replacement, and for each prompt videos from those recorded.

Coverage: the share of evaluations whose 95 % interval holds the population's value, for the mean of one model, for the
paired difference of two models, and for the win rate. Power: model B is model A with some of its videos replaced by the
better of two, so that its population mean is higher by `--difference`. Each evaluation first measures the spread of the
differences on `--pilot` prompts, asks `prompts_needed`, and then compares the models on that many prompts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from generator.output import write_json
from reward.statistics import (
    cluster_bootstrap,
    deviation_of_differences,
    paired_difference,
    prompts_needed,
    win_rate,
)

Floats = NDArray[np.float64]


def record(arguments: argparse.Namespace) -> Floats:
    """Gold adherence `[prompts, videos]` of the model's own videos; read from the file where it is there."""
    path = Path(arguments.scores)
    facts = {
        "model": arguments.model,
        "prompts": arguments.prompts,
        "videos": arguments.videos,
        "guidance_scale": arguments.guidance_scale,
    }
    if path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["settings"] != facts:
            raise SystemExit(f"{path} was recorded with {document['settings']}: name another file.")
        return np.array(document["scores"])
    from generator import load_generator
    from generator.world import sample_prompts, verify_batch

    generator = load_generator(arguments.model, device=arguments.device)
    prompts = sample_prompts(arguments.prompts, seed=0, split="test")
    rows = [prompt for prompt in prompts for _ in range(arguments.videos)]
    scores: list[float] = []
    for start in tqdm(range(0, len(rows), arguments.batch_size), desc="Recording", unit="batch"):
        batch = rows[start : start + arguments.batch_size]
        videos = generator.generate(
            batch,
            seed=list(range(start, start + len(batch))),
            guidance_scale=arguments.guidance_scale,
            batch_size=arguments.batch_size,
        )
        scores += [adherence.score for adherence in verify_batch(videos, batch)]
    table = np.array(scores).reshape(len(prompts), arguments.videos)
    write_json(path, {"settings": facts, "scores": table.tolist()})
    return table


def share_of_replaced(scores: Floats, difference: float) -> float:
    """Share of videos that must become the better of two for the population mean to rise by `difference`."""
    better = np.maximum(scores[:, :, None], scores[:, None, :]).mean()
    gain = float(better - scores.mean())
    if difference > gain:
        raise SystemExit(f"The better of two gains only {gain:.3f}: ask for a smaller --difference.")
    return difference / gain


def draw(
    scores: Floats, prompts: int, videos: int, share: float, rng: np.random.Generator
) -> tuple[Any, ...]:
    """One evaluation: scores of A and of B `[prompts · videos]` and the prompt of each."""
    chosen = rng.integers(len(scores), size=prompts)
    rows = np.repeat(chosen, videos)

    def one() -> Floats:
        return scores[rows, rng.integers(scores.shape[1], size=len(rows))]

    a, b, second = one(), one(), one()
    replaced = rng.random(len(rows)) < share
    return a, np.where(replaced, np.maximum(b, second), b), np.repeat(np.arange(prompts), videos)


def true_win_rate(scores: Floats, share: float) -> float:
    """Probability that a video of B beats one of A of the same prompt, ties ½, by enumeration."""
    a = scores[:, :, None, None]
    b, second = scores[:, None, :, None], scores[:, None, None, :]
    plain = (np.sign(b - a) + 1) / 2
    better = (np.sign(np.maximum(b, second) - a) + 1) / 2
    return float((1 - share) * plain.mean() + share * better.mean())


def coverage(scores: Floats, prompts: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Share of intervals that hold the population's mean, difference and win rate, and their mean widths."""
    rng = np.random.default_rng(prompts)
    share = share_of_replaced(scores, arguments.difference)
    truth = {
        "mean": float(scores.mean()),
        "difference": arguments.difference,
        "win_rate": true_win_rate(scores, share),
    }
    hits, widths = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for repetition in range(arguments.repetitions):
        a, b, clusters = draw(scores, prompts, arguments.videos_per_prompt, share, rng)
        options = {"resamples": arguments.resamples, "seed": repetition}
        found = {
            "mean": cluster_bootstrap(a, clusters, **options),
            "difference": cluster_bootstrap(b - a, clusters, **options),
            "win_rate": win_rate(b, a, clusters, **options),
        }
        for name, interval in found.items():
            hits[name] += interval.low <= truth[name] <= interval.high
            widths[name] += interval.high - interval.low
    count = arguments.repetitions
    return {f"{name}_coverage": hits[name] / count for name in truth} | {
        f"{name}_width": widths[name] / count for name in truth
    }


def power(scores: Floats, arguments: argparse.Namespace, pilot: int | None) -> dict[str, float]:
    """Share of runs in which the difference is found at the number of prompts that the power analysis of a pilot says.

    `pilot` is its number of prompts, or None for a plan that takes the pilot's spread for the true one.
    """
    rng = np.random.default_rng(1)
    share = share_of_replaced(scores, arguments.difference)
    found, wrong, counts, false_alarms = 0, 0, [], 0
    for repetition in range(arguments.repetitions):
        a, b, clusters = draw(scores, arguments.pilot, arguments.videos_per_prompt, share, rng)
        deviation = deviation_of_differences(b, a, clusters)
        needed = prompts_needed(arguments.difference, deviation, measured_on=pilot)
        counts.append(needed)
        options = {"resamples": arguments.resamples, "seed": repetition}
        a, b, clusters = draw(scores, needed, arguments.videos_per_prompt, share, rng)
        interval = paired_difference(b, a, clusters, **options).interval
        found += interval.low > 0
        wrong += interval.high < 0
        a, b, clusters = draw(scores, needed, arguments.videos_per_prompt, 0.0, rng)
        false_alarms += paired_difference(b, a, clusters, **options).interval.excludes_zero()
    count = arguments.repetitions
    return {
        "prompts": float(np.mean(counts)),
        "prompts_low": float(np.quantile(counts, 0.05)),
        "prompts_high": float(np.quantile(counts, 0.95)),
        "detected": found / count,
        "wrong_direction": wrong / count,
        "false_alarms": false_alarms / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scores", required=True, help="JSON file of the recorded scores; made if missing.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=384)
    parser.add_argument("--videos", type=int, default=4, help="Recorded videos of a prompt.")
    parser.add_argument("--guidance_scale", type=float, default=None)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 128, 384], help="Prompts of an evaluation."
    )
    parser.add_argument(
        "--videos_per_prompt", type=int, default=2, help="Videos of a prompt in an evaluation."
    )
    parser.add_argument("--difference", type=float, default=0.03)
    parser.add_argument("--pilot", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    scores = record(arguments)
    print(
        f"{scores.size} scores of {len(scores)} prompts: mean {scores.mean():.3f}, standard deviation "
        f"{scores.std():.3f}, of prompt means {scores.mean(1).std(ddof=1):.3f}."
    )
    results: dict[str, Any] = {"coverage": {}}
    for prompts in arguments.sizes:
        row = results["coverage"][prompts] = coverage(scores, prompts, arguments)
        print(f"{prompts} prompts: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    for name, pilot in (("power", arguments.pilot), ("power_without_upper_limit", None)):
        results[name] = power(scores, arguments, pilot)
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in results[name].items()))
    path = Path(arguments.scores)
    write_json(path.with_name(f"{path.stem}-results.json"), {"arguments": vars(arguments), **results})


if __name__ == "__main__":
    main()
