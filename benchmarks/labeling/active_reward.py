"""Labels that active selection saves a latent reward model, and what reliability-weighted labels bring it.

    python -m benchmarks.labeling.active_reward --device cuda --output_dir runs/active_reward
    python -m benchmarks.labeling.active_reward --output_dir runs/active_reward --device cpu --seeds 10

Candidates are mp4 files: clips of the video world, each spoiled by one of six artefacts of random strength, so that
their visual quality is known (`benchmarks/reward/spoiled_clips.py`). Simulated annotators label pairs through the
labeling store. The reward model is the one of `vidalign reward`: the shipped generator's blocks as a frozen trunk,
whose features are computed once, and a head trained by `RewardTrainer`. Accuracy is that of all pairs of the
candidates of held-out prompts against the known quality.

1. Selection: after a first round of random pairs, rounds of pairs by what `label select` does with the reward model of
   the round before (20 % of them at random), and at random alone. Reported are the labels needed for an accuracy, as
   a share of those that random pairs need.
2. Weighting: five labels a pair by seven annotators of different reliability, two of them at random. The reward model
   is trained on the majority of each pair's labels, and on the weighted ranking of `--merge_annotators`.

Both arms of a seed share candidates, noise, first round and initial weights. Intervals are 95 %, bootstrap over
seeds. Writes `active_reward.json` and `active_reward.png`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback

from benchmarks.reward.spoiled_clips import FPS, SIZE, spoiled_clips
from generator import load_generator
from generator.output import write_json
from generator.video import write_video
from generator.world import sample_prompts
from labeling_app.files.candidates import inspect_video
from labeling_app.quality.reliability import aggregate, read_store
from labeling_app.selection.last_layer import select_by_last_layer
from labeling_app.simulate import SimulatedAnnotator, precomputed_scores, simulate
from labeling_app.store.new_tasks import NewTask
from labeling_app.store.store import Store
from reward.preferences import Ranking
from reward.training.ranking_data import encode_videos
from reward.training.reward_config import RewardConfig
from reward.training.reward_trainer import RewardTrainer
from reward.training.train import build_reward_model

Array = NDArray[np.float64]
Pair = tuple[int, int, int]
CAMPAIGN, DIMENSION = "study", "visual"
CAREFUL = SimulatedAnnotator("simulated-careful", noise=0.1, tie_threshold=0.05)
MIXED = tuple(
    SimulatedAnnotator(f"simulated-{number}", noise=noise, tie_threshold=0.05)
    for number, noise in enumerate((0.05, 0.1, 0.2, 0.35, 0.6, 50.0, 50.0), start=1)
)


class Candidates:
    """Files of candidates of each prompt with their quality `[prompts, candidates]`."""

    def __init__(self, folder: Path, split: str, prompts: int, candidates: int, seed: int) -> None:
        self.prompts = list(dict.fromkeys(sample_prompts(2 * prompts, seed, split)))[:prompts]
        videos, self.quality = spoiled_clips(self.prompts, candidates, seed)
        self.paths = [
            [folder / f"{split}-{row}-{column}.mp4" for column in range(candidates)]
            for row in range(len(self.prompts))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        for row, paths in enumerate(self.paths):
            for column, path in enumerate(paths):
                write_video(path, videos[row, column], float(FPS))

    def rankings(self) -> list[Ranking]:
        """All candidates of each prompt, for encoding them."""
        ranks = list(range(1, len(self.paths[0]) + 1))
        return [
            Ranking(prompt, paths, ranks, dimension=DIMENSION)
            for prompt, paths in zip(self.prompts, self.paths)
        ]


class Study:
    """Candidates with the trunk's features of all, and one training at a time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.begun = time.perf_counter()
        folder = Path(arguments.output_dir) / "clips"
        self.pool = Candidates(folder, "train", arguments.prompts, arguments.candidates, 1)
        self.test = Candidates(folder, "test", arguments.test_prompts, 4, 2)
        everything = [*self.pool.rankings(), *self.test.rankings()]
        self.say("clips rendered and written")
        self.generator = load_generator("nano", device=arguments.device)
        model = build_reward_model(self.generator, self.config("unused", 0, 100), everything)
        self.encoded = encode_videos(model, everything, arguments.encode_batch_size, progress=False)
        self.say("clips read, encoded and passed through the trunk")
        self.known = {path: inspect_video(path) for path in {p for row in self.pool.paths for p in row}}
        self.gold = precomputed_scores(
            {
                path: quality
                for row, values in zip(self.pool.paths, self.pool.quality)
                for path, quality in zip(row, values)
            }
        )
        self.all_pairs = [
            (prompt, i, j)
            for prompt in range(len(self.pool.prompts))
            for i, j in combinations(range(arguments.candidates), 2)
        ]

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.begun:5.0f} s] {text}", flush=True)

    def config(self, folder: str, seed: int, rankings: int) -> RewardConfig:
        batch = self.arguments.batch_size
        return RewardConfig(
            output_dir=folder,
            seed=seed,
            report_to="none",
            disable_tqdm=True,
            logging_steps=10**6,
            per_device_train_batch_size=batch,
            max_steps=self.arguments.steps,
            eval_strategy="no",
            select_best=False,
            sigmas=[0.1],
            hidden_size=64,
            learning_rate=2e-3,
            num_frames=SIZE[0],
            height=SIZE[1],
            width=SIZE[2],
            encode_batch_size=self.arguments.encode_batch_size,
            use_cpu=self.arguments.device == "cpu",
        )

    def train(self, rankings: Sequence[Ranking], seed: int) -> RewardTrainer:
        """A reward model from these rankings, on the features that are there already."""
        with tempfile.TemporaryDirectory() as folder:
            config = self.config(folder, seed, len(rankings))
            model = build_reward_model(self.generator, config, rankings)
            trainer = RewardTrainer(model, config, rankings, encoded=self.encoded)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return trainer

    def scores(self, trainer: RewardTrainer, of: Candidates) -> Array:
        """Raw scores `[prompts, candidates]`."""
        return trainer.raw_scores(self.rows(of))[:, 0].double().numpy().reshape(of.quality.shape)

    def rows(self, of: Candidates) -> torch.Tensor:
        return torch.tensor(
            [self.encoded.index[prompt, p] for prompt, row in zip(of.prompts, of.paths) for p in row]
        )

    def accuracy(self, trainer: RewardTrainer) -> float:
        """Share of pairs of a held-out prompt's candidates in the right order."""
        i, j = np.triu_indices(self.test.quality.shape[1], 1)
        scores = self.scores(trainer, self.test)
        return float(
            ((scores[:, i] > scores[:, j]) == (self.test.quality[:, i] > self.test.quality[:, j])).mean()
        )

    @torch.no_grad()
    def last_layer(self, trainer: RewardTrainer) -> Array:
        """`[prompts, candidates, width]` of the pool."""
        model = trainer.reward_model.eval()
        known = self.encoded.features
        parts = [
            model.last_layer(known[rows.to(known.tokens.device)], DIMENSION).cpu()
            for rows in self.rows(self.pool).split(512)
        ]
        return torch.cat(parts).double().numpy().reshape(*self.pool.quality.shape, -1)

    def add(self, store: Store, pairs: Sequence[Pair], overlap: int) -> None:
        tasks = [
            NewTask(self.pool.prompts[n], tuple(self.known[self.pool.paths[n][c]] for c in (i, j)))
            for n, i, j in pairs
        ]
        store.add_tasks(CAMPAIGN, tasks, overlap=overlap, dimensions=[DIMENSION])

    # What is compared

    def selection_curve(self, seed: int, active: bool) -> list[float]:
        """Accuracy after each round."""
        size = self.arguments.round_size
        drawn = np.random.default_rng(seed).choice(len(self.all_pairs), size=size, replace=False)
        taken = [self.all_pairs[number] for number in drawn]
        curve: list[float] = []
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "labels.db") as store:
            self.add(store, taken, overlap=1)
            for number in range(self.arguments.rounds):
                simulate(store, CAMPAIGN, self.gold, [CAREFUL], seed=seed)
                trainer = self.train(read_store(f"db:{folder}/labels.db#{CAMPAIGN}"), seed)
                curve.append(self.accuracy(trainer))
                if number + 1 == self.arguments.rounds:
                    break
                picked = select_by_last_layer(
                    list(self.scores(trainer, self.pool)),
                    list(self.last_layer(trainer)),
                    size,
                    self.arguments.random_share if active else 1.0,
                    seed=1000 * seed + number,
                    taken=frozenset(taken),
                )
                new = [(pair.prompt, pair.first, pair.second) for pair in picked.pairs]
                self.add(store, new, overlap=1)
                taken += new
        shown = " ".join(f"{value:.3f}" for value in curve)
        self.say(f"seed {seed}, {'active' if active else 'random'}: {shown}")
        return curve

    def weighting(self, seed: int) -> tuple[float, float]:
        """Accuracy with the majority of the labels, and with the weighted ranking."""
        drawn = np.random.default_rng(10_000 + seed)
        chosen = drawn.choice(len(self.all_pairs), size=self.arguments.weighted_pairs, replace=False)
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "labels.db") as store:
            self.add(store, [self.all_pairs[number] for number in chosen], overlap=5)
            simulate(store, CAMPAIGN, self.gold, MIXED, seed=seed)
            each = read_store(f"db:{folder}/labels.db#{CAMPAIGN}")
            weighted = aggregate(store, CAMPAIGN)
        found = tuple(self.accuracy(self.train(r, seed)) for r in (majority(each), weighted))
        self.say(f"seed {seed}: majority {found[0]:.3f}, weighted {found[1]:.3f}")
        return found[0], found[1]


