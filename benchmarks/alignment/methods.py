"""Methods of alignment at equal seconds of a GPU, and their curves of gold against seconds.

    python -m benchmarks.alignment.methods --output_dir D --methods sft ppo nft --seconds 300 --seeds 0 1 2
    python -m benchmarks.alignment.methods --output_dir D --methods dpo best_of_n          # on another GPU, same folder
    python -m benchmarks.alignment.methods --output_dir D --seeds 0 1 2 --at_once          # which share the GPU
    python -m benchmarks.alignment.methods --output_dir D --table                          # of all that is there

Every method starts from the same SFT model, made once for each seed in `--sft_seconds`, and learns for `--seconds`
after its first step, which compiles, with a learning rate that falls as half a cosine; `sft` goes on with SFT,
`pretrained_ppo` begins with the base in place of the SFT model, and `sft_dpo_ppo` divides the seconds between the
three. DPO ends before its seconds do, since its rankings are few. Methods with rollouts learn from the gold score; DPO
from rankings by simulated annotators, whose videos and judging are not counted, and `backprop` from the reward model of
these, or from `--reward`. `best_of_n` trains nothing: it keeps the best by gold of several videos, and its seconds are
those of sampling. Held-out gold at the guidance of the training is measured every `--every` seconds, which do not
count, and at the end at several guidance scales. Trainings that are in `methods.jsonl` already are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.lora import LoraArguments
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.demo_variants import difference
from benchmarks.alignment.study.arms import (
    Budget,
    Seed,
    gold_scores,
    measure,
    rankings,
    read_rankings,
    reward,
    sample,
    train,
)
from benchmarks.alignment.study.settings import (
    ALL_LINEAR,
    FPS,
    SCALES,
    SIZE,
    Settings,
    dpo_settings,
    ppo_settings,
    sft_settings,
)
from benchmarks.named_values import named_values
from generator.base import VideoGenerator
from generator.output import read_jsonl
from generator.world import render_scenes, training_batch
from reward import load_reward
from reward.models.base import WorldReward
from reward.preferences import merge_annotators

SWEEP = (1.0, 2.0, 3.0, 5.0)
GUIDANCE = 3.0
"""Of the rollouts, as people sample."""
RATES = {"ppo": 5e-4, "nft": 2e-4, "rwr": 5e-4, "online_dpo": 1e-4, "backprop": 2e-5}
"""At 5e-4 online DPO diverges in one of three seeds; at 2e-4 `backprop` finds videos that please the reward alone."""
BACKPROP_BETA = 30.0
"""Of `backprop_beta`: a mean squared difference of velocities of 0.02 costs what 0.6 of the reward gains."""
LORA = LoraArguments(lora_r=64, lora_target_modules=ALL_LINEAR)
DPO_LORA = LoraArguments(lora_r=16)
"""As `nano/dpo` has it, with whose learning rate all linear layers lose what the SFT model can."""
NUMBERS = (1, 2, 4, 8, 16)
START = "sft"
"""Folder of the SFT model that the methods start from, as the study's rankings and reward model know it."""


