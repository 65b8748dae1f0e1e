"""How much a latent reward model learns from rankings with known noise, next to the best that is possible.

    python benchmarks/reward_accuracy.py --device cuda --output_dir runs/reward_accuracy

The shipped generator makes videos of prompts of the built-in world, the verifier scores them (gold), and simulated
annotators rank them by gold with noise and ties. The reward model learns from 100 to 5,000 rankings; figures are on
prompts that it never saw, with 95 % intervals from resampled prompts:

- pair accuracy on the annotators' labels, beside that of an oracle that knows the gold score;
- whole rankings (Plackett–Luce) against pairs, ties used against dropped, learned reliability against none;
- calibration error after the temperature was fitted on validation prompts;
- Spearman's correlation with gold by category, and on videos of an optimised policy: the best of 16 by this reward,
  and every `--adapter`.

Writes `reward_accuracy.json`, `.md` and `.png`.

`--tune` instead compares settings of the model (`SETTINGS`) at `--compared` rankings, on prompts that are neither
trained on nor the test's, and prints them best first; `--set name=value …` then uses one.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import PrinterCallback

from generator import load_generator
from generator.base import VideoGenerator, select
from generator.demonstrations import Demonstration
from generator.output import write_json, write_text
from generator.sampling import guided_velocity, sample_latents
from generator.world import categories, sample_prompts, verify_batch
from generator.world.grammar import parse
from generator.world.render import render_scenes
from generator.world.scene import sample_scenes
from labeling_app.simulate import SimulatedAnnotator, best_possible_pair_accuracy, ranks_from_perceived
from reward.adherence.statistics import cluster_bootstrap, paired_difference
from reward.matching_training import DemonstrationMatching
from reward.metrics import (
    accuracy_without_ties,
    correct_without_ties,
    evaluate_pairs,
    pairs_of_rankings,
    spearman,
)
from reward.models.heads import MatchingHead
from reward.models.latent import LatentRewardModel
from reward.preferences import MISSING, Ranking, split_by_prompt
from reward.ranking_data import EncodedVideos, encode_videos
from reward.reward_config import RewardConfig
from reward.reward_trainer import RewardTrainer
from reward.reward_training import build_reward_model

SIZE = (9, 32, 32)
FPS = 8
NOISE, TIE = 0.15, 0.1
MIXED_NOISES = (0.05, 0.1, 0.15, 0.3, 1.0, 3.0)
"""The annotators of the comparison of learned reliability: three careful, one middling, two nearly at random."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"implicit_evidence": False},
    {"hidden_size": 192},
    {"num_blocks": 8, "hidden_size": 128},
    {"sigmas": [0.1, 0.4], "hidden_size": 128},
    {"lora_rank": 16, "hidden_size": 128},
    {"lora_rank": 16, "hidden_size": 128, "num_blocks": 8},
    {"architecture": "pooled", "lora_rank": 16},
)
"""What `--tune` compares; the empty one is the default."""


@dataclass
class Clips:
    """Videos of each of some prompts: `latents [prompts, videos, C, F, H, W]` on the CPU and `gold [prompts,
    videos]`."""

    prompts: list[str]
    latents: Tensor
    gold: np.ndarray

    def path(self, prompt: int, video: int) -> Path:
        return Path(f"{self.prompts[prompt]}/{video}.mp4")


@torch.no_grad()
def make_clips(
    generator: VideoGenerator,
    prompts: Sequence[str],
    scales: Sequence[float],
    seed: int,
    batch: int,
    steps: int,
) -> Clips:
    """One video for each prompt and guidance scale, made, decoded and verified on the generator's device."""
    device, shape = generator.device, generator.latent_shape(*SIZE)
    random = torch.Generator(device).manual_seed(seed)
    sigmas = generator.sigma_schedule(steps, shape)
    negative = generator.encode_prompts([""])
    latents = torch.empty(len(prompts), len(scales), *shape)
    gold = np.empty((len(prompts), len(scales)))
    for start in range(0, len(prompts), batch):
        rows = list(prompts[start : start + batch])
        conditions = generator.encode_prompts(rows)
        for column, scale in enumerate(scales):
            noise = torch.randn(len(rows), *shape, generator=random, device=device)
            found = sample_latents(guided_velocity(generator, conditions, negative, scale), noise, sigmas)
            videos = generator.decode(found)
            gold[start : start + len(rows), column] = [a.score for a in verify_batch(videos, rows, fps=FPS)]
            latents[start : start + len(rows), column] = found.cpu()
    return Clips(list(prompts), latents, gold)


