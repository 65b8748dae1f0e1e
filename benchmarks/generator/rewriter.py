"""Gold of vague prompts without and with rewriters: `python -m benchmarks.generator.rewriter --count 256 --rewriters
world runs/rewriter` prints a Markdown table.

Prompts of the test split leave open colour, size or motion. All videos of a prompt have the same noise and are judged
by the prompt as it was. Differences are paired, with 95 % intervals of the normal approximation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from tqdm import tqdm

from alignment.rewriting.rewriters import load_rewriter
from generator import load_generator
from generator.base import VideoGenerator
from generator.world import verify_batch
from generator.world.elaborate import is_faithful, kept_claims, vague_prompts
from reward.models.named.chat_cache import ReplyCache

NONE = "none"


def gold(
    generator: VideoGenerator,
    texts: Sequence[str],
    prompts: Sequence[str],
    steps: int,
    guidance_scale: float,
    batch_size: int,
) -> torch.Tensor:
    """Gold scores `[len(prompts)]` of one video a prompt, made from `texts` and judged by `prompts`."""
    scores: list[float] = []
    for start in tqdm(range(0, len(prompts), batch_size), unit="batch"):
        part = slice(start, min(start + batch_size, len(prompts)))
        videos = generator.generate(
            texts[part],
            seed=list(range(part.start, part.stop)),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )
        scores += [each.score for each in verify_batch(videos, prompts[part])]
    return torch.tensor(scores)


def kept_share(prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Share of all claims of the prompts that the texts make too."""
    counts = [kept_claims(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    return sum(kept for kept, _ in counts) / sum(total for _, total in counts)


def paired(scores: torch.Tensor, others: torch.Tensor) -> tuple[float, float]:
    """Mean difference of paired scores, and half its 95 % interval."""
    difference = scores - others
    return float(difference.mean()), 1.96 * float(difference.std()) / len(difference) ** 0.5


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rewriters", nargs="+", default=["world"], help="Names for --rewriter.")
    parser.add_argument("--adapter", default=None, help="Adapter of nano, such as nano-distilled.")
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=512, help="Prompts.")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="Of the prompts.")
    parser.add_argument("--batch_size", type=int, default=32)
    asked = parser.parse_args()
    prompts = vague_prompts(asked.count, asked.seed, "test")
    generator = load_generator("nano", adapter=asked.adapter)
    settings = asked.steps, asked.guidance_scale, asked.batch_size
    base = gold(generator, prompts, prompts, *settings)
    print("| rewriter | claims kept | prompts with all kept | gold | difference |\n|---|---|---|---|---|")
    print(f"| {NONE} | 1 | 1 | {base.mean():.3f} | – |", flush=True)
    for name in asked.rewriters:
        texts = load_rewriter(name, failures="keep", cache=ReplyCache(None)).rewrite(prompts)
        scores = gold(generator, texts, prompts, *settings)
        mean, half = paired(scores, base)
        whole = sum(map(is_faithful, prompts, texts)) / len(prompts)
        print(
            f"| {name} | {kept_share(prompts, texts):.4f} | {whole:.4f} | {scores.mean():.3f} | {mean:+.3f} "
            f"[{mean - half:+.3f}, {mean + half:+.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
