"""Accuracy of a latent reward model that learns from rankings with known noise, next to the best possible.

    python -m benchmarks.reward.accuracy.run --device cuda --output_dir runs/reward_accuracy --seconds 470

The shipped generator makes videos of prompts of the built-in world, the verifier scores them (gold), and simulated
annotators rank them by gold with noise and ties. The reward model's trunk is first taught on near misses, rendered
clips that differ from one another in known claims (`--groups`, no gold, no annotator; `--made` of them are made by the
generator instead), and then learns from 100 to 5,000 rankings; figures are on prompts that it never saw, with 95 %
intervals from resampled prompts:

- pair accuracy on the annotators' labels, beside that of an oracle that knows the gold score;
- the same without any ranking, and without the near misses;
- whole rankings (Plackett–Luce) against pairs, ties used against dropped, learned reliability against none;
- calibration error after the temperature was fitted on validation prompts;
- Spearman's correlation with gold by category, and on videos of an optimised policy: the best of 16 by this reward,
  and every `--adapter`.

The learning rate of the trunk is chosen among `--trunk_learning_rates` by validation loss at `--compared` rankings.
Clips are kept in `--clips_dir` for another run. Runs come in order of importance, each is written to `runs.jsonl`
when it is done, and none begins after `--seconds`; `reward_accuracy.json`, `.md` and `.png` are written at the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback

from benchmarks.reward.accuracy.arguments import read_arguments, training_settings
from benchmarks.reward.accuracy.clips import (
    Clips,
    annotate,
    blemish_accuracy,
    make_clips,
    near_miss_rankings,
    spoiled_rankings,
    without_ties,
)
from benchmarks.reward.accuracy.figures import Learned, correlation, plot, table, together
from generator import load_generator
from generator.inputs.conditions import select
from generator.output import atomic_path, write_json, write_text
from generator.world import categories, sample_prompts
from labeling_app.simulate import SimulatedAnnotator, best_possible_pair_accuracy
from reward.metrics import accuracy_without_ties, correct_without_ties, evaluate_pairs, pairs_of_rankings
from reward.models.storage import WEIGHTS_NAME, reward_folder
from reward.preferences import Ranking, split_by_prompt
from reward.statistics import cluster_bootstrap, paired_difference
from reward.training.near_miss_pretraining import RankingPretraining
from reward.training.ranking_data import EncodedVideos, encode_videos
from reward.training.reward_config import RewardConfig
from reward.training.reward_trainer import RewardTrainer
from reward.training.train import build_reward_model

NOISE, TIE = 0.15, 0.1
MIXED_NOISES = (0.05, 0.1, 0.15, 0.3, 1.0, 3.0)
"""The annotators of the comparison of learned reliability: three careful, one middling, two nearly at random."""


def in_half_precision(path: Path) -> None:
    """Stores the weights in a file as float16, which are loaded as what the model has."""
    weights = load_file(path)
    with atomic_path(path) as temporary:
        save_file({n: w.half() if w.is_floating_point() else w for n, w in weights.items()}, temporary)


class Study:
    """The data of the whole benchmark, one model, and one training of it at a time from the same start."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.start = arguments, time.perf_counter()
        self.folder = Path(arguments.output_dir)
        self.cuda = arguments.device == "cuda"
        self.annotator = SimulatedAnnotator("simulated", NOISE, TIE)
        if arguments.taught_only:
            self.teach_alone()
            return
        self.clips, self.test_clips = self.load_clips()
        self.test = annotate(self.test_clips, [self.annotator], 3)
        gold = [list(row) for row in self.test_clips.gold]
        self.best_possible = best_possible_pair_accuracy(gold, [self.annotator])
        self.found: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if self.cuda else platform.processor(),
            "arguments": vars(arguments),
            "best_possible": self.best_possible,
            "gold_accuracy_of_labels": self.oracle_agreement(),
            "runs": {},
            "comparisons": {},
        }
        self.trunk_learning_rate = arguments.trunk_learning_rates[0]
        # The weights of the trunk are trained, so they are float32; the arithmetic on a GPU is bfloat16.
        self.generator = load_generator(arguments.model, device=arguments.device, dtype=torch.float32)
        rankings = annotate(self.clips, [self.annotator], 6)
        self.rankings = rankings
        self.model = build_reward_model(self.generator, self.config("none", 100, 0), rankings)
        self.untaught = self.weights()
        self.go_on()
        self.taught = self.teach()
        everything = [*rankings, *self.test]
        known = self.clips.known() | self.test_clips.known()
        self.encoded: EncodedVideos = encode_videos(self.model, everything, 1024, known, progress=False)
        self.say("ranked clips known")

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", flush=True)

    def has_time(self) -> bool:
        return time.perf_counter() - self.start < self.arguments.seconds

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def load_clips(self) -> tuple[Clips, Clips]:
        """The generated clips of training and test prompts, made unless the output folder keeps them."""
        arguments, found = self.arguments, []
        # More prompts than rankings, since the grammar gives some twice and a prompt is ranked once.
        largest = max(arguments.rankings)
        wanted = (("train", largest, 11, 1), ("test", arguments.test_prompts, 12, 2))
        generator = None
        for split, count, prompt_seed, seed in wanted:
            path = Path(arguments.clips_dir or self.folder) / f"clips-{split}-{count}.pt"
            if not path.is_file():
                generator = generator or load_generator(arguments.model, device=arguments.device)
                prompts = list(dict.fromkeys(sample_prompts(2 * count, prompt_seed, split)))[:count]
                scales = [1.0, 1.0, 3.0, 3.0][: arguments.videos]
                steps, batch = arguments.num_inference_steps, arguments.batch_size
                make_clips(generator, prompts, scales, seed, batch, steps).save(path)
            found.append(Clips.load(path))
            self.say(f"{found[-1].gold.size} clips of {split} prompts, mean gold {found[-1].gold.mean():.3f}")
        return found[0], found[1]

    def go_on(self) -> None:
        """Takes the weights of `--reward_from`, if it is given."""
        if self.arguments.reward_from:
            self.model.load_state_dict(load_file(reward_folder(self.arguments.reward_from) / WEIGHTS_NAME))

    def teach(self) -> dict[str, Tensor]:
        """Pretrains the model on near misses; returns its weights."""
        arguments = self.arguments
        rankings, known = near_miss_rankings(
            self.generator,
            arguments.groups,
            arguments.videos,
            100,
            8 * arguments.batch_size,
            arguments.made,
            (arguments.theme, arguments.theme_share),
        )
        if arguments.spoiled:
            more, latents = spoiled_rankings(
                self.generator, arguments.spoiled, 10**6, 8 * arguments.batch_size
            )
            rankings, known = [*rankings, *more], {**known, **latents}
        self.say(f"{len(known)} clips of near misses, {len(rankings)} rankings of them")
        pretraining = RankingPretraining(self.model, rankings, "plackett_luce", 1024, known)
        rate = arguments.pretraining_learning_rate
        figures = pretraining.train(
            arguments.pretraining_steps,
            arguments.pretraining_batch_size,
            rate,
            0.4 * rate,
            0,
            self.cuda,
            arguments.pretraining_seconds,
            progress=False,
        )
        self.found["pretraining"] = {**figures, "clips": len(known), "rankings": len(rankings)}
        self.say(f"taught: {json.dumps(figures)}")
        self.found["blemishes"] = blemish_accuracy(self.model.eval(), arguments.blemish_groups)
        self.say(f"blemishes: {json.dumps(self.found['blemishes'])}")
        self.replay = pretraining if arguments.replay else None
        taught = self.weights()
        if arguments.save_pretrained:
            self.model.save_pretrained(self.folder / "pretrained")
            if arguments.half_precision:
                in_half_precision(self.folder / "pretrained" / WEIGHTS_NAME)
        return taught

    def teach_alone(self) -> None:
        """Teaches the model on near misses and writes what it tells apart; no clips are generated."""
        self.trunk_learning_rate = self.arguments.trunk_learning_rates[0]
        self.found = {"arguments": vars(self.arguments)}
        self.generator = load_generator(
            self.arguments.model, device=self.arguments.device, dtype=torch.float32
        )
        example = [Ranking("a red circle", [Path("a.mp4"), Path("b.mp4")], [0, 1])]
        self.model = build_reward_model(self.generator, self.config("none", 100, 0), example)
        self.go_on()
        self.teach()
        write_json(self.folder / "taught.json", self.found)

    def oracle_agreement(self) -> float:
        """Share of pairs in which the test labels agree with the gold order, of pairs that both order."""
        pairs = pairs_of_rankings(self.test_clips.gold, [r.ranks for r in self.test], self.test_clips.prompts)
        ordered = (pairs.label != 0) & (pairs.difference != 0)
        return accuracy_without_ties(pairs.difference[ordered], pairs.label[ordered])

    def config(self, folder: str, count: int, seed: int, **changes: Any) -> RewardConfig:
        """Settings of a training on `count` rankings."""
        chosen = training_settings(self.arguments, count, self.trunk_learning_rate, self.cuda)
        return RewardConfig(folder, seed=seed, **chosen | self.arguments.settings | changes)

    def train(
        self,
        name: str,
        rankings: Sequence[Ranking],
        seed: int,
        start: dict[str, Tensor] | None = None,
        **changes: Any,
    ) -> Learned:
        """Learns from rankings, of which a tenth of the prompts choose epoch and temperature."""
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = self.config(folder, len(rankings), seed, **changes)
            self.model.load_state_dict(start or self.taught)
            train, validation = split_by_prompt(rankings, 0.1, seed)
            trainer = RewardTrainer(
                self.model,
                config,
                train,
                eval_dataset=validation,
                encoded=self.encoded,
                replay=self.replay,
                pretrained=start is None,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        figures = self.measure(trainer, validation)
        figures["best_validation_loss"] = trainer.keep_best.best_loss
        figures["best_epoch"] = trainer.keep_best.best_epoch
        figures["reliabilities"] = trainer.ranking_model.likelihood.reliabilities() or None
        figures["seconds"] = time.perf_counter() - begun
        return self.keep(name, seed, self.scores(trainer, self.test), figures)

    def without_rankings(self) -> Learned:
        """Accuracy that the near misses alone taught; the temperature is from 200 rankings."""
        self.model.load_state_dict(self.taught)
        some = self.rankings[:200]
        with tempfile.TemporaryDirectory() as folder:
            trainer = RewardTrainer(self.model, self.config(folder, 100, 0), some, encoded=self.encoded)
        return self.keep(
            "near misses, no rankings", 0, self.scores(trainer, self.test), self.measure(trainer, some)
        )

    def keep(self, name: str, seed: int, scores: np.ndarray, figures: dict[str, Any]) -> Learned:
        self.found["runs"].setdefault(name, []).append(figures)
        with (self.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": name, "seed": seed, **figures}) + "\n")
        accuracy = figures["accuracy"]
        self.say(
            f"{name}, seed {seed}: accuracy {accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], "
            f"{figures['share_of_best']:.1%} of the best possible, gold {figures['gold_accuracy']:.3f}, calibration "
            f"{figures['calibration_error_after_temperature']:.3f}"
        )
        return Learned(scores, figures, self.weights())

    def scores(self, trainer: RewardTrainer, rankings: Sequence[Ranking]) -> np.ndarray:
        """Raw scores `[rankings, videos]`."""
        rows = torch.tensor([self.encoded.index[r.prompt, v] for r in rankings for v in r.videos])
        return trainer.raw_scores(rows, 1024)[:, 0].double().numpy().reshape(len(rankings), -1)

    def measure(self, trainer: RewardTrainer, validation: Sequence[Ranking]) -> dict[str, Any]:
        return self.figures_of(self.scores(trainer, self.test), self.scores(trainer, validation), validation)

    def figures_of(
        self, scores: np.ndarray, calibration: np.ndarray, validation: Sequence[Ranking]
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
        """Share of right orders of each untied test pair, mean over seeds, and its prompt."""
        each = []
        for run in runs:
            pairs = pairs_of_rankings(run.scores, [r.ranks for r in self.test], self.test_clips.prompts)
            each.append(correct_without_ties(pairs.difference, pairs.label))
        mean = np.mean(each, axis=0)
        kept = np.isfinite(mean)
        return mean[kept], pairs.cluster[kept]

    def compare(self, name: str, a: Sequence[Learned], b: Sequence[Learned]) -> None:
        """The paired difference of two kinds of runs on the same test pairs."""
        count = min(len(a), len(b))
        if not count:
            return
        (first, prompts), (second, _) = self.correct(a[:count]), self.correct(b[:count])
        difference = paired_difference(first, second, prompts)
        self.found["comparisons"][name] = {**difference.as_dict(), "seeds": count}
        interval = difference.interval
        self.say(f"{name}: {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]")

    # What is run

    def choose_learning_rate(self, some: Sequence[Ranking]) -> Learned:
        """The run at `--compared` rankings with the lowest validation loss, whose rate the others use."""
        best: Learned | None = None
        for rate in self.arguments.trunk_learning_rates:
            if best is not None and not self.has_time():
                break
            self.trunk_learning_rate = rate
            run = self.train(f"learning rate {rate:g}, {len(some)} rankings", some, 0)
            if best is None or run.figures["best_validation_loss"] < best.figures["best_validation_loss"]:
                best, chosen = run, rate
        assert best is not None
        self.trunk_learning_rate = self.found["trunk_learning_rate"] = chosen
        return best

    def run(self) -> None:
        arguments = self.arguments
        self.without_rankings()
        some = self.rankings[: arguments.compared]
        runs: dict[str, list[Learned]] = {
            f"plackett_luce {arguments.compared}": [self.choose_learning_rate(some)]
        }
        reference = f"plackett_luce {arguments.compared}"
        self.found["runs"][reference] = [runs[reference][0].figures]
        annotators = [SimulatedAnnotator(f"noise {noise:g}", noise, TIE) for noise in MIXED_NOISES]
        mixed = annotate(self.clips, annotators, 7)[: arguments.compared]
        dropped = [without_ties(ranking) for ranking in some]
        curve = sorted(set(arguments.rankings) - {arguments.compared}, reverse=True)
        jobs: list[tuple[str, Sequence[Ranking], dict[str, Any]]] = [
            *((f"plackett_luce {count}", self.rankings[:count], {}) for count in curve),
            ("bradley_terry", some, {"loss_type": "bradley_terry"}),
            ("plackett_luce, ties dropped", dropped, {}),
            ("mixed annotators, reliability", mixed, {"annotator_reliability": True}),
            ("mixed annotators", mixed, {}),
            ("rao_kupper", some, {"loss_type": "rao_kupper"}),
            ("no near misses", some, {"start": self.untaught}),
        ]
        if arguments.only_compared:
            jobs = []
        largest = reference if arguments.only_compared else f"plackett_luce {max(arguments.rankings)}"
        if largest == reference:
            self.final = runs[reference][0]
            self.correlations()
        for seed in range(arguments.seeds):
            if seed:
                jobs = [(reference, some, {}), *jobs]
            for name, rankings, changes in jobs:
                if self.has_time():
                    runs.setdefault(name, []).append(self.train(name, rankings, seed, **changes))
                if name == largest and seed == 0:
                    self.final = runs.get(name, runs[reference])[0]
                    self.correlations()
        if arguments.ensemble > 1:
            while len(runs[reference]) < arguments.ensemble and self.has_time():
                runs[reference].append(self.train(reference, some, len(runs[reference])))
            self.judge_together(reference, runs[reference][: arguments.ensemble])
        self.compare("plackett_luce − bradley_terry (pairs)", runs[reference], runs.get("bradley_terry", []))
        self.compare("ties used − dropped", runs[reference], runs.get("plackett_luce, ties dropped", []))
        self.compare(
            "rao_kupper − bradley_terry (pairs)", runs.get("rao_kupper", []), runs.get("bradley_terry", [])
        )
        self.compare(
            "reliability learned − none",
            runs.get("mixed annotators, reliability", []),
            runs.get("mixed annotators", []),
        )
        self.compare("near misses − none", runs[reference], runs.get("no near misses", []))
        self.write()

    def judge_together(self, name: str, members: Sequence[Learned]) -> None:
        """Accuracy of the mean of the members' standardised scores; it is not calibrated anew."""
        interval = together([run.scores for run in members], self.test, self.test_clips.prompts)
        share = interval.mean / self.best_possible
        self.found["ensemble"] = {
            "accuracy": interval.as_dict(),
            "members": len(members),
            "share_of_best": share,
        }
        self.say(f"{name}, {len(members)} together: accuracy {interval.mean:.3f} [{interval.low:.3f}, "
                 f"{interval.high:.3f}], {share:.1%} of the best possible")  # fmt: skip

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
        arguments = self.arguments
        prompts = self.test_clips.prompts[: arguments.policy_prompts]
        steps, batch = arguments.num_inference_steps, arguments.batch_size
        policy = load_generator(arguments.model, device=arguments.device)
        many = make_clips(policy, prompts, [1.0] * arguments.best_of, 8, batch, steps)
        judged = self.judge(many)
        best = judged.argmax(1)[:, None]
        policies = {
            "base": (judged[:, :1], many.gold[:, :1]),
            f"best of {arguments.best_of}": (
                np.take_along_axis(judged, best, 1),
                np.take_along_axis(many.gold, best, 1),
            ),
        }
        for folder in arguments.adapter:
            policy = load_generator(arguments.model, adapter=folder, device=arguments.device)
            clips = make_clips(policy, prompts, [1.0], 9, batch, steps)
            policies[Path(folder).name] = (self.judge(clips), clips.gold)
        self.found["policies"] = {
            name: {
                "spearman": correlation(proxy, true),
                "proxy": float(proxy.mean()),
                "gold": cluster_bootstrap(true.ravel(), prompts).as_dict(),
            }
            for name, (proxy, true) in policies.items()
        }
        self.say(
            "correlations: "
            + json.dumps({n: v["spearman"]["mean"] for n, v in self.found["policies"].items()})
        )

    @torch.no_grad()
    def judge(self, clips: Clips) -> np.ndarray:
        """Raw scores `[prompts, videos]` of the model that saw most rankings."""
        self.model.load_state_dict(self.final.weights)
        found = np.empty(clips.gold.shape)
        for start in range(0, len(clips.prompts), self.arguments.batch_size):
            rows = slice(start, start + self.arguments.batch_size)
            conditions = self.generator.encode_prompts(clips.prompts[rows])
            for column in range(clips.gold.shape[1]):
                latents = clips.latents[rows, column].to(self.generator.device)
                scores = self.model.score_latents(latents, select(conditions, slice(None)))
                found[rows, column] = scores["overall"].cpu()
        return found

    def write(self) -> None:
        self.found["seconds"] = time.perf_counter() - self.start
        write_json(self.folder / "reward_accuracy.json", self.found)
        text = table(self.found)
        write_text(self.folder / "reward_accuracy.md", text)
        plot(self.found, self.folder / "reward_accuracy.png")
        print(text)


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0])
    torch.set_float32_matmul_precision("high")
    for folder in (arguments.output_dir, arguments.clips_dir or arguments.output_dir):
        Path(folder).mkdir(parents=True, exist_ok=True)
    study = Study(arguments)
    if not arguments.taught_only:
        study.run()


if __name__ == "__main__":
    main()