def demonstrations_of(
    generator: VideoGenerator, prompts: Sequence[str], seed: int, batch: int
) -> tuple[list[Demonstration], dict[Path, Tensor]]:
    """Rendered clips that show what their prompts say, encoded."""
    shown = [Demonstration(Path(f"shown-{number}.mp4"), prompt) for number, prompt in enumerate(prompts)]
    known: dict[Path, Tensor] = {}
    for start in range(0, len(prompts), batch):
        part = shown[start : start + batch]
        scenes = sample_scenes([parse(d.prompt) for d in part], seed + start, *SIZE, fps=FPS)
        clips = render_scenes(scenes, *SIZE, fps=FPS, device=generator.device)
        with torch.no_grad():
            encoded = generator.encode(clips).cpu()
        known |= {d.video: latents for d, latents in zip(part, encoded)}
    return shown, known


def annotate(clips: Clips, annotators: Sequence[SimulatedAnnotator], seed: int) -> list[Ranking]:
    """One ranking a prompt, the annotators in turn."""
    random = np.random.default_rng(seed)
    rankings = []
    for row, prompt in enumerate(clips.prompts):
        annotator = annotators[row % len(annotators)]
        perceived = clips.gold[row] + annotator.noise * random.standard_normal(clips.gold.shape[1])
        ranks = ranks_from_perceived(perceived, annotator.tie_threshold)
        videos = [clips.path(row, column) for column in range(clips.gold.shape[1])]
        rankings.append(Ranking(prompt, videos, ranks, annotator=annotator.name))
    return rankings


def without_ties(ranking: Ranking) -> Ranking:
    """The ranking with one video of each tied group."""
    seen: set[int] = set()
    ranks = []
    for rank in ranking.ranks:
        ranks.append(MISSING if rank in seen else rank)
        seen.add(rank)
    return Ranking(ranking.prompt, ranking.videos, ranks, annotator=ranking.annotator)


@dataclass
class Learned:
    """One training: raw scores of the test videos `[prompts, videos]`, and what was found."""

    scores: np.ndarray
    calibration_scores: list[np.ndarray]
    calibration: list[Ranking]
    figures: dict[str, Any]
    model: Any


