"""Reward of rewritten prompts: the score of the videos that they give, judged by the original prompts, less a penalty
for what a rewriting drops or contradicts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.rewriting.rewriters import one_line
from alignment.rollouts.progress import RolloutProgress
from alignment.rollouts.reward_mixture import RewardMixture
from generator.base import VideoGenerator
from generator.generation import GenerationSettings
from generator.inputs.conditions import select
from generator.output import InputError
from generator.sampling import encode_unique_prompts, generate_latents
from generator.seeds import Stream, example_seeds

Kept = Callable[[str, str], float]
"""`(original, rewritten) -> share of the original that the rewritten prompt keeps`, in [0, 1]."""


def word_recall(original: str, rewritten: str) -> float:
    """Share of the original's words that the rewritten prompt has too: the recall of ROUGE-1 (Lin 2004, section 2)."""
    words, found = (Counter(re.findall(r"\w+", text.lower())) for text in (original, rewritten))
    return (words & found).total() / max(1, words.total())


def claim_recall(original: str, rewritten: str) -> float:
    """Share of the claims of a prompt of the built-in world that the rewritten prompt makes too; see `kept_claims`."""
    from generator.world.elaborate import kept_claims

    kept, total = kept_claims(original, rewritten)
    return kept / total


def recall_for(prompts: Sequence[str]) -> Kept:
    """`claim_recall` where the built-in world understands all prompts, else `word_recall`."""
    from generator.world import check_prompts

    try:
        check_prompts(prompts)
    except InputError:
        return word_recall
    return claim_recall


class VideoReward:
    """A reward function of TRL's `GRPOTrainer`.

    The videos of all rewritings of a prompt begin with the same noise, so that only the texts tell them apart; each
    step has new noise. Equal rewritings of a prompt share their videos. A rewriting that is empty or was cut off is
    judged as the original prompt with nothing kept.

    Args:
        generator: makes the videos; it is not trained.
        rewards: judge them by the original prompts.
        sampling: how they are made.
        end_tokens: tokens that end a text; one without is cut off.
        kept: share of a prompt that its rewriting keeps.
        penalty: what a rewriting that keeps nothing loses.
        num_videos: videos of each rewriting, whose rewards are averaged.
        judge_batch_size: videos judged together.
        seed: of the noise.
        progress: shows what is being done.
    """

    __name__ = "videos"

    def __init__(
        self,
        generator: VideoGenerator,
        rewards: RewardMixture,
        sampling: GenerationSettings,
        end_tokens: set[int],
        kept: Kept,
        penalty: float = 1.0,
        num_videos: int = 1,
        judge_batch_size: int = 32,
        seed: int = 0,
        progress: RolloutProgress | None = None,
    ) -> None:
        self.generator, self.rewards, self.sampling = generator, rewards, sampling
        self.end_tokens, self.kept, self.penalty = end_tokens, kept, penalty
        self.num_videos, self.judge_batch_size, self.seed = num_videos, judge_batch_size, seed
        self.progress = progress or RolloutProgress(1, disable=True)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        original: Sequence[str],
        prompt_index: Sequence[int],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        """One reward a rewriting.

        Args:
            completions: rewritings, as one message of an assistant each.
            completion_ids: their tokens.
            original: the prompts that were rewritten.
            prompt_index: numbers of the prompts, which the noise depends on.
            trainer_state: tells the step, on which it depends too.
            log_metric: is given means over the rewritings.
        """
        texts = [one_line(completion[-1]["content"]) for completion in completions]
        whole = [
            bool(text) and ids[-1] in self.end_tokens for text, ids in zip(texts, completion_ids, strict=True)
        ]
        kept = [
            self.kept(prompt, text) if usable else 0.0
            for prompt, text, usable in zip(original, texts, whole, strict=True)
        ]
        shown = [
            text if usable else prompt for prompt, text, usable in zip(original, texts, whole, strict=True)
        ]
        rewards = self.judged(shown, original, prompt_index, int(trainer_state.global_step))
        log_metric("rewriting/reward", float(rewards.mean()))
        log_metric("rewriting/kept", sum(kept) / len(kept))
        log_metric("rewriting/usable", sum(whole) / len(whole))
        log_metric("rewriting/distinct", len(set(zip(prompt_index, shown, strict=True))) / len(shown))
        return (rewards - self.penalty * (1 - torch.tensor(kept))).tolist()

    def judged(
        self, texts: Sequence[str], originals: Sequence[str], indices: Sequence[int], step: int
    ) -> Tensor:
        """Mean reward `[len(texts)]` of the videos of each text, judged by its original prompt.

        Args:
            indices: number of each prompt; texts of equal numbers get equal noise.
            step: of the training.
        """
        rows = list(dict.fromkeys(zip(indices, texts, originals, strict=True)))
        numbers = torch.tensor(
            [[step, index, video] for index, *_ in rows for video in range(self.num_videos)]
        )
        seeds = example_seeds(self.seed, Stream.NOISE, rows=numbers)
        made = [text for _, text, _ in rows for _ in range(self.num_videos)]
        judges = [prompt for *_, prompt in rows for _ in range(self.num_videos)]
        total = self._rewards(made, judges, seeds, step).unflatten(0, (-1, self.num_videos)).mean(1)
        place = {row: number for number, row in enumerate(rows)}
        return total[[place[row] for row in zip(indices, texts, originals, strict=True)]]

    def _rewards(self, texts: list[str], judges: list[str], seeds: list[int], step: int) -> Tensor:
        """Weighted sum `[len(texts)]` of the rewards of one video a text."""
        generator, sampling = self.generator, self.sampling
        steps = sampling.num_inference_steps or generator.defaults.num_inference_steps
        self.progress.begin(step, "sampling", steps * len(texts), "video steps")
        latents = generate_latents(
            generator,
            texts,
            sampling.num_frames,
            sampling.height,
            sampling.width,
            steps,
            sampling.guidance_scale,
            seeds,
            batch_size=sampling.batch_size,
            stepped=self.progress.stepped,
        )
        self.progress.begin(step, "judging", len(texts), "videos")
        found = []
        for start in range(0, len(texts), self.judge_batch_size):
            part = slice(start, start + self.judge_batch_size)
            conditions, rows = encode_unique_prompts(generator, judges[part])
            rewards, _ = self.rewards.judge(
                generator,
                latents[part].to(generator.device),
                select(conditions, rows),
                judges[part],
                self.judge_batch_size,
            )
            found.append(torch.einsum("m, m b -> b", self.rewards.weights.to(rewards), rewards).float().cpu())
            self.progress.advance("judging", len(rewards[0]))
        self.progress.close()
        return torch.cat(found)