def majority(rankings: Sequence[Ranking]) -> list[Ranking]:
    """One ranking a pair: what most of its annotators say; a tie where as many say one as the other."""
    votes: dict[tuple[str, Path, Path], int] = defaultdict(int)
    for ranking in rankings:
        first, second = ranking.videos
        votes[ranking.prompt, first, second] += int(np.sign(ranking.ranks[1] - ranking.ranks[0]))
    return [
        Ranking(prompt, [first, second], [1 + (vote < 0), 1 + (vote > 0)], dimension=DIMENSION)
        for (prompt, first, second), vote in votes.items()
    ]


def labels_needed(labels: Array, curve: Array, accuracy: float) -> float:
    """Labels until the monotone hull of a curve reaches an accuracy, with linear interpolation; NaN if never."""
    best = np.maximum.accumulate(curve)
    if best[-1] < accuracy:
        return float("nan")
    place = int(np.argmax(best >= accuracy))
    if place == 0:
        return float(labels[0])
    share = (accuracy - best[place - 1]) / (best[place] - best[place - 1])
    return float(labels[place - 1] + share * (labels[place] - labels[place - 1]))


def interval(samples: Array) -> list[float | None]:
    """The 95 % interval of bootstrap samples; None where its end is infinite."""
    ends = np.percentile(samples, [2.5, 97.5], method="nearest")
    return [round(float(value), 4) if np.isfinite(value) else None for value in ends]


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _share(active: Array, random: Array, labels: Array, accuracy: float) -> float:
    """Labels of active selection as a share of those of random pairs, on the safe side where a curve stays below the
    accuracy: infinity if the active one does, and all labels if the random one does."""
    needed = labels_needed(labels, active, accuracy)
    instead = labels_needed(labels, random, accuracy)
    return (np.inf if np.isnan(needed) else needed) / (labels[-1] if np.isnan(instead) else instead)