class Study:
    """The data of the whole benchmark, and one training at a time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.start = time.perf_counter()
        self.generator = load_generator(arguments.model, device=arguments.device)
        largest = max(arguments.rankings)
        scales = [1.0, 1.0, 3.0, 3.0][: arguments.videos]
        # More prompts than rankings, since the grammar gives some twice and a prompt is ranked once.
        train = list(dict.fromkeys(sample_prompts(2 * largest, 11, "train")))[:largest]
        test = list(dict.fromkeys(sample_prompts(2 * arguments.test_prompts, 12, "test")))
        test = test[: arguments.test_prompts]
        make = {"batch": arguments.batch_size, "steps": arguments.num_inference_steps}
        self.clips = make_clips(self.generator, train, scales, 1, **make)
        self.test_clips = make_clips(self.generator, test, scales, 2, **make)
        self.say(f"{self.clips.gold.size + self.test_clips.gold.size} clips made and verified")
        self.annotator = SimulatedAnnotator("simulated", NOISE, TIE)
        self.test = annotate(self.test_clips, [self.annotator], 3)
        gold = [list(row) for row in self.test_clips.gold]
        self.best_possible = best_possible_pair_accuracy(gold, [self.annotator])
        self.shown, self.known = demonstrations_of(
            self.generator, train[: arguments.demonstrations], 4, arguments.batch_size
        )
        self.found: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor(),
            "arguments": vars(arguments),
            "best_possible": self.best_possible,
            "gold_accuracy_of_labels": self.oracle_agreement(),
            "runs": {},
        }
        # Features and what the demonstrations taught are kept for the settings of the model that were used last.
        self.key: tuple[Any, ...] = ()
        self.encoded: EncodedVideos | None = None
        self.taught: list[dict[str, Tensor]] = []

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", flush=True)

    def oracle_agreement(self) -> float:
        """How often the test labels agree with the gold order, of pairs that both order."""
        pairs = pairs_of_rankings(self.test_clips.gold, [r.ranks for r in self.test], self.test_clips.prompts)
        ordered = (pairs.label != 0) & (pairs.difference != 0)
        return accuracy_without_ties(pairs.difference[ordered], pairs.label[ordered])

    def config(self, folder: str, count: int, seed: int, **changes: Any) -> RewardConfig:
        steps_an_epoch = max(1, -(-int(0.9 * count) // self.arguments.rankings_a_step))
        epochs = min(40, max(4, self.arguments.steps // steps_an_epoch))
        chosen = {
            "output_dir": folder, "seed": seed, "report_to": "none", "disable_tqdm": True, "logging_steps": 10**6,
            "per_device_train_batch_size": self.arguments.rankings_a_step, "per_device_eval_batch_size": 256,
            "num_train_epochs": epochs, "early_stopping_patience": max(4, epochs // 4), "architecture": "matching",
            "implicit_evidence": True, "encode_batch_size": self.arguments.batch_size,
            "matching_batch_size": self.arguments.matching_batch_size, "use_cpu": self.arguments.device == "cpu",
        }  # fmt: skip
        return RewardConfig(**{**chosen, **self.arguments.settings, **changes})

    def train(self, name: str, rankings: Sequence[Ranking], seed: int, **changes: Any) -> Learned:
        """Learns from rankings, of which a tenth of the prompts choose epoch and temperature."""
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = self.config(folder, len(rankings), seed, **changes)
            # A LoRA is injected into its trunk, which then is that model's own.
            trunk = self.generator
            if config.lora_rank:
                trunk = load_generator(self.arguments.model, device=self.arguments.device)
            model = build_reward_model(trunk, config, rankings, has_demonstrations=True)
            self.prepare(model)
            matching = self.teach(model, config, seed)
            train, validation = split_by_prompt(rankings, 0.1, seed)
            trainer = RewardTrainer(
                model, config, train, eval_dataset=validation, matching=matching, encoded=self.encoded
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        calibration = [self.scores_of(trainer, ranking) for ranking in validation]
        assert self.encoded is not None
        rows = torch.tensor([self.encoded.index[r.prompt, v] for r in self.test for v in r.videos])
        scores = trainer.raw_scores(rows)[:, 0].double().numpy().reshape(len(self.test), -1)
        figures = self.measure(scores, calibration, validation)
        figures["reliabilities"] = trainer.ranking_model.likelihood.reliabilities() or None
        figures["seconds"] = time.perf_counter() - begun
        self.found["runs"].setdefault(name, []).append(figures)
        accuracy = figures["accuracy"]
        self.say(
            f"{name}, seed {seed}: accuracy {accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], "
            f"{figures['share_of_best']:.1%} of the best possible, gold {figures['gold_accuracy']:.3f}"
        )
        return Learned(scores, calibration, validation, figures, model)

    def prepare(self, model: LatentRewardModel) -> None:
        """Encodes all videos once for models of one kind; `latents` are known, so no file is read."""
        c = model.config
        key = (
            c.architecture,
            c.num_blocks,
            c.sigmas,
            c.implicit_evidence,
            c.lora_rank,
            c.hidden_size,
            c.gaussian,
        )
        if key == self.key:
            return
        self.key, self.taught, self.encoded = key, [], None
        everything = [*annotate(self.clips, [self.annotator], 5), *self.test]
        known = {
            clips.path(row, column): clips.latents[row, column]
            for clips in (self.clips, self.test_clips)
            for row in range(len(clips.prompts))
            for column in range(clips.gold.shape[1])
        }
        self.encoded = encode_videos(model, everything, self.arguments.batch_size, known, progress=False)
        self.say("trunk features of all clips")

    def teach(
        self, model: LatentRewardModel, config: RewardConfig, seed: int
    ) -> DemonstrationMatching | None:
        """Lets a matching model learn from the demonstrations, or gives it what an earlier one of its kind learned."""
        if not isinstance(model.head, MatchingHead):
            return None
        matching = DemonstrationMatching(
            model, self.shown, config.matching_batch_size, seed, config.encode_batch_size, self.known
        )
        parts = [model.head.matching, model.trunk_lora]
        if not self.taught:
            matching.pretrain(self.arguments.matching_steps, config.matching_learning_rate, progress=False)
            self.taught = [{n: v.detach().clone() for n, v in part.state_dict().items()} for part in parts]
        for part, weights in zip(parts, self.taught):
            part.load_state_dict(weights)
        return matching

    def scores_of(self, trainer: RewardTrainer, ranking: Ranking) -> np.ndarray:
        assert self.encoded is not None
        rows = torch.tensor([self.encoded.index[ranking.prompt, video] for video in ranking.videos])
        return trainer.raw_scores(rows)[:, 0].double().numpy()

    def measure(
        self, scores: np.ndarray, calibration: list[np.ndarray], validation: list[Ranking]
    ) -> dict[str, Any]:
        prompts = self.test_clips.prompts
        test = pairs_of_rankings(scores, [r.ranks for r in self.test], prompts)
        chosen = pairs_of_rankings(calibration, [r.ranks for r in validation], [r.prompt for r in validation])
        figures: dict[str, Any] = evaluate_pairs(test, chosen)
        # Gold as ranks: the higher the score, the lower the rank; equal scores are ties.
        order = [len(row) - np.searchsorted(np.unique(row), row) for row in self.test_clips.gold]
        truth = pairs_of_rankings(scores, order, prompts)
        figures["gold_accuracy"] = accuracy_without_ties(truth.difference, truth.label)
        figures["share_of_best"] = figures["accuracy"]["mean"] / self.best_possible
        return figures

    def correct(self, runs: Sequence[Learned]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each untied test pair is ordered right, mean over seeds, and its prompt."""
        each = []
        for run in runs:
            pairs = pairs_of_rankings(run.scores, [r.ranks for r in self.test], self.test_clips.prompts)
            each.append(correct_without_ties(pairs.difference, pairs.label))
        mean = np.mean(each, axis=0)
        kept = np.isfinite(mean)
        return mean[kept], pairs.cluster[kept]

    def compare(self, name: str, a: Sequence[Learned], b: Sequence[Learned]) -> None:
        """The paired difference of two kinds of runs on the same test pairs."""
        (first, prompts), (second, _) = self.correct(a), self.correct(b)
        difference = paired_difference(first, second, prompts)
        self.found.setdefault("comparisons", {})[name] = difference.as_dict()
        interval = difference.interval
        self.say(f"{name}: {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]")

    # What is run

    def tune(self) -> None:
        """Compares `SETTINGS`, judged on the prompts from the end of the training set."""
        compared, count = self.arguments.compared, self.arguments.test_prompts
        own = range(len(self.clips.prompts) - count, len(self.clips.prompts))
        if own.start < compared:
            raise SystemExit("--tune needs more clips than --compared and --test_prompts together.")
        self.test_clips = Clips(
            [self.clips.prompts[i] for i in own],
            self.clips.latents[own.start :],
            self.clips.gold[own.start :],
        )
        self.clips = Clips(
            self.clips.prompts[: own.start], self.clips.latents[: own.start], self.clips.gold[: own.start]
        )
        self.test = annotate(self.test_clips, [self.annotator], 3)
        self.best_possible = best_possible_pair_accuracy(
            [list(row) for row in self.test_clips.gold], [self.annotator]
        )
        rankings = annotate(self.clips, [self.annotator], 6)[:compared]
        shares = {}
        for changes in SETTINGS:
            name = " ".join(f"{key}={value}" for key, value in changes.items()) or "default"
            run = self.train(name, rankings, 0, **changes)
            shares[name] = run.figures["share_of_best"]
        for name in sorted(shares, key=lambda each: -shares[each]):
            print(f"{shares[name]:.1%} of the best possible: {name}")

    def run(self) -> None:
        arguments = self.arguments
        rankings = annotate(self.clips, [self.annotator], 6)
        for count in arguments.rankings:
            runs = [
                self.train(f"plackett_luce {count}", rankings[:count], seed)
                for seed in range(arguments.seeds)
            ]
            if count == min(arguments.compared, max(arguments.rankings)):
                reference = runs
        self.final = runs[-1]
        some = rankings[: arguments.compared]
        seeds = range(arguments.seeds)
        kinds = {
            loss: [self.train(loss, some, seed, loss_type=loss) for seed in seeds]
            for loss in ("bradley_terry", "rao_kupper")
        }
        dropped = [
            self.train("plackett_luce, ties dropped", [without_ties(r) for r in some], s) for s in seeds
        ]
        self.compare("plackett_luce − bradley_terry (pairs)", reference, kinds["bradley_terry"])
        self.compare("plackett_luce: ties used − dropped", reference, dropped)
        self.compare("pairs: ties used (rao_kupper) − dropped", kinds["rao_kupper"], kinds["bradley_terry"])
        annotators = [SimulatedAnnotator(f"noise {noise:g}", noise, TIE) for noise in MIXED_NOISES]
        mixed = annotate(self.clips, annotators, 7)[: arguments.compared]
        learned = [
            self.train("mixed annotators, reliability", mixed, s, annotator_reliability=True) for s in seeds
        ]
        plain = [self.train("mixed annotators", mixed, s) for s in seeds]
        self.compare("reliability learned − none", learned, plain)
        self.correlations()
        self.write()

    def correlations(self) -> None:
        """Spearman of the reward with gold, by category, and on videos of optimised policies."""
        by_category: dict[str, list[int]] = {"all": list(range(len(self.test)))}
        for row, prompt in enumerate(self.test_clips.prompts):
            for category in categories(prompt):
                by_category.setdefault(category, []).append(row)
        scores, gold = self.final.scores, self.test_clips.gold
        self.found["spearman"] = {
            name: correlation(scores[rows], gold[rows]) for name, rows in sorted(by_category.items())
        }
        prompts = self.test_clips.prompts[: self.arguments.policy_prompts]
        make = {"batch": self.arguments.batch_size, "steps": self.arguments.num_inference_steps}
        many = make_clips(self.generator, prompts, [1.0] * self.arguments.best_of, 8, **make)
        judged = self.judge(many)
        best = judged.argmax(1)[:, None]
        policies = {
            "base": (judged[:, :1], many.gold[:, :1]),
            f"best of {self.arguments.best_of}": (
                np.take_along_axis(judged, best, 1),
                np.take_along_axis(many.gold, best, 1),
            ),
        }
        for folder in self.arguments.adapter:
            policy = load_generator(self.arguments.model, adapter=folder, device=self.arguments.device)
            clips = make_clips(policy, prompts, [1.0], 9, **make)
            policies[Path(folder).name] = (self.judge(clips), clips.gold)
        self.found["policies"] = {
            name: {
                "spearman": correlation(proxy, true),
                "proxy": float(proxy.mean()),
                "gold": cluster_bootstrap(true.ravel(), prompts).as_dict(),
            }
            for name, (proxy, true) in policies.items()
        }

    @torch.no_grad()
    def judge(self, clips: Clips) -> np.ndarray:
        """Raw scores `[prompts, videos]` of the model that saw most rankings."""
        model = self.final.model.eval()
        found = np.empty(clips.gold.shape)
        for start in range(0, len(clips.prompts), self.arguments.batch_size):
            rows = slice(start, start + self.arguments.batch_size)
            conditions = self.generator.encode_prompts(clips.prompts[rows])
            for column in range(clips.gold.shape[1]):
                latents = clips.latents[rows, column].to(self.generator.device)
                found[rows, column] = model.score_latents(latents, select(conditions, slice(None)))[
                    "overall"
                ].cpu()
        return found

    def write(self) -> None:
        folder = Path(self.arguments.output_dir)
        self.found["seconds"] = time.perf_counter() - self.start
        write_json(folder / "reward_accuracy.json", self.found)
        text = table(self.found)
        write_text(folder / "reward_accuracy.md", text)
        plot(self.found, folder / "reward_accuracy.png")
        print(text)


