"""Order of several videos of one prompt by rewards against that by the gold score, which is what PPO's groups ask for.

    python -m benchmarks.reward.within_prompts --model nano-v1 --rewards nano-v1-reward nano-reward --prompts 96

A generator makes `--videos` videos of 9×32×32 of each of `--prompts` prompts of the built-in world. For each reward:
the share of pairs of one prompt, of those that the verifier tells apart, in which its order is the verifier's; the mean
correlation of both within a prompt, over the prompts whose videos differ in gold; and the gold score of the video that
it puts first. Intervals are 95 %, from resampled prompts. `--rewards a,b` is the mean of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.alignment.study.settings import FPS, SIZE
from generator import load_generator
from generator.pretraining.model_card import gold_scores
from generator.sampling import generate_latents
from generator.world import sample_prompts
from reward import load_reward
from reward.metrics import correct_without_ties, pairs_of_rankings
from reward.statistics import Interval, cluster_bootstrap

Array = NDArray[np.float64]


def within(gold: Array, scores: Array, prompts: Sequence[str]) -> dict[str, Interval]:
    """Figures of a reward.

    Args:
        gold, scores: `[prompts, videos]`.
        prompts: `[prompts]`, each once.

    Returns:
        `pairs`, the share of pairs of unequal gold in the right order, `correlation` within a prompt and `first`, the
        gold of the video with the highest score.
    """
    ranks = [len(row) - np.searchsorted(np.unique(row), row) for row in gold]
    pairs = pairs_of_rankings(list(scores), ranks, prompts)
    right = correct_without_ties(pairs.difference, pairs.label)
    told = np.isfinite(right)
    varied = [row for row in range(len(gold)) if np.ptp(gold[row]) > 0 and np.ptp(scores[row]) > 0]
    correlations = [float(np.corrcoef(gold[row], scores[row])[0, 1]) for row in varied]
    first = gold[np.arange(len(gold)), scores.argmax(1)]
    return {
        "pairs": cluster_bootstrap(right[told], pairs.cluster[told]),
        "correlation": cluster_bootstrap(correlations, [prompts[row] for row in varied]),
        "first": cluster_bootstrap(first, list(prompts)),
    }


@torch.no_grad()
def videos_and_gold(arguments: argparse.Namespace, prompts: Sequence[str]) -> tuple[torch.Tensor, Array]:
    """Decoded videos `[prompts * videos, 3, frames, height, width]` of the generator, prompt by prompt, and their gold
    scores `[prompts, videos]`."""
    generator = load_generator(arguments.model, adapter=arguments.adapter, device=arguments.device)
    repeated = [prompt for prompt in prompts for _ in range(arguments.videos)]
    latents = generate_latents(
        generator,
        repeated,
        **SIZE,
        num_inference_steps=arguments.num_inference_steps,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    )
    parts = latents.split(arguments.batch_size)
    videos = torch.cat([generator.decode(part.to(generator.device)).cpu() for part in parts])
    gold = [judged.score for judged in gold_scores(videos, repeated, generator.device)]
    return videos, np.array(gold).reshape(len(prompts), -1)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Prints the table; returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter", help="Adapter of the generator, as an aligned policy.")
    parser.add_argument("--rewards", nargs="+", default=["nano-reward"], help="Names or folders of rewards.")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--videos", type=int, default=8, help="Of each prompt.")
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--num_inference_steps", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(words)
    prompts = list(dict.fromkeys(sample_prompts(2 * arguments.prompts, 777, "train")))[: arguments.prompts]
    videos, gold = videos_and_gold(arguments, prompts)
    repeated = [prompt for prompt in prompts for _ in range(arguments.videos)]
    print(
        f"{gold.size} videos of {arguments.model}, guidance {arguments.guidance_scale:g}: gold {gold.mean():.3f}, "
        f"of the best of {arguments.videos} {gold.max(1).mean():.3f}\n\n"
        "| reward | pairs of a prompt | correlation | gold of its first |\n|---|---|---|---|"
    )
    rows = []
    for name in arguments.rewards:
        judge = load_reward(name, device=arguments.device)
        judge.set_frame_rate(FPS)
        scores = next(iter(judge.score(videos, repeated).values())).double().numpy().reshape(gold.shape)
        figures = within(gold, scores, prompts)
        rows.append({"reward": name, **{key: each.as_dict() for key, each in figures.items()}})
        cells = [f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in figures.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
