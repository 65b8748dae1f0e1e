"""Labels that active selection saves, and what weighting annotators by reliability brings, with intervals.

    python -m benchmarks.labeling.active_selection
    python -m benchmarks.labeling.active_selection --seeds 40 --output active_selection.json

Candidates have features in which the gold score is linear; simulated annotators (`labeling_app.simulate`) label pairs
with noise. The reward model is a Bradley-Terry model with a linear head, fitted by Newton's method; its ensemble is
drawn from the Laplace approximation of its posterior. So this measures the rules that `label select` and
`--merge_annotators` follow (`labeling_app.selection.disagreement`, `labeling_app.quality.reliability`), on a reward
model that is exact and fast, not the training of a neural one.

1. Selection: rounds of 40 labels by `select_pairs` (20 % at random) and at random alone. For accuracies from 80 % to
   the best that random selection reaches: labels needed, as a share of those of random selection.
2. Weighting: five labels a pair by annotators of different reliability, two of seven spammers. The reward model is
   trained on the majority of the labels and on the posterior of Dawid and Skene.

Accuracy is that of all pairs of held-out prompts against the gold score. Intervals are 95 %, bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from generator.output import write_json
from labeling_app.quality.reliability import dawid_skene
from labeling_app.selection.disagreement import select_pairs

Array = NDArray[np.float64]
PROMPTS, CANDIDATES, FEATURES, HELD_OUT = 400, 4, 48, 300
SPREAD, NOISE = 1.0, 0.35
ROUND, ROUNDS, MEMBERS = 40, 20, 16
PRIOR = 1.0


def fit(differences: Array, wins: Array, start: Array | None = None) -> tuple[Array, Array]:
    """MAP weights and their posterior covariance of P(win) = σ(w·x), w ~ N(0, 1 / PRIOR), by Newton's method."""
    weights = np.zeros(differences.shape[1]) if start is None else start.copy()
    for _ in range(30):
        p = 1 / (1 + np.exp(-differences @ weights))
        gradient = differences.T @ (wins - p) - PRIOR * weights
        hessian = (differences * (p * (1 - p))[:, None]).T @ differences + PRIOR * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        weights += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-6:
            break
    return weights, np.linalg.inv(hessian)


class World:
    """Candidates of prompts, their gold scores, and held-out pairs."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.gold = self.random.standard_normal(FEATURES)
        self.gold *= SPREAD / np.linalg.norm(self.gold)
        # Candidates of a prompt share most of what they are, and features differ in size.
        sizes = np.geomspace(2.0, 0.3, FEATURES)
        common = self.random.standard_normal((PROMPTS + HELD_OUT, 1, FEATURES))
        own = self.random.standard_normal((PROMPTS + HELD_OUT, CANDIDATES, FEATURES))
        everything = (common + own) * sizes
        self.features, held_out = everything[:PROMPTS], everything[PROMPTS:]
        i, j = np.triu_indices(CANDIDATES, 1)
        self.pairs = list(zip(i.tolist(), j.tolist()))
        self.test = (held_out[:, i] - held_out[:, j]).reshape(-1, FEATURES)

    def accuracy(self, weights: Array) -> float:
        return float(((self.test @ weights > 0) == (self.test @ self.gold > 0)).mean())

    def label(self, difference: Array, noise: float = NOISE) -> float:
        """1 where an annotator puts the first above the second: Thurstone's law with this noise on each video."""
        perceived = difference @ self.gold + noise * np.sqrt(2) * self.random.standard_normal()
        return float(perceived > 0)


def selection_curve(seed: int, active: bool) -> list[float]:
    """Accuracy after each round of labels."""
    world = World(seed)
    taken: set[tuple[int, int, int]] = set()
    differences: list[Array] = []
    wins: list[float] = []
    weights, covariance = np.zeros(FEATURES), np.eye(FEATURES) / PRIOR
    curve = []
    for number in range(ROUNDS):
        members = world.random.multivariate_normal(weights, covariance, size=MEMBERS)
        scores = [members @ candidates.T for candidates in world.features]
        share = 0.2 if active and number else 1.0
        for pair in select_pairs(
            scores, ROUND, share, seed=1000 * seed + number, taken=frozenset(taken)
        ).pairs:
            taken.add((pair.prompt, pair.first, pair.second))
            candidates = world.features[pair.prompt]
            differences.append(candidates[pair.first] - candidates[pair.second])
            wins.append(world.label(differences[-1]))
        weights, covariance = fit(np.stack(differences), np.array(wins), weights)
        curve.append(world.accuracy(weights))
    return curve