def correlation(proxy: np.ndarray, gold: np.ndarray, resamples: int = 500) -> dict[str, float]:
    """Spearman's correlation over all videos of `[prompts, videos]`, with its interval from resampled prompts."""
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(proxy), len(proxy)) for _ in range(resamples)]
    values = np.array([spearman(proxy[rows].ravel(), gold[rows].ravel()) for rows in drawn])
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (np.nan, np.nan)
    return {
        "mean": spearman(proxy.ravel(), gold.ravel()), "low": float(low), "high": float(high), "prompts": len(proxy)
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The findings as Markdown."""
    lines = [
        f"Best possible pair accuracy on the test labels: {found['best_possible']:.3f}.",
        "",
        "| run | accuracy, mean of seeds | interval of the first seed | of the best possible | gold accuracy | "
        "calibration error |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found["runs"].items():
        accuracy = np.mean([run["accuracy"]["mean"] for run in runs])
        first = runs[0]["accuracy"]
        share = np.mean([run["share_of_best"] for run in runs])
        gold = np.mean([run["gold_accuracy"] for run in runs])
        error = np.mean([run["calibration_error_after_temperature"] for run in runs])
        lines.append(
            f"| {name} | {accuracy:.3f} | [{first['low']:.3f}, {first['high']:.3f}] | {share:.1%} | {gold:.3f} | "
            f"{error:.3f} |"
        )
    lines += ["", "| comparison (accuracy) | difference | p |", "|---|---|---|"]
    for name, value in found["comparisons"].items():
        lines.append(
            f"| {name} | {value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}] | {value['p_value']:.3f} |"
        )
    lines += ["", "| Spearman with gold | | prompts |", "|---|---|---|"]
    rows = {**found["spearman"], **{f"policy: {n}": v["spearman"] for n, v in found["policies"].items()}}
    for name, value in rows.items():
        lines.append(
            f"| {name} | {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}] | {value['prompts']} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy against the number of rankings, and the reliability curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curve = {int(n.split()[1]): r for n, r in found["runs"].items() if n.startswith("plackett_luce ")}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for seed in range(len(next(iter(curve.values())))):
        runs = [run[seed]["accuracy"] for run in curve.values()]
        low = [r["mean"] - r["low"] for r in runs]
        high = [r["high"] - r["mean"] for r in runs]
        axes[0].errorbar(
            list(curve), [r["mean"] for r in runs], [low, high], marker="o", label=f"seed {seed}"
        )
    axes[0].axhline(found["best_possible"], color="grey", linestyle=":", label="best possible")
    axes[0].axhline(0.95 * found["best_possible"], color="grey", linestyle="--", label="95 % of it")
    axes[0].set(xscale="log", xlabel="rankings", ylabel="held-out pair accuracy")
    axes[0].legend(fontsize=8)
    reliability = curve[max(curve)][0]["reliability"]
    axes[1].plot([0.5, 1], [0.5, 1], color="grey", linestyle=":")
    axes[1].plot(reliability["confidence"], reliability["accuracy"], marker="o")
    axes[1].set(xlabel="predicted probability", ylabel="observed share")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="runs/reward_accuracy")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rankings", nargs="+", type=int, default=[100, 300, 1000, 2000, 5000])
    parser.add_argument("--compared", type=int, default=2000, help="rankings of the comparisons")
    parser.add_argument("--videos", type=int, default=4, help="videos of a ranking, at most 4")
    parser.add_argument("--test_prompts", type=int, default=500)
    parser.add_argument("--demonstrations", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="training steps of a run, about")
    parser.add_argument("--rankings_a_step", type=int, default=64)
    parser.add_argument("--matching_steps", type=int, default=1000)
    parser.add_argument("--matching_batch_size", type=int, default=64)
    parser.add_argument("--num_inference_steps", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=512, help="videos made at a time")
    parser.add_argument("--policy_prompts", type=int, default=200)
    parser.add_argument("--best_of", type=int, default=16)
    parser.add_argument("--adapter", nargs="*", default=[], help="adapters of optimised policies")
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings of the model as name=value (YAML values)"
    )
    parser.add_argument("--tune", action="store_true", help="compare settings instead")
    arguments = parser.parse_args()
    if arguments.compared not in arguments.rankings:
        parser.error(f"--compared {arguments.compared} must be one of --rankings")
    arguments.settings = {
        name: yaml.safe_load(value) for name, value in (item.split("=", 1) for item in arguments.set)
    }
    torch.set_float32_matmul_precision("high")
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    study = Study(arguments)
    study.tune() if arguments.tune else study.run()


if __name__ == "__main__":
    main()
