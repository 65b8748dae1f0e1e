"""Seeds of everything random in training: a function of the run's seed, a stream and a place, so that a run goes on
after an interruption, and N processes draw as one does."""

from __future__ import annotations

from enum import IntEnum, unique
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@unique
class Stream(IntEnum):
    """Second part of the key of `example_seeds`, after a run's seed. The values are part of what a seed means."""

    PROMPTS = 1
    """Order of the prompts of an epoch."""
    WINDOW = 2
    """Steps of the sampler that are stochastic."""
    NOISE = 3
    """Noise that a video is sampled from."""
    ORDER = 4
    """Order of the rows of a rollout in an update."""
    LEVELS = 5
    """Noise and noise levels of sampled videos, in methods of the forward process."""
    DEMONSTRATIONS = 6
    """Demonstrations beside PPO's loss, and their noise."""
    CRITIC_WEIGHTS = 7
    """First weights of the critic; added to the run's seed."""
    FIXED_DRAWS = 11
    """Noise of the draws for which DPO knows the reference's errors."""
    LAST_STEP = 12
    """Step that ReFL differentiates."""
    CANDIDATES = 13
    """Candidates of best-of-N after the first; follows the video's own seed."""
    CRITIC_ORDER = 20
    """Order of the rows in the critic's updates."""
    EVALUATION = 31
    """Noise of the videos of held-out prompts; follows 0 instead of the run's seed, so all runs are measured alike."""
    CAPTION_MIX = 41
    """Demonstrations that are trained on with their original prompt in place of their caption."""


@unique
class ExampleStream(IntEnum):
    """Second part of the key of `example_seeds`, after the seed of one example."""

    LEVEL = 1
    """Noise level."""
    CAPTION_DROPOUT = 2
    """Returns whether the caption is dropped."""
    KEPT_TOKENS = 3
    """Patches that are kept where some are dropped."""


def example_seeds(*key: int, rows: Tensor | None = None) -> list[int]:
    """Seeds that depend on nothing but `key` and each row `[batch, n]` of `rows`.

    Noise drawn from them is the same in every batch, on every process, and after resuming from a checkpoint.
    """
    tails = [[]] if rows is None else rows.tolist()
    return [int(np.random.SeedSequence([*key, *tail]).generate_state(1)[0]) for tail in tails]