def labels_needed(curve: Array, accuracy: float) -> float:
    """Labels until the (monotone hull of the) curve reaches an accuracy, with linear interpolation."""
    best = np.maximum.accumulate(curve)
    labels = ROUND * np.arange(1, len(best) + 1)
    if best[-1] < accuracy:
        return float("nan")
    place = int(np.argmax(best >= accuracy))
    if place == 0:
        return float(labels[0])
    low, high = best[place - 1], best[place]
    return float(labels[place - 1] + ROUND * (accuracy - low) / (high - low))


def interval(samples: Array) -> list[float]:
    """The 95 % interval of bootstrap samples."""
    return [round(float(value), 4) for value in np.nanpercentile(samples, [2.5, 97.5])]


def compare_selection(seeds: int) -> dict[str, object]:
    """Labels needed by active selection as a share of those of random selection."""
    active, random = (
        np.array([selection_curve(seed, active) for seed in range(seeds)]) for active in (True, False)
    )
    drawn = np.random.default_rng(0).integers(seeds, size=(1000, seeds))
    best = float(random.mean(axis=0).max())
    rows = []
    for accuracy in (0.80, 0.85, round(best - 0.01, 3), round(best - 0.003, 3)):
        samples = [
            labels_needed(active[row].mean(axis=0), accuracy)
            / labels_needed(random[row].mean(axis=0), accuracy)
            for row in drawn
        ]
        needed = [labels_needed(curves.mean(axis=0), accuracy) for curves in (active, random)]
        rows.append(
            {
                "accuracy": accuracy,
                "labels_active": round(needed[0]),
                "labels_random": round(needed[1]),
                "share": round(needed[0] / needed[1], 4),
                "interval": interval(np.array(samples)),
            }
        )
    return {"best_of_random": round(best, 4), "rows": rows}


def weighting_accuracies(seed: int, pairs: int = 600, overlap: int = 5) -> tuple[float, float, float]:
    """Accuracy of reward models trained on majority votes, on Dawid–Skene posteriors, and label accuracies' gain."""
    world = World(10_000 + seed)
    noises = [0.2, 0.3, 0.5, 0.8, 1.2, 50.0, 50.0]
    values = np.full((len(noises), pairs), np.nan)
    differences = np.empty((pairs, FEATURES))
    for number in range(pairs):
        prompt = world.random.integers(PROMPTS)
        i, j = world.pairs[world.random.integers(len(world.pairs))]
        differences[number] = world.features[prompt, i] - world.features[prompt, j]
        for annotator in world.random.permutation(len(noises))[:overlap]:
            values[annotator, number] = 2 * world.label(differences[number], noises[annotator]) - 1
    majority = (np.nansum(values, axis=0) > 0).astype(float)
    both = np.concatenate([values, -values], axis=1)
    posterior = dawid_skene(both).posterior[:pairs]
    weighted = posterior[:, 2] + posterior[:, 1] / 2
    truth = differences @ world.gold > 0
    gain = float(((weighted > 0.5) == truth).mean() - ((majority > 0.5) == truth).mean())
    return world.accuracy(fit(differences, majority)[0]), world.accuracy(fit(differences, weighted)[0]), gain


def compare_weighting(seeds: int) -> dict[str, object]:
    """Accuracy of both, and the paired difference."""
    majority, weighted, gain = np.array([weighting_accuracies(seed) for seed in range(seeds)]).T
    drawn = np.random.default_rng(0).integers(seeds, size=(1000, seeds))
    difference = weighted - majority
    return {
        "majority": round(float(majority.mean()), 4),
        "weighted": round(float(weighted.mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "interval": interval(difference[drawn].mean(axis=1)),
        "label_accuracy_gain": round(float(gain.mean()), 4),
    }


def main() -> None:
    """Runs both and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", default=None, help="Also write the result to this file.")
    arguments = parser.parse_args()
    result = {
        "seeds": arguments.seeds,
        "noise": NOISE,
        "selection": compare_selection(arguments.seeds),
        "weighting": compare_weighting(arguments.seeds),
    }
    if arguments.output:
        write_json(arguments.output, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
