"""Agreement of a reward model with people: figures, baselines and plots on rankings of any file.

Every video is scored once, and all pairs of a ranking are compared. The tie threshold and the temperature come from
the model, or from prompts that are then left out of the figures; never from the pairs that are reported.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from generator.output import InputError, read_json
from generator.provenance import file_hash
from generator.training.shared_work import SharedWork
from reward.metrics import Pairs, evaluate_pairs, pairs_of_rankings
from reward.models.base import RewardModel
from reward.preferences import MISSING, Ranking, in_known_order, split_by_prompt, split_rankings
from reward.scoring import VideoScores, score_videos


def score_rankings(
    reward: RewardModel,
    rankings: Sequence[Ranking],
    batch_size: int = 16,
    progress: bool = True,
    work: SharedWork | None = None,
    source: str | None = None,
) -> VideoScores:
    """The scores of every video of the rankings for its prompt, and for the image that it begins with where the reward
    looks at that; see `reward.scoring.score_videos`."""
    keys = [(ranking.prompt, video) for ranking in rankings for video in ranking.videos]
    images = {
        (ranking.prompt, video): ranking.images[0]
        for ranking in rankings
        if ranking.images is not None
        for video in ranking.videos
    }
    return score_videos(reward, keys, batch_size, progress, work, source, images)


def chosen_dimension(scores: dict[str, float], dimension: str) -> float | None:
    """The score for a dimension of the rankings; `overall` is the mean of all scores where the model has none."""
    if dimension in scores:
        return scores[dimension]
    if dimension == "overall":
        return sum(scores.values()) / len(scores)
    return None


def annotator_agreement(rankings: Sequence[Ranking]) -> dict[str, float] | None:
    """Agreement of two annotators who ordered the same pair, and the bound that follows for any model.

    With p the share of people who prefer the first of a pair, two of them agree with the probability
    a = E[p² + (1 − p)²], and the best possible model is right with E max(p, 1 − p), which by Jensen's inequality is at
    most (1 + √(2a − 1)) / 2 (equal where all pairs are equally hard).

    Returns:
        `{agreement, best_possible_at_most, pairs}`; None where no pair was ordered twice.
    """
    votes: dict[tuple[str, str, str], Counter[bool]] = defaultdict(Counter)
    for ranking in rankings:
        for (a, rank_a), (b, rank_b) in combinations(zip(map(str, ranking.videos), ranking.ranks), 2):
            if MISSING not in (rank_a, rank_b) and rank_a != rank_b:
                first, second = sorted((a, b))
                votes[ranking.prompt, first, second][(rank_a < rank_b) == (a == first)] += 1
    agreed = compared = pairs = 0
    for count in votes.values():
        yes, no = count[True], count[False]
        if yes + no > 1:
            pairs += 1
            agreed += yes * (yes - 1) + no * (no - 1)
            compared += (yes + no) * (yes + no - 1)
    if not compared:
        return None
    agreement = agreed / compared
    bound = (1 + max(0.0, 2 * agreement - 1) ** 0.5) / 2
    return {"agreement": agreement, "best_possible_at_most": bound, "pairs": pairs}


def _pairs(rankings: Sequence[Ranking], scores: VideoScores, dimension: str) -> Pairs:
    chosen = [ranking for ranking in rankings if ranking.dimension == dimension]

    def of(ranking: Ranking) -> list[float]:
        found = [chosen_dimension(scores[ranking.prompt, video], dimension) for video in ranking.videos]
        return [math.nan if score is None else score for score in found]

    return pairs_of_rankings(
        [of(ranking) for ranking in chosen],
        [ranking.ranks for ranking in chosen],
        [ranking.prompt for ranking in chosen],
    )


def held_out_of_training(
    reward: str | Path, preferences: str | Path, rankings: Sequence[Ranking]
) -> list[Ranking] | None:
    """The rankings of the prompts that no model was trained or tuned on, where this is the file that one learned from;
    else None.

    Args:
        reward: folder of a model, or several joined by commas.

    Raises:
        InputError: no such prompt is left.
    """
    if not Path(preferences).is_file():
        return None
    folders = [str(reward)] if Path(reward).is_dir() else [part.strip() for part in str(reward).split(",")]
    held_out: list[Ranking] | None = None
    for folder in folders:
        record = Path(folder) / "training.json"
        if not record.is_file():
            continue
        document = read_json(record)
        source, arguments = document.get("preferences"), document.get("arguments", {})
        if not source or source.get("sha256") != file_hash(preferences):
            continue
        fractions = arguments["held_out_fraction"], arguments["validation_fraction"]
        own = {ranking.prompt for ranking in split_rankings(rankings, *fractions, seed=arguments["seed"])[2]}
        held_out = [r for r in (rankings if held_out is None else held_out) if r.prompt in own]
    if held_out is not None and not held_out:
        raise InputError(
            f"{reward} learned from every prompt of {preferences}: give rankings of other prompts, or pass "
            "--all_prompts true."
        )
    return held_out


def evaluate_reward(
    reward: RewardModel,
    rankings: Sequence[Ranking],
    calibration_fraction: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    best_possible: float | None = None,
    progress: bool = True,
    work: SharedWork | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Figures for each dimension that both the model and the rankings have; see `reward.metrics.evaluate_pairs`.

    Args:
        calibration_fraction: share of the prompts that tie threshold and temperature are chosen on and that is left
            out of the figures; 0 takes those that the model learned from its own validation split.
        best_possible: the accuracy without ties that a perfect model would reach, where it is known.
        work, source: see `reward.scoring.score_videos`.

    Raises:
        InputError: no dimension of the rankings is one of the model, there are too few prompts, or a score is not
            finite.
    """
    if not 0 <= calibration_fraction < 1:
        raise InputError(
            f"calibration_fraction is {calibration_fraction}, but it must be at least 0 and below 1."
        )
    if best_possible is not None and not 0 <= best_possible <= 1:
        raise InputError(f"best_possible is {best_possible}, but an accuracy lies in [0, 1].")
    scores = score_rankings(reward, rankings, batch_size, progress, work, source)
    some = next(iter(scores.values()))
    test, calibration = split_by_prompt(rankings, calibration_fraction, seed)
    found = {ranking.dimension for ranking in rankings}
    dimensions = [name for name in in_known_order(found) if chosen_dimension(some, name) is not None]
    if not dimensions:
        raise InputError(
            f"The reward {reward.name!r} scores {', '.join(some)}, but the rankings judge {', '.join(sorted(found))}."
        )
    temperatures, thresholds = calibration_of(reward)
    figures: dict[str, Any] = {}
    for dimension in dimensions:
        figures[dimension] = evaluate_pairs(
            _pairs(test, scores, dimension),
            _pairs(calibration, scores, dimension) if calibration_fraction else None,
            seed,
            thresholds.get(dimension, -1.0),
            temperatures.get(dimension, 1.0),
        )
        own = [ranking for ranking in test if ranking.dimension == dimension]
        figures[dimension]["annotators"] = annotator_agreement(own)
        figures[dimension]["best_possible"] = best_possible
    return {
        "dimensions": figures,
        "not_scored": sorted(found - set(dimensions)),
        "videos": len(scores),
        "rankings": len(test),
        "compared": compared_pairs(test, scores, dimensions),
    }