def compare_selection(active: Array, random: Array, labels: Array) -> dict[str, object]:
    """Labels that active selection needs as a share of those of random pairs, from curves `[seeds, rounds]`; each
    accuracy is the one that random pairs reach on average with so many labels."""
    seeds = len(active)
    drawn = np.random.default_rng(0).integers(seeds, size=(2000, seeds))
    rows = []
    for reached in np.unique(np.maximum.accumulate(random.mean(axis=0))[2:]):
        shares = np.array(
            [_share(active[row].mean(axis=0), random[row].mean(axis=0), labels, reached) for row in drawn]
        )
        rows.append(
            {
                "accuracy": round(float(reached), 4),
                "labels_random": round(labels_needed(labels, random.mean(axis=0), reached)),
                "labels_active": _finite(labels_needed(labels, active.mean(axis=0), reached)),
                "share": _finite(_share(active.mean(axis=0), random.mean(axis=0), labels, reached)),
                "interval": interval(shares),
                "p_share_above_0.7": round(float((shares > 0.7).mean()), 4),
            }
        )
    difference = active - random
    return {
        "labels": labels.tolist(),
        "active": active.round(4).tolist(),
        "random": random.round(4).tolist(),
        "difference_by_round": [
            {"mean": round(float(d.mean()), 4), "interval": interval(d[drawn].mean(axis=1))}
            for d in difference.T
        ],
        "rows": rows,
    }


def plot(found: dict[str, object], path: Path) -> None:
    """Accuracy against labels, mean and range of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.6))
    for name, marker in (("active", "o"), ("random", "s")):
        curves = np.array(found[name])
        axis.plot(found["labels"], curves.mean(axis=0), marker=marker, label=name)
        axis.fill_between(found["labels"], curves.min(axis=0), curves.max(axis=0), alpha=0.15)
    axis.set(xlabel="labelled pairs", ylabel="accuracy on held-out prompts")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", default="runs/active_reward")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--test_prompts", type=int, default=120)
    parser.add_argument("--round_size", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--random_share", type=float, default=0.2)
    parser.add_argument("--weighted_pairs", type=int, default=250)
    parser.add_argument("--steps", type=int, default=120, help="Steps of each training.")
    parser.add_argument("--batch_size", type=int, default=32, help="Pairs in a step.")
    parser.add_argument("--encode_batch_size", type=int, default=128)
    arguments = parser.parse_args()
    study = Study(arguments)
    seeds = range(arguments.seeds)
    curves = [[study.selection_curve(seed, active) for active in (True, False)] for seed in seeds]
    active, random = np.array(curves).transpose(1, 0, 2)
    selection = compare_selection(active, random, arguments.round_size * np.arange(1.0, arguments.rounds + 1))
    plain, weighted = np.array([study.weighting(seed) for seed in seeds]).T
    drawn = np.random.default_rng(0).integers(len(seeds), size=(2000, len(seeds)))
    result = {
        "arguments": vars(arguments),
        "selection": selection,
        "weighting": {
            "majority": round(float(plain.mean()), 4),
            "weighted": round(float(weighted.mean()), 4),
            "difference": round(float((weighted - plain).mean()), 4),
            "interval": interval((weighted - plain)[drawn].mean(axis=1)),
        },
        "seconds": round(time.perf_counter() - study.begun),
    }
    folder = Path(arguments.output_dir)
    write_json(folder / "active_reward.json", result)
    plot(selection, folder / "active_reward.png")
    print(json.dumps({**result, "selection": selection["rows"]}, indent=2))


if __name__ == "__main__":
    main()
