"""What alignment gains on the built-in world, and when it over-optimises.

    python benchmarks/alignment_study.py --output_dir runs/study-0 --seconds 300 --seed 0 [--part gold proxy ablations]
    python benchmarks/alignment_study.py --merge runs/study-0 runs/study-1 runs/study-2

Base, SFT, DPO and PPO start from the same base model (and SFT's demonstrations are the only videos that were not
made by it). The gold score is `generator.world.verify`, which no reward model sees; the proxy is a reward model
trained on simulated rankings. Figures are the mean gold score of held-out prompts with bootstrap intervals over
prompts; differences are paired, as all models get the same noise. The time is shared out over the arms that are
asked for, so a figure belongs to its seconds and its device, which `study.json` names.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.adapters import LoraArguments
from alignment.dpo_config import DPOConfig
from alignment.dpo_trainer import DPOTrainer, RankingDPOTrainer
from alignment.ppo_config import PPOConfig
from alignment.ppo_trainer import PPOTrainer
from alignment.rollout import Rollout
from alignment.sft_config import SFTConfig
from alignment.sft_trainer import SFTTrainer
from generator import load_generator
from generator.base import VideoGenerator
from generator.output import write_json, write_text
from generator.sampling import generate_latents
from generator.world import parse, render_scenes, sample_prompts, sample_scenes, verify_batch
from labeling_app.simulate import ranks_from_perceived, sample_annotators
from reward.adherence.statistics import Difference, cluster_bootstrap, paired_difference
from reward.models.base import RewardModel, WorldReward
from reward.preferences import Ranking
from reward.reward_config import RewardConfig
from reward.reward_training import train_reward_model

FPS = 8
FIGURE = "over-optimisation.png"


@dataclass
class Scale:
    """Sizes of the study.

    Attributes:
        test_prompts: held-out prompts, one video each; every figure is their mean.
        train_prompts: prompts of PPO. ranked_prompts: prompts with rankings, `candidates` videos and
            `annotators` rankings each. demonstrations: clips of SFT.
        num_prompts, num_generations: of a PPO rollout. rows: denoising steps in a micro-batch.
        batch: videos sampled at once, and demonstrations or rankings in a training step.
    """

    test_prompts: int = 512
    train_prompts: int = 2048
    ranked_prompts: int = 480
    candidates: int = 4
    annotators: int = 4
    demonstrations: int = 1024
    num_prompts: int = 16
    num_generations: int = 16
    rows: int = 256
    batch: int = 64
    num_inference_steps: int = 10
    reward_epochs: int = 30


TINY = Scale(8, 8, 10, 3, 1, 8, 2, 2, 8, 4, 3, 2)


class TimeLimit(TrainerCallback):
    """Stops training after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.perf_counter() - self.start > self.seconds:
            control.should_training_stop = True


def gold_scores(
    generator: VideoGenerator, latents: Tensor, prompts: Sequence[str], batch: int
) -> list[float]:
    """Gold score of each of the latents `[n, C, F, H, W]`."""
    scores: list[float] = []
    for start in range(0, len(latents), batch):
        videos = generator.decode(latents[start : start + batch].to(generator.device))
        scores += [a.score for a in verify_batch(videos, prompts[start : start + batch], fps=FPS)]
    return scores


def interval_of(difference: Difference) -> list[float]:
    """Mean, low and high of a paired difference."""
    interval = difference.interval
    return [interval.mean, interval.low, interval.high]


