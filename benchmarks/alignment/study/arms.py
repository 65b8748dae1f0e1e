"""Trainings and measurements of the study (`run.py`); each is one call in a process of its own.

Every call appends what it found to `study.jsonl` as soon as it knows it, so that nothing is lost when it is killed:
rows with `scores` are measurements on the held-out prompts, rows with `curve` the course of a training.
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from alignment.lora import LoraArguments
from alignment.rollouts.rollout import Rollout
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.study.settings import (
    ALL_LINEAR,
    FPS,
    SCALES,
    SIZE,
    Scale,
    Settings,
    dpo_settings,
    ppo_settings,
    reward_settings,
    rows_that_fit,
    sft_settings,
    taught_reward_settings,
)
from generator import load_generator
from generator.base import VideoGenerator
from generator.provenance import fingerprint
from generator.sampling import generate_latents
from generator.world import render_scenes, sample_prompts, training_batch, verify_batch
from labeling_app.simulate import ranks_from_perceived, sample_annotators
from reward import load_reward
from reward.models.base import RewardModel, WorldReward
from reward.preferences import Ranking, merge_annotators
from reward.training.reward_config import RewardConfig
from reward.training.train import train_reward_model

SFT_LORA = LoraArguments(lora_r=32, lora_target_modules=ALL_LINEAR)
CURVES = {"reward": "reward", "gold": "gold", "kl": "kl", "clip_ratio": "clip_ratio"}


class Budget(TrainerCallback):
    """A constant learning rate becomes half a cosine over `seconds` of training, after a short warm-up; then training
    stops. Says how it goes every ten seconds.

    Args:
        deadline: `time.time()` at which training stops whatever its budget.
    """

    def __init__(self, name: str, seconds: float, deadline: float, falling: bool = True) -> None:
        self.name, self.seconds, self.deadline, self.falling = name, seconds, deadline, falling
        self.rates: list[float] = []
        self.start = self.said = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.start = time.time()
        self.seconds = max(1.0, min(self.seconds, self.deadline - self.start))

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if not self.falling or optimizer is None:
            return
        groups = optimizer.param_groups
        self.rates = self.rates or [group["lr"] for group in groups]
        share = min(1.0, (time.time() - self.start) / self.seconds)
        factor = min(1.0, (state.global_step + 1) / 5) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)
        for group, rate in zip(groups, self.rates):
            group["lr"] = rate * factor

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.time() - self.start >= self.seconds:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if time.time() - self.said > 10 and logs:
            self.said = time.time()
            names = ("reward", "gold", "kl", "loss", "grad_norm", "clip_ratio", "ratio/deviation")
            numbers = ", ".join(f"{key} {float(logs[key]):.4g}" for key in names if key in logs)
            print(
                f"{self.name}: step {state.global_step}, {self.said - self.start:.0f} s, {numbers}",
                flush=True,
            )


class Curve(TrainerCallback):
    """Remembers the logs of rollouts, and hands them to `write` every 20 seconds and at the end."""

    def __init__(self, write: Callable[[dict[str, list[float]]], None]) -> None:
        self.write = write
        self.values: dict[str, list[float]] = {}
        self.start = self.written = time.time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = self.written = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "reward" not in logs:
            return
        self.values.setdefault("seconds", []).append(round(time.time() - self.start, 1))
        for name, key in CURVES.items():
            if key in logs:
                self.values.setdefault(name, []).append(round(float(logs[key]), 6))
        if time.time() - self.written > 20:
            self.written = time.time()
            self.write(self.values)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write(self.values)


@dataclass(frozen=True)
class Seed:
    """One seed of the study.

    Attributes:
        results: the file that all processes append to.
        work: folder for adapters, rankings and reward models.
        deadline: `time.time()` at which every training stops.
        workers: processes that share the GPU.
        rows: rows of a PPO micro-batch; 0: what fits.
        guidance: guidance scales at which models are measured; the first is that of the figures.
    """

    seed: int
    scale_name: str
    results: Path
    work: Path
    model: str
    deadline: float
    workers: int
    rows: int
    guidance: tuple[float, ...]

    @property
    def scale(self) -> Scale:
        return SCALES[self.scale_name]

    @property
    def folder(self) -> Path:
        return self.work / f"seed-{self.seed}"

    def load(self, adapter: Path | None = None) -> VideoGenerator:
        return load_generator(self.model, adapter=adapter)

    def prompts(self, count: int, stream: int, split: str = "train") -> list[str]:
        return sample_prompts(count, 1000 * stream + self.seed, split)

    def add(self, **row: Any) -> None:
        """Appends a row; one write, so that rows of several processes do not mix."""
        line = json.dumps({"seed": self.seed, **row}, ensure_ascii=False) + "\n"
        handle = os.open(self.results, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def common(self, name: str) -> Settings:
        folder = self.folder / "".join(c if c.isalnum() else "-" for c in name)
        return {
            "output_dir": str(folder),
            "seed": self.seed,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
            "lr_scheduler_type": "constant",
        }


def gold_scores(
    generator: VideoGenerator, latents: Tensor, prompts: Sequence[str], batch: int
) -> list[float]:
    """Gold score of each of the latents `[n, C, F, H, W]`."""
    scores: list[float] = []
    for start in range(0, len(latents), batch):
        videos = generator.decode(latents[start : start + batch].to(generator.device))
        scores += [a.score for a in verify_batch(videos, prompts[start : start + batch], fps=FPS)]
    return scores


def sample(
    job: Seed, generator: VideoGenerator, prompts: Sequence[str], seed: int, guidance: float = 1.0
) -> Tensor:
    return generate_latents(
        generator,
        prompts,
        **SIZE,
        num_inference_steps=job.scale.num_inference_steps,
        guidance_scale=guidance,
        seed=seed,
        batch_size=job.scale.batch,
    )


@torch.no_grad()
def measure(job: Seed, arm: str, generator: VideoGenerator, **more: Any) -> None:
    """Gold scores on the held-out prompts, of `tune` on others; all models get the same noise."""
    stream, split = (8, "train") if arm.startswith("tune") else (7, "test")
    prompts = job.prompts(job.scale.test_prompts, stream, split)
    for guidance in job.guidance:
        latents = sample(job, generator, prompts, 50_000, guidance)
        scores = gold_scores(generator, latents, prompts, job.scale.batch)
        job.add(arm=arm, guidance=guidance, scores=[round(score, 4) for score in scores], **more)
        print(
            f"{arm}, seed {job.seed}, guidance {guidance:g}: gold {sum(scores) / len(scores):.3f}", flush=True
        )


def adapter_of(job: Seed, start: str) -> Path | None:
    return None if start == "base" else job.folder / "sft"


def train(trainer: Any) -> float:
    """Trains without printing every log; returns the seconds."""
    trainer.remove_callback(PrinterCallback)
    begun = time.time()
    trainer.train()
    return round(time.time() - begun, 1)


# Jobs


def sft(job: Seed, seconds: float) -> None:
    """Measures the base, fine-tunes it on rendered clips, and measures that."""
    scale = job.scale
    generator = job.load()
    measure(job, "base", generator)
    # Of prompts that fit into the size, which those of the other arms need not.
    prompts, scenes, _ = training_batch(scale.demonstrations, 1000 + job.seed, "train", **SIZE, fps=FPS)
    clips = render_scenes(scenes, **SIZE, fps=FPS)
    latents = [generator.encode(part.to(generator.device)).cpu() for part in clips.split(scale.batch)]
    settings = sft_settings(scale)
    falling = job.scale_name == "gpu"  # its time ends before its steps do
    if not falling:
        settings |= {"lr_scheduler_type": "cosine", "warmup_steps": 5}
    config = SFTConfig(**job.common("sft") | settings)
    budget = Budget(f"sft, seed {job.seed}", seconds, job.deadline, falling)
    trainer = SFTTrainer(
        generator, config, list(torch.cat(latents)), prompts, lora=SFT_LORA, callbacks=[budget]
    )
    spent = train(trainer)
    trainer.save_model()
    measure(job, "sft", generator, steps=trainer.state.global_step, seconds=spent)


def ppo(
    job: Seed, arm: str, seconds: float, reward: str = "world", start: str = "sft", **changes: Any
) -> None:
    """PPO on the gold score (`world`), the seed's reward model (`proxy`) or any other reward, by its name or folder;
    gold is logged whatever the reward is."""
    generator = job.load(adapter_of(job, start))
    name = str(job.folder / "reward") if reward == "proxy" else reward
    judge: RewardModel = WorldReward() if reward == "world" else load_reward(name)
    guided = changes.get("guidance_scale", 1.0) != 1
    settings = ppo_settings(job.scale, max(1, job.rows // (2 if guided else 1)))
    settings |= {"monitor_kl": reward != "world"} | changes
    lora = LoraArguments(
        lora_r=settings.pop("lora_r", 32), lora_target_modules=settings.pop("lora_target_modules", None)
    )
    config = PPOConfig(**job.common(arm) | settings)
    curve = Curve(lambda values: job.add(arm=arm, curve=values, settings=changes))
    trainer = PPOTrainer(
        generator,
        config,
        job.prompts(job.scale.train_prompts, 3),
        judge,
        lora=lora,
        monitors=[] if reward == "world" else [GoldMonitor(generator, job.scale.batch // 4)],
        callbacks=[Budget(f"{arm}, seed {job.seed}", seconds, job.deadline), curve],
    )
    spent = train(trainer)
    trainer.save_model()
    videos = len(curve.values["reward"]) * config.num_prompts * config.num_generations
    measure(job, arm, generator, videos=videos, seconds=spent, settings=changes)


class GoldMonitor:
    """The gold score of some videos of each rollout, spread over its prompts, which PPO does not see."""

    def __init__(self, generator: VideoGenerator, count: int) -> None:
        self.generator, self.count = generator, max(1, count)

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> dict[str, float]:
        number = len(rollout.prompts)
        chosen = torch.linspace(0, number - 1, min(self.count, number)).long().tolist()
        latents = rollout.trajectories.final[chosen]
        scores = gold_scores(self.generator, latents, [rollout.prompts[i] for i in chosen], len(chosen))
        return {"gold": sum(scores) / len(scores)}


def rankings(job: Seed, start: str = "sft", guidance: float = 1.0) -> None:
    """Simulated annotators rank videos of the model that the trainings start from, sampled with `guidance`."""
    scale, noise = job.scale, np.random.default_rng(job.seed)
    generator = job.load(adapter_of(job, start))
    prompts = job.prompts(scale.ranked_prompts, 2)
    repeated = [prompt for prompt in prompts for _ in range(scale.candidates)]
    latents = sample(job, generator, repeated, 10_000, guidance)
    gold = np.array(gold_scores(generator, latents, repeated, scale.batch)).reshape(len(prompts), -1)
    people = sample_annotators(scale.annotators, job.seed)
    ranked = []
    for row, prompt in enumerate(prompts):
        videos = [
            Path(f"{number}.mp4") for number in range(row * scale.candidates, (row + 1) * scale.candidates)
        ]
        for person in people:
            perceived = gold[row] + person.leniency + person.noise * noise.standard_normal(len(videos))
            ranks = ranks_from_perceived(perceived, person.tie_threshold)
            ranked.append(Ranking(prompt, videos, ranks, annotator=person.name))
    torch.save({"rankings": ranked, "latents": latents}, job.folder / "rankings.pt")
    job.add(
        rankings=len(ranked),
        candidates=scale.candidates,
        gold=float(gold.mean()),
        annotators=[asdict(p) for p in people],
    )


def read_rankings(job: Seed) -> tuple[list[Ranking], dict[Path, Tensor]]:
    found = torch.load(job.folder / "rankings.pt", weights_only=False)
    return found["rankings"], {
        Path(f"{number}.mp4"): latents for number, latents in enumerate(found["latents"])
    }


def reward(job: Seed, start: str = "sft", weights_from: str = "", trunk: str = "", **changes: Any) -> None:
    """A reward model on the seed's rankings, its trunk being the model that the trainings start from; or one that
    near misses have taught (`benchmarks.reward.accuracy.run --save_pretrained`), which learns on, on the generator
    `trunk` if that is not the job's.

    Raises:
        ValueError: `trunk` has another autoencoder, so that the rankings' latents are not its own.
    """
    ranked, latents = read_rankings(job)
    adapter = None if weights_from else adapter_of(job, start)
    settings = taught_reward_settings(job.scale) if weights_from else reward_settings(job.scale)
    common = job.common("reward") | {"logging_steps": 1000, "lr_scheduler_type": "cosine"}
    config = RewardConfig(**common | settings | changes)
    # Weights that are trained themselves need the precision of float32.
    dtype = torch.float32 if weights_from else None
    generator = load_generator(trunk or job.model, adapter=adapter, dtype=dtype)
    if trunk and fingerprint(generator.pipeline.vae) != fingerprint(job.load().pipeline.vae):
        raise ValueError(
            f"{trunk} and {job.model} have different autoencoders: name a generator with the same."
        )
    begun = time.time()
    _, metrics = train_reward_model(
        generator, ranked, config, trunk_adapter=adapter, latents=latents, weights_from=weights_from or None
    )
    held_out = metrics["overall"]["held_out"]["accuracy"]
    print(f"reward model, seed {job.seed}: {held_out['mean']:.3f} of the held-out pairs right", flush=True)
    job.add(
        reward_model=held_out,
        settings=changes,
        taught=bool(weights_from),
        seconds=round(time.time() - begun, 1),
    )


def dpo(job: Seed, arm: str, seconds: float, start: str = "sft", merge: bool = True, **changes: Any) -> None:
    """DPO on the rankings that the reward model learns from, merged over the annotators."""
    ranked, latents = read_rankings(job)
    loss = changes.get("loss_type", dpo_settings(job.scale)["loss_type"])
    used = [r for r in (merge_annotators(ranked) if merge else ranked) if r.has_order or loss == "rao_kupper"]
    generator = job.load(adapter_of(job, start))
    settings = dpo_settings(job.scale) | {"lr_scheduler_type": "cosine", "warmup_steps": 5} | changes
    config = DPOConfig(**job.common(arm) | settings)
    trainer = DPOTrainer(
        generator,
        config,
        [[latents[v] for v in r.videos] for r in used],
        [r.ranks for r in used],
        [r.prompt for r in used],
        lora=LoraArguments(lora_r=16),
        callbacks=[Budget(f"{arm}, seed {job.seed}", seconds, job.deadline, falling=False)],
    )
    spent = train(trainer)
    trainer.save_model()
    measure(
        job,
        arm,
        generator,
        steps=trainer.state.global_step,
        rankings=len(used),
        seconds=spent,
        settings=changes,
    )


JOBS: dict[str, Callable[..., None]] = {
    "sft": sft,
    "ppo": ppo,
    "rankings": rankings,
    "reward": reward,
    "dpo": dpo,
}


def run_job(job: Seed, kind: str, arguments: dict[str, Any]) -> None:
    """Runs a job in a worker process."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        gc.collect()  # what the job before held
        torch.cuda.empty_cache()
    job.folder.mkdir(parents=True, exist_ok=True)
    rows = job.rows or rows_that_fit(job.workers)
    while True:
        try:
            JOBS[kind](replace(job, rows=rows), **arguments)
            return
        except torch.OutOfMemoryError:
            if kind != "ppo" or rows <= 32:
                raise
        rows //= 2
        print(f"{arguments['arm']}, seed {job.seed}: out of memory, again with {rows} rows", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
