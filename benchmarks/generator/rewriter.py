"""Gold of vague prompts without and with rewriters: `python -m benchmarks.generator.rewriter --rewriters world
nano-rewriter` prints a Markdown table for each guidance scale.

Prompts of the test split leave open colour, size or motion. All videos of a prompt have the same noise and are judged
by the prompt as it was. Differences are paired, with 95 % intervals of the normal approximation. `--additions` tries
the claims that the world's grammar may add, each alone, against the prompts in its plain words. Scores are kept in
`--scores`, so that an interrupted run goes on and no video is made twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from alignment.rewriting.rewriters import load_rewriter
from generator import load_generator
from generator.base import VideoGenerator
from generator.output import read_jsonl
from generator.world import verify_batch
from generator.world.elaborate import OPTIONS, elaborate, is_faithful, kept_claims, vague_prompts
from reward.models.named.chat_cache import ReplyCache

NONE, PLAIN = "none", "plain"


class Scores:
    """Gold scores of videos of one generator and one way to sample, kept in a file as they come.

    Args:
        generator: what makes the videos.
        steps: denoising steps.
        file: JSONL file with a line a video; None keeps nothing.
        batch_size: videos at a time.
    """

    def __init__(
        self, generator: VideoGenerator, steps: int, file: Path | None = None, batch_size: int = 32
    ) -> None:
        self.generator, self.steps, self.file, self.batch_size = generator, steps, file, batch_size
        self.known: dict[str, float] = {}
        if file is not None and file.is_file():
            self.known = {row["video"]: row["score"] for _, row in read_jsonl(file)}

    def _key(self, text: str, prompt: str, seed: int, guidance_scale: float) -> str:
        return json.dumps([self.generator.name, self.steps, guidance_scale, seed, text, prompt])

    def gold(self, texts: Sequence[str], prompts: Sequence[str], guidance_scale: float) -> torch.Tensor:
        """Gold scores `[len(prompts)]` of one video a prompt, made from `texts` and judged by `prompts`; video i has
        the seed i."""
        keys = [
            self._key(text, prompt, seed, guidance_scale)
            for seed, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
        ]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        for start in tqdm(range(0, len(missing), self.batch_size), unit="batch", disable=not missing):
            rows = missing[start : start + self.batch_size]
            videos = self.generator.generate(
                [texts[row] for row in rows],
                seed=rows,
                num_inference_steps=self.steps,
                guidance_scale=guidance_scale,
                batch_size=self.batch_size,
            )
            videos = videos.to(self.generator.device)
            scores = [each.score for each in verify_batch(videos, [prompts[row] for row in rows])]
            self._keep({keys[row]: score for row, score in zip(rows, scores, strict=True)})
        return torch.tensor([self.known[key] for key in keys])

    def _keep(self, found: Mapping[str, float]) -> None:
        self.known |= found
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.writelines(
                    json.dumps({"video": key, "score": score}) + "\n" for key, score in found.items()
                )


def kept_share(prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Share of all claims of the prompts that the texts make too."""
    counts = [kept_claims(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    return sum(kept for kept, _ in counts) / sum(total for _, total in counts)


def paired(scores: torch.Tensor, others: torch.Tensor) -> tuple[float, float]:
    """Mean difference of paired scores, and half its 95 % interval."""
    difference = scores - others
    return float(difference.mean()), 1.96 * float(difference.std()) / len(difference) ** 0.5


def added_texts(prompts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The prompts in plain words, and with each of the named claims added alone, or several joined by `+`."""
    found = {PLAIN: [elaborate(prompt, {}) for prompt in prompts]}
    for name in names:
        added = {claim: OPTIONS[claim] for claim in name.split("+")}
        found[name] = [elaborate(prompt, added) for prompt in prompts]
    return found


def rows(
    prompts: Sequence[str],
    texts: Mapping[str, Sequence[str]],
    scores: Mapping[str, torch.Tensor],
    against: str,
) -> list[str]:
    """Lines of the table, one a name: claims kept, gold, and its paired difference to that of `against`."""
    lines = []
    for name, said in texts.items():
        whole = sum(map(is_faithful, prompts, said)) / len(prompts)
        line = (
            f"| {name} | {kept_share(prompts, said):.4f} | {whole:.4f} | {float(scores[name].mean()):.3f} |"
        )
        if name == against:
            lines.append(f"{line} – | – |")
            continue
        mean, half = paired(scores[name], scores[against])
        changed = sum(one != other for one, other in zip(said, texts[against], strict=True)) / len(prompts)
        lines.append(f"{line} {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}] | {changed:.2f} |")
    return lines


def main() -> None:
    """Prints a table for each guidance scale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rewriters", nargs="*", default=["world"], help="Names for --rewriter.")
    parser.add_argument(
        "--additions", nargs="*", default=[], help=f"Claims: {', '.join(OPTIONS)}, or several joined by +."
    )
    parser.add_argument("--against", default=None, help="Row that differences are taken to; the first one.")
    parser.add_argument("--adapter", default=None, help="Adapter of nano, such as nano-distilled.")
    parser.add_argument("--guidance_scales", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--count", type=int, default=512, help="Prompts.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="Of the prompts.")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--scores", type=Path, default=None, help="File that keeps scores, to go on from.")
    asked = parser.parse_args()
    prompts = vague_prompts(asked.count, asked.seed, "test")
    texts: dict[str, list[str]] = {NONE: list(prompts)}
    for name in asked.rewriters:
        texts[name] = load_rewriter(name, failures="keep", cache=ReplyCache(None)).rewrite(prompts)
    if asked.additions:
        texts |= added_texts(prompts, asked.additions)
    against = asked.against or (PLAIN if asked.additions else NONE)
    generator = load_generator("nano", adapter=asked.adapter)
    judge = Scores(generator, asked.steps, asked.scores, asked.batch_size)
    for guidance_scale in asked.guidance_scales:
        scores = {name: judge.gold(said, prompts, guidance_scale) for name, said in texts.items()}
        print(f"\nGuidance {guidance_scale:g}, {asked.count} prompts, difference to {against}:\n")
        print("| rewriter | claims kept | prompts with all kept | gold | difference | prompts changed |")
        print("|---|---|---|---|---|---|")
        print("\n".join(rows(prompts, texts, scores, against)), flush=True)


if __name__ == "__main__":
    main()