class Study:
    """One seed of the study in one folder; every arm writes what it found into `self.found`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.scale = TINY if arguments.tiny else Scale()
        self.folder = Path(arguments.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        seed = arguments.seed
        self.test = sample_prompts(self.scale.test_prompts, 7000 + seed, "test")
        self.train = sample_prompts(self.scale.train_prompts, 3000 + seed, "train")
        self.gold: dict[str, list[float]] = {}
        self.found: dict[str, Any] = {
            "seed": seed,
            "seconds": arguments.seconds,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
            "scale": asdict(self.scale),
            "arms": {},
            "curves": {},
        }

    def load(self) -> VideoGenerator:
        """A fresh copy of the base model."""
        if self.arguments.model == "tiny":
            from generator.testing import tiny_generator

            return tiny_generator()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_generator(self.arguments.model, device=device)

    @property
    def size(self) -> dict[str, int]:
        a = self.arguments
        return {"num_frames": a.num_frames, "height": a.height, "width": a.width}

    def common(self, name: str) -> dict[str, Any]:
        return {
            "output_dir": str(self.folder / name),
            "seed": self.arguments.seed,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
        }

    def seconds(self, share: float) -> float:
        return share * self.arguments.seconds

    # Arms

    def measure(self, name: str, generator: VideoGenerator, **more: Any) -> None:
        """The gold scores of the held-out prompts, with the same noise for every model."""
        start = time.perf_counter()
        latents = self.sample(generator, self.test, 50_000)
        self.gold[name] = gold_scores(generator, latents, self.test, self.scale.batch)
        mean = cluster_bootstrap(self.gold[name], self.test)
        entry = {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": len(self.test), **more}
        if name != "base":
            difference = paired_difference(self.gold[name], self.gold["base"], self.test)
            entry["difference_to_base"] = interval_of(difference)
        if name not in ("base", "sft") and "sft" in self.gold:
            difference = paired_difference(self.gold[name], self.gold["sft"], self.test)
            entry["difference_to_sft"] = interval_of(difference)
        self.found["arms"][name] = entry
        spent = time.perf_counter() - start
        print(
            f"{name}: gold {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}], measured in {spent:.0f} s",
            flush=True,
        )
        self.write()

    def sample(self, generator: VideoGenerator, prompts: Sequence[str], seed: int) -> Tensor:
        return generate_latents(
            generator, prompts, **self.size, num_inference_steps=self.scale.num_inference_steps, seed=seed,
            batch_size=4 * self.scale.batch,
        )  # fmt: skip

    def sft(self, seconds: float) -> None:
        """Supervised fine-tuning on rendered clips."""
        prompts = sample_prompts(self.scale.demonstrations, 1000 + self.arguments.seed, "train")
        scenes = sample_scenes([parse(p) for p in prompts], self.arguments.seed, **self.size, fps=FPS)
        clips = render_scenes(scenes, **self.size, fps=FPS)
        generator = self.load()
        latents = torch.cat([generator.encode(part.to(generator.device)).cpu() for part in clips.split(64)])
        config = SFTConfig(
            **self.common("sft"), max_steps=100_000, per_device_train_batch_size=self.scale.batch,
            learning_rate=3e-4, lr_scheduler_type="constant", caption_dropout=0.0, ema_decay=0.99,
        )  # fmt: skip
        trainer = SFTTrainer(
            generator, config, list(latents), prompts, lora=self.lora, callbacks=[TimeLimit(seconds)]
        )
        trainer.train()
        assert trainer.ema is not None
        with trainer.ema.swapped():
            self.measure("sft", generator, steps=trainer.state.global_step)

    @property
    def lora(self) -> LoraArguments:
        return LoraArguments(lora_r=self.arguments.lora_r)

    def ppo(
        self, name: str, reward: RewardModel, seconds: float, measured: bool = True, **changes: Any
    ) -> PPOTrainer:
        """PPO from the base; the gold score of a part of each rollout is logged, whatever the reward is."""
        scale, generator = self.scale, self.load()
        settings = {
            "num_rollouts": 100_000, "num_prompts": scale.num_prompts, "num_generations": scale.num_generations,
            "num_inference_steps": scale.num_inference_steps, "rollout_batch_size": 1024,
            "reward_batch_size": 256, "per_device_train_batch_size": scale.rows, "num_mini_batches": 2,
            "learning_rate": self.arguments.learning_rate, "beta": 0.0, "step_weight": "balanced",
            "sde_window_size": min(4, scale.num_inference_steps - 1), "monitor_videos": 0,
        }  # fmt: skip
        config = PPOConfig(**self.common(name), **self.size, **settings | changes)
        monitors = [] if isinstance(reward, WorldReward) else [self.gold_monitor(generator)]
        trainer = PPOTrainer(
            generator, config, self.train, reward, lora=self.lora, monitors=monitors,
            callbacks=[TimeLimit(seconds)],
        )  # fmt: skip
        trainer.train()
        history = [e for e in trainer.state.log_history if "reward" in e]
        self.found["curves"][name] = {
            key: [e[key] for e in history]
            for key in ("reward", "gold", "kl", "clip_ratio")
            if key in history[0]
        }
        if measured:
            rollouts = len(history)
            self.measure(name, generator, rollouts=rollouts, kl=history[-1].get("kl"))
        return trainer

    def gold_monitor(self, generator: VideoGenerator) -> Callable[[Rollout], dict[str, float]]:
        def monitor(rollout: Rollout) -> dict[str, float]:
            count = len(rollout.prompts)
            chosen = torch.linspace(0, count - 1, min(self.scale.batch, count)).long()
            latents = rollout.trajectories.final[chosen.to(rollout.rewards.device)]
            scores = gold_scores(
                generator, latents, [rollout.prompts[i] for i in chosen.tolist()], len(chosen)
            )
            return {"gold": sum(scores) / len(scores)}

        return monitor

    def rankings(self) -> tuple[list[Ranking], dict[Path, Tensor]]:
        """Simulated annotators rank videos of the base model; latents by the path that stands for a video."""
        scale, seed = self.scale, self.arguments.seed
        generator = self.load()
        prompts = sample_prompts(scale.ranked_prompts, 2000 + seed, "train")
        repeated = [prompt for prompt in prompts for _ in range(scale.candidates)]
        latents = self.sample(generator, repeated, 10_000)
        gold = np.array(gold_scores(generator, latents, repeated, scale.batch)).reshape(len(prompts), -1)
        paths = [Path(f"{index}.mp4") for index in range(len(repeated))]
        noise = np.random.default_rng(seed)
        rankings = []
        for row, prompt in enumerate(prompts):
            videos = paths[row * scale.candidates : (row + 1) * scale.candidates]
            for person in sample_annotators(scale.annotators, seed):
                perceived = gold[row] + person.leniency + person.noise * noise.standard_normal(len(videos))
                ranks = ranks_from_perceived(perceived, person.tie_threshold)
                rankings.append(Ranking(prompt, videos, ranks, annotator=person.name))
        self.found["rankings"] = len(rankings)
        return rankings, dict(zip(paths, latents))

    def reward(self, rankings: list[Ranking], latents: dict[Path, Tensor]) -> RewardModel:
        config = RewardConfig(
            output_dir=str(self.folder / "reward"), seed=self.arguments.seed, report_to="none",
            num_train_epochs=self.scale.reward_epochs, disable_tqdm=True, **self.size,
            implicit_evidence=self.arguments.implicit_evidence, encode_batch_size=self.scale.batch,
        )  # fmt: skip
        model, metrics = train_reward_model(self.load(), rankings, config, latents=latents)
        self.found["reward_metrics"] = metrics
        return model

    def dpo(
        self, name: str, rankings: list[Ranking], latents: dict[Path, Tensor], seconds: float, loss: str
    ) -> None:
        """DPO on the same rankings: all untied pairs, or whole rankings."""
        generator = self.load()
        config = DPOConfig(
            **self.common(name), max_steps=100_000, per_device_train_batch_size=self.scale.batch // 2,
            learning_rate=1e-4, lr_scheduler_type="constant", beta=self.arguments.dpo_beta, loss_type=loss,
        )  # fmt: skip
        more: dict[str, Any] = {"lora": self.lora, "callbacks": [TimeLimit(seconds)]}
        if loss in ("sigmoid", "ipo"):
            pairs = [
                (ranking.prompt, ranking.videos[i], ranking.videos[j])
                for ranking in rankings
                for i in range(len(ranking.videos))
                for j in range(len(ranking.videos))
                if ranking.ranks[i] < ranking.ranks[j]
            ]
            prompts, chosen, rejected = zip(*pairs)
            trainer: RankingDPOTrainer = DPOTrainer(
                generator,
                config,
                [latents[v] for v in chosen],
                [latents[v] for v in rejected],
                prompts,
                **more,
            )
        else:
            used = [r for r in rankings if r.has_order or loss == "rao_kupper"]
            trainer = RankingDPOTrainer(
                generator, config, [[latents[v] for v in r.videos] for r in used], [r.ranks for r in used],
                [r.prompt for r in used], **more,
            )  # fmt: skip
        trainer.train()
        last = [e for e in trainer.state.log_history if "rewards/accuracies" in e][-5:]
        accuracy = sum(e["rewards/accuracies"] for e in last) / len(last)
        self.measure(name, generator, steps=trainer.state.global_step, train_accuracy=accuracy)

    # What is run

    def run(self) -> None:
        parts = self.arguments.part
        self.measure("base", self.load())
        if "gold" in parts:
            self.sft(self.seconds(0.1 if "proxy" in parts else 0.2))
            self.ppo("ppo-gold", WorldReward(), self.seconds(0.25 if "proxy" in parts else 0.6))
        if "proxy" in parts:
            rankings, latents = self.rankings()
            reward = self.reward(rankings, latents)
            self.dpo("dpo", rankings, latents, self.seconds(0.1), self.arguments.dpo_loss)
            betas = self.arguments.betas
            for beta in betas:
                self.ppo(f"ppo-proxy-beta-{beta:g}", reward, self.seconds(0.4 / len(betas)), beta=beta)
            self.over_optimisation()
        if "ablations" in parts:
            self.ablations()
        self.write()

    def ablations(self) -> None:
        """One setting changed at a time, equal seconds each."""
        changes: dict[str, dict[str, Any]] = {
            "default": {},
            "kernel dance_sde": {"sde_kernel": "dance_sde"},
            "kernel cps": {"sde_kernel": "cps"},
            "step weight none": {"step_weight": "none"},
            "step weight inverse_std": {"step_weight": "inverse_std"},
            "group of a quarter": {
                "num_generations": max(2, self.scale.num_generations // 4),
                "num_prompts": self.scale.num_prompts * self.scale.num_generations
                // max(2, self.scale.num_generations // 4),
            },
            "critic": {"advantage": "critic"},
        }  # fmt: skip
        rankings, latents = self.rankings()
        losses = ("sigmoid", "plackett_luce", "rao_kupper")
        share = 1 / (len(changes) + len(losses))
        for name, change in changes.items():
            self.ppo(f"ablation: {name}", WorldReward(), self.seconds(share), **change)
        for loss in losses:
            self.dpo(f"ablation: dpo {loss}", rankings, latents, self.seconds(share), loss)

    def over_optimisation(self) -> None:
        """Gold and proxy against √KL for each coefficient, and where early stopping at a target would stop."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), sharex=True)
        target = self.arguments.target_kl
        chosen = {}
        for name, curve in self.found["curves"].items():
            if not name.startswith("ppo-proxy"):
                continue
            distance = np.sqrt(np.maximum(curve["kl"], 0))
            for axis, key in zip(axes, ("reward", "gold")):
                axis.plot(distance, smooth(curve[key]), label=name.removeprefix("ppo-proxy-"))
            stopped = next((i for i, kl in enumerate(curve["kl"]) if kl > target), len(distance) - 1)
            gold = smooth(curve["gold"])
            chosen[name] = {
                "rollout": stopped,
                "root_kl": float(distance[stopped]),
                "gold": gold[stopped],
                "gold_at_end": gold[-1],
                "best_gold": max(gold),
                "root_kl_of_best": float(distance[int(np.argmax(gold))]),
            }
        for axis, title in zip(axes, ("proxy (reward model)", "gold (verifier)")):
            axis.axvline(math.sqrt(target), color="grey", linestyle=":", label="early stop")
            axis.set(title=title, xlabel="√KL a latent element")
        axes[0].legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(self.folder / FIGURE, dpi=150)
        pyplot.close(figure)
        self.found["early_stopping"] = {"target_kl": target, "chosen": chosen}

    def write(self) -> None:
        write_json(self.folder / "study.json", {**self.found, "gold": self.gold})
        write_text(self.folder / "study.md", table(self.found["arms"]))


def smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running means over up to `width` values."""
    return [float(np.mean(values[max(0, i - width + 1) : i + 1])) for i in range(len(values))]


def table(arms: dict[str, Any]) -> str:
    """The arms as Markdown."""

    def interval(value: Any) -> str:
        return "–" if value is None else f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"

    lines = ["| arm | gold | − base | − SFT | length |", "|---|---|---|---|---|"]
    for name, arm in arms.items():
        length = (arm.get("rollouts") and f"{arm['rollouts']} rollouts") or f"{arm.get('steps', 0)} steps"
        gold = f"{arm['mean']:.3f} [{arm['low']:.3f}, {arm['high']:.3f}]"
        differences = [interval(arm.get(key)) for key in ("difference_to_base", "difference_to_sft")]
        lines.append(f"| {name} | {gold} | {' | '.join(differences)} | {length} |")
    return "\n".join(lines) + "\n"


def merge(folders: Sequence[str]) -> str:
    """Several seeds as Markdown: the mean over seeds, and the lowest and highest."""
    studies = [json.loads((Path(folder) / "study.json").read_text(encoding="utf-8")) for folder in folders]
    lines = ["| arm | seeds | gold | − base, mean | − base, of each seed |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(name for study in studies for name in study["arms"]):
        arms = [study["arms"][name] for study in studies if name in study["arms"]]
        differences = [arm["difference_to_base"][0] for arm in arms if "difference_to_base" in arm]
        mean = f"{np.mean(differences):+.3f}" if differences else "–"
        each = ", ".join(f"{d:+.3f}" for d in differences) or "–"
        gold = np.mean([arm["mean"] for arm in arms])
        lines.append(f"| {name} | {len(arms)} | {gold:.3f} | {mean} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="runs/study")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seconds", type=float, default=300.0, help="of all trainings together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", nargs="+", default=["gold", "proxy"], choices=["gold", "proxy", "ablations"]
    )
    parser.add_argument("--betas", nargs="+", type=float, default=[0.0, 0.3, 3.0])
    parser.add_argument("--target_kl", type=float, default=0.005, help="where early stopping would stop")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--lora_r", type=int, default=32)
    parser.add_argument("--dpo_beta", type=float, default=200.0)
    parser.add_argument("--dpo_loss", default="plackett_luce")
    parser.add_argument("--implicit_evidence", action="store_true")
    parser.add_argument("--num_frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="sizes that run in seconds and prove nothing")
    parser.add_argument("--merge", nargs="+", help="folders of finished seeds: prints their table")
    arguments = parser.parse_args()
    if arguments.merge:
        print(merge(arguments.merge), end="")
        return
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    study = Study(arguments)
    study.run()
    print(table(study.found["arms"]), end="")


if __name__ == "__main__":
    main()