class HeldOut(TrainerCallback):
    """Gold of held-out prompts during a training, whose time the budget does not count.

    Args:
        job: of the measurements.
        generator: whose transformer is trained.
        arm: name in the results.
        guidance: scale of the videos.
        every: seconds of training between two measurements.
        budget: of the training.
    """

    def __init__(
        self, job: Seed, generator: VideoGenerator, arm: str, guidance: float, every: float, budget: Budget
    ) -> None:
        self.job, self.generator, self.arm = job, generator, arm
        self.guidance, self.every, self.budget = guidance, every, budget
        self.prompts = job.prompts(max(job.scale.test_prompts // 2, 2), 9, "test")
        self.next = 0.0

    @torch.no_grad()
    def _measure(self, seconds: float) -> None:
        began = time.time()
        latents = sample(self.job, self.generator, self.prompts, 60_000, self.guidance)
        gold = mean(gold_scores(self.generator, latents, self.prompts, self.job.scale.batch))
        self.job.add(arm=self.arm, held_out=gold, at=round(seconds, 1))
        self.budget.start += time.time() - began

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = time.time() - self.budget.start
        if seconds >= self.next:
            self.next = seconds + self.every
            self._measure(seconds)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.budget.start = time.time()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._measure(time.time() - self.budget.start)


class Methods:
    """Trainings of one seed.

    Args:
        job: seed, scale and folders.
        seconds: of each training.
        every: seconds between measurements on held-out prompts.
        reward: name or folder of the reward model of `backprop`; by default one that learns the rankings.
        rates: learning rates of the methods with rollouts, in place of `RATES`.
    """

    def __init__(
        self,
        job: Seed,
        seconds: float,
        every: float,
        reward: str | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.job, self.seconds, self.every, self.reward = job, seconds, every, reward
        self.rates = RATES | dict(rates or {})
        self.demonstrations: tuple[list[Tensor], list[str]] | None = None
        self.compiled = torch.cuda.is_available()

    def run(self, name: str) -> None:
        """Trains by a method and measures the result."""
        kinds: dict[str, Callable[[str], Any]] = {
            "sft": lambda arm: self.sft(arm, START),
            "dpo": lambda arm: self.dpo(arm, START),
            "best_of_n": self.best_of_n,
            "pretrained_ppo": lambda arm: self.rollouts(arm, "ppo", None),
            "backprop_beta": lambda arm: self.rollouts(arm, "backprop", START, beta=BACKPROP_BETA),
            "ppo_ratio_norm": lambda arm: self.rollouts(arm, "ppo", START, ratio_norm=True),
            "sft_dpo_ppo": self.in_turn,
        }
        kind = kinds.get(name, lambda arm: self.rollouts(arm, name, START))
        kind(name)

    def _load(self, start: str | None) -> VideoGenerator:
        return self.job.load(None if start is None else self.job.folder / start)

    def _common(self, arm: str) -> Settings:
        return self.job.common(arm) | {"compile_blocks": self.compiled}

    def _finish(
        self,
        arm: str,
        generator: VideoGenerator,
        make: Callable[..., Any],
        seconds: float,
        falling: bool = True,
    ) -> float:
        """Trains for `seconds`, or as many steps as the trainer has, and keeps the model, measured at every guidance
        scale; returns the seconds of training."""
        job = self.job
        budget = Budget(f"{arm}, seed {job.seed}", seconds, job.deadline, falling)
        trainer = make([HeldOut(job, generator, arm, GUIDANCE, self.every, budget), budget])
        train(trainer)
        spent = time.time() - budget.start
        trainer.save_model(str(job.folder / f"after {arm}"))
        measure(job, arm, generator, seconds=round(spent, 1), steps=trainer.state.global_step)
        return spent

    def sft(self, arm: str, start: str | None, seconds: float | None = None) -> None:
        """SFT on rendered clips."""
        job, scale = self.job, self.job.scale
        generator = self._load(start)
        if self.demonstrations is None:
            prompts, scenes, _ = training_batch(
                scale.demonstrations, 1000 + job.seed, "train", **SIZE, fps=FPS
            )
            clips = render_scenes(scenes, **SIZE, fps=FPS).split(scale.batch)
            latents = torch.cat([generator.encode(part.to(generator.device)).cpu() for part in clips])
            self.demonstrations = list(latents), prompts
        latents_of, prompts_of = self.demonstrations
        config = SFTConfig(**self._common(arm) | sft_settings(scale) | {"max_steps": 100_000})
        self._finish(
            arm,
            generator,
            lambda callbacks: SFTTrainer(
                generator, config, latents_of, prompts_of, lora=LORA, callbacks=callbacks
            ),
            self.seconds if seconds is None else seconds,
        )

    def _rankings(self) -> None:
        if not (self.job.folder / "rankings.pt").is_file():
            rankings(self.job, guidance=GUIDANCE)

    def dpo(self, arm: str, start: str, seconds: float | None = None) -> float:
        """DPO on merged rankings of the SFT model's videos with guidance, for the study's steps at most, since more
        learn the rankings by heart. Returns the seconds of training."""
        job = self.job
        self._rankings()
        ranked, latents = read_rankings(job)
        used = [each for each in merge_annotators(ranked) if each.has_order]
        generator = self._load(start)
        schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 5}
        config = DPOConfig(**self._common(arm) | dpo_settings(job.scale) | schedule)
        return self._finish(
            arm,
            generator,
            lambda callbacks: DPOTrainer(
                generator,
                config,
                [[latents[video] for video in each.videos] for each in used],
                [each.ranks for each in used],
                [each.prompt for each in used],
                lora=DPO_LORA,
                callbacks=callbacks,
            ),
            self.seconds if seconds is None else seconds,
            falling=False,
        )

    def rollouts(
        self, arm: str, method: str, start: str | None, seconds: float | None = None, **changes: Any
    ) -> None:
        """A method that samples: on the gold score, `backprop` on the reward model of the rankings."""
        job = self.job
        groups = {"num_prompts": 32, "num_generations": 32} if job.scale_name == "gpu" else {}
        general = ppo_settings(job.scale, 512 if self.compiled else 16) | groups
        general |= {"guidance_scale": GUIDANCE, "learning_rate": self.rates[method]}
        kinds: dict[str, tuple[Any, Any, Settings]] = {
            "ppo": (PPOConfig, PPOTrainer, {"step_weight": "inverse_std", "noise_level": 1.0}),
            "nft": (NFTConfig, NFTTrainer, {"num_draws": 2, "beta": 1e-3, "num_iterations": 1}),
            "rwr": (RWRConfig, RWRTrainer, {"num_iterations": 1}),
            "online_dpo": (OnlineDPOConfig, OnlineDPOTrainer, {"num_iterations": 1}),
            "backprop": (BackpropConfig, BackpropTrainer, {}),
        }
        configure, trainer, own = kinds[method]
        judge: Any = WorldReward()
        if method == "backprop":
            general = {name: general[name] for name in ("guidance_scale", "num_inference_steps", *SIZE)}
            general |= {"per_device_train_batch_size": min(job.scale.batch, 128), "max_steps": 100_000}
            general |= {"learning_rate": self.rates[method]}
            judge = self._reward_model()
        if method != "ppo":
            known = {field.name for field in fields(configure)} - {"beta"}
            general = {name: value for name, value in general.items() if name in known}
        generator = self._load(start)
        config = configure(**self._common(arm) | general | own | changes)
        prompts = job.prompts(job.scale.train_prompts, 3)
        self._finish(
            arm,
            generator,
            lambda callbacks: trainer(generator, config, prompts, judge, lora=LORA, callbacks=callbacks),
            self.seconds if seconds is None else seconds,
        )

    def _reward_model(self) -> Any:
        if self.reward is not None:
            return load_reward(self.reward)
        self._rankings()
        folder = self.job.folder / "reward"
        if not folder.is_dir():
            reward(self.job)
        return load_reward(str(folder))

    def in_turn(self, arm: str) -> None:
        """SFT and DPO one after the other, each in a third of the seconds at most, and PPO in what they leave."""
        part = self.seconds / 3
        self.sft(f"{arm}: sft", START, part)
        spent = part + self.dpo(f"{arm}: dpo", f"after {arm}: sft", part)
        self.rollouts(arm, "ppo", f"after {arm}: dpo", self.seconds - spent)

    @torch.no_grad()
    def best_of_n(self, arm: str) -> None:
        """The best by gold of N videos of the SFT model."""
        job = self.job
        generator = self._load(START)
        prompts = job.prompts(job.scale.test_prompts, 7, "test")
        best: list[float] = []
        began = time.time()
        for number in range(max(NUMBERS)):
            latents = sample(job, generator, prompts, 50_000 + 1_000 * number, GUIDANCE)
            scores = gold_scores(generator, latents, prompts, job.scale.batch)
            best = [max(pair) for pair in zip(best, scores, strict=True)] if best else scores
            if number + 1 in NUMBERS:
                seconds = round((time.time() - began) / len(prompts), 4)
                kept = [round(score, 4) for score in best]
                job.add(arm=f"{arm} {number + 1}", guidance=GUIDANCE, scores=kept, seconds_a_prompt=seconds)


METHODS = (
    *("sft", "dpo", "online_dpo", "ppo", "ppo_ratio_norm", "nft", "rwr", "backprop"),
    *("backprop_beta", "best_of_n", "pretrained_ppo", "sft_dpo_ppo"),
)
LOWEST_GAIN = -0.08
"""Of the figure; what falls below is in the table."""
Scores = dict[tuple[str, int], dict[float, list[float]]]
Curves = dict[tuple[str, int], list[tuple[float, float]]]


def read(path: Path) -> tuple[Scores, Curves]:
    """Scores of each arm and seed by guidance, and its curve of held-out gold against seconds."""
    scores: Scores = {}
    curves: Curves = {}
    for _, row in read_jsonl(path) if path.is_file() else ():
        key = row.get("arm", ""), row["seed"]
        if "scores" in row:
            scores.setdefault(key, {})[row["guidance"]] = row["scores"]
        elif "held_out" in row:
            if row["at"] == 0:  # a training that begins again after it was stopped
                curves.pop(key, None)
            curves.setdefault(key, []).append((row["at"], row["held_out"]))
    return scores, curves


def best_scores(by_guidance: dict[float, list[float]]) -> list[float]:
    """Scores at the guidance scale that has the highest mean."""
    return max(by_guidance.values(), key=mean)


def table(scores: Scores) -> str:
    """Markdown table: means over the seeds at each guidance scale, and paired differences to SFT at the best."""
    seeds = {seed for _, seed in scores}
    head = (
        "| method | seeds | "
        + " | ".join(f"{scale:g}" for scale in SWEEP)
        + " | at its best | − SFT, first |"
    )
    lines = [head, "|---" * (len(SWEEP) + 4) + "|"]
    for arm in dict.fromkeys(arm for arm, _ in scores):
        have = sorted(seed for seed in seeds if (arm, seed) in scores)
        cells = [
            f"{mean(mean(scores[arm, seed][scale]) for seed in have):.3f}"
            if all(scale in scores[arm, seed] for seed in have)
            else "–"
            for scale in SWEEP
        ]
        own = [score for seed in have for score in best_scores(scores[arm, seed])]
        shared = [seed for seed in have if ("first sft", seed) in scores]
        first = [score for seed in shared for score in best_scores(scores["first sft", seed])]
        mine = [score for seed in shared for score in best_scores(scores[arm, seed])]
        gain = (
            "–"
            if arm in ("base", "first sft") or not shared
            else "{:+.3f} ± {:.3f}".format(*difference(mine, first))
        )
        lines.append(f"| {arm} | {len(have)} | {' | '.join(cells)} | {mean(own):.3f} | {gain} |")
    return "\n".join(lines)


def course(curves: Curves, arm: str, seed: int) -> list[tuple[float, float]]:
    """Seconds and held-out gold of a training; where it has parts, `arm: PART` and `arm`, one after the other."""
    parts = [name for name, its in curves if its == seed and (name == arm or name.startswith(f"{arm}: "))]
    points: list[tuple[float, float]] = []
    for part in sorted(parts, key=lambda name: name == arm):  # the last has the name of the whole
        before = points[-1][0] if points else 0.0
        points += [(before + at, gold) for at, gold in curves[part, seed]]
    return points


def mean_gain(curves: Curves, arm: str) -> tuple[list[float], list[float]]:
    """Seconds, and held-out gold minus that of the start of the course, as a mean over the seeds."""
    courses = [course(curves, arm, seed) for seed in sorted({its for name, its in curves if name == arm})]
    last = min(points[-1][0] for points in courses)
    seconds = sorted({0.0, last} | {at for at, _ in courses[0] if at < last})
    gains = []
    for points in courses:
        its_seconds, gold = [at for at, _ in points], [score for _, score in points]
        gains.append(np.interp(seconds, its_seconds, gold) - gold[0])
    return seconds, np.mean(gains, axis=0).tolist()


def draw(curves: Curves, path: Path) -> None:
    """Gain in held-out gold over the model that all start from, against seconds of training; means over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    arms = dict.fromkeys(arm for arm, _ in curves if ": " not in arm and arm != "first sft")
    for number, arm in enumerate(arms):
        seconds, gains = mean_gain(curves, arm)
        style = "-" if number < 10 else "--"
        axes.plot(seconds, gains, style, color=f"C{number % 10}", marker=".", label=arm, linewidth=1.4)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.autoscale(axis="y", tight=True)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest - 0.01, LOWEST_GAIN), highest + 0.01)
    axes.set_xlabel("seconds of training on a share of a GPU")
    axes.set_ylabel("gain in gold, held-out prompts, guidance 3")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def side_by_side(words: Sequence[str], seeds: Sequence[int]) -> None:
    """Runs this benchmark with its arguments `words`, but for each of `seeds` in a process of its own, all at once.

    Raises:
        SystemExit: one of them has failed.
    """
    command = [sys.executable, "-m", "benchmarks.alignment.methods", *words]
    running = [subprocess.Popen([*command, "--seeds", str(seed)]) for seed in seeds]
    try:
        failed = [seed for seed, each in zip(seeds, running, strict=True) if each.wait()]
    finally:
        for each in running:
            each.terminate()
    if failed:
        raise SystemExit(f"Seeds {', '.join(map(str, failed))} have failed.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, or prints the table and draws the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--at_once", action="store_true", help="All seeds at once, which share the GPU.")
    parser.add_argument("--seconds", type=float, default=300.0, help="Of each training.")
    parser.add_argument("--sft_seconds", type=float, default=75.0, help="Of the SFT that all start from.")
    parser.add_argument("--every", type=float, default=40.0, help="Seconds between two points of a curve.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--reward", help="Reward model of backprop; one of the rankings by default.")
    parser.add_argument(
        "--rates", nargs="+", default=[], metavar="METHOD=RATE", help="Learning rates in place of RATES."
    )
    parser.add_argument("--scale", default="gpu", choices=sorted(SCALES))
    parser.add_argument("--test_prompts", type=int, help="Held-out prompts; those of the scale by default.")
    parser.add_argument("--table", action="store_true", help="Print the table and draw the figure alone.")
    asked = parser.parse_args(arguments)
    if asked.at_once and len(asked.seeds) > 1 and not asked.table:
        side_by_side(sys.argv[1:] if arguments is None else arguments, asked.seeds)
        asked.table = True
    asked.output_dir.mkdir(parents=True, exist_ok=True)
    results = asked.output_dir / "methods.jsonl"
    if asked.test_prompts:
        SCALES[asked.scale] = replace(SCALES[asked.scale], test_prompts=asked.test_prompts)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    for seed in () if asked.table else asked.seeds:
        job = Seed(seed, asked.scale, results, asked.output_dir, asked.model, time.time() + 1e6, 1, 0, SWEEP)
        job.folder.mkdir(parents=True, exist_ok=True)
        trainings = Methods(job, asked.seconds, asked.every, asked.reward, named_values(asked.rates))
        if ("first sft", seed) not in read(results)[0]:
            measure(job, "base", job.load())
            trainings.sft("first sft", None, asked.sft_seconds)
            (job.folder / "after first sft").rename(job.folder / START)
        for method in asked.methods:
            if (method, seed) not in read(results)[0] and (f"{method} {max(NUMBERS)}", seed) not in read(
                results
            )[0]:
                trainings.run(method)
    scores, curves = read(results)
    print(table(scores), flush=True)
    if curves:
        draw(curves, asked.output_dir / "methods.png")


if __name__ == "__main__":
    main()