def compared_pairs(
    rankings: Sequence[Ranking], scores: VideoScores, dimensions: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each pair that a person ordered: `dimension, prompt, chosen, rejected, chosen_score,
    rejected_score`."""
    rows = []
    for ranking in rankings:
        if ranking.dimension not in dimensions:
            continue
        for (a, rank_a), (b, rank_b) in combinations(zip(ranking.videos, ranking.ranks), 2):
            if MISSING in (rank_a, rank_b) or rank_a == rank_b:
                continue
            chosen, rejected = (a, b) if rank_a < rank_b else (b, a)
            rows.append(
                {
                    "dimension": ranking.dimension,
                    "prompt": ranking.prompt,
                    "chosen": str(chosen),
                    "rejected": str(rejected),
                    "chosen_score": chosen_dimension(scores[ranking.prompt, chosen], ranking.dimension),
                    "rejected_score": chosen_dimension(scores[ranking.prompt, rejected], ranking.dimension),
                }
            )
    return rows


def calibration_of(reward: RewardModel) -> tuple[dict[str, float], dict[str, float]]:
    """Temperatures and tie thresholds that a model learned from its validation split; empty for others."""
    stored = getattr(reward, "config", reward)
    return dict(getattr(stored, "temperature", {})), dict(getattr(stored, "tie_threshold", {}))
