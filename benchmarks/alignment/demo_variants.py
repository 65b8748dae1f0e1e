"""Worth of the settings of the demo's trainings: variants of each, over several seeds, on held-out prompts.

    python -m benchmarks.alignment.demo_variants --output_dir runs/variants --seeds 0 1 2 3 4 5 --workers 15

For each seed the demo's own stages make demonstrations, SFT adapter, candidates and rankings once. Every variant then
trains from them with some settings changed, and its gold adherence is measured on held-out prompts that the demo does
not use, with the same noise for all. Trainings run in parallel processes, which share the GPU if there is one. Results
are kept in `variants.jsonl` after each training, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import read_jsonl

PAIRS = {"loss_type": "sigmoid", "per_device_train_batch_size": 8}
FIRST_NOISE, FIRST_PROMPTS = 50_000, 777


@dataclass(frozen=True)
class Variant:
    """A training with some settings changed.

    Attributes:
        stage: sft, dpo, reward or ppo.
        name: what it is called in the table, once in each stage.
        changes: arguments of the stage's configuration; for `dpo` also `merge_annotators`.
        reward: for `ppo` the reward variant to optimise, or `world` for the gold score itself.
    """

    stage: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    reward: str = "as in the demo"

    @property
    def folder(self) -> str:
        return f"{self.stage}-{''.join(c if c.isalnum() else '-' for c in self.name)}"


DEMO = "as in the demo"
ADAPTER = "nano-distilled"
"""Adapter that all variants begin with."""
VARIANTS = [
    Variant("sft", DEMO),
    Variant("sft", "half the learning rate", {"learning_rate": 1e-3}),
    Variant("sft", "guidance not kept", {"distill_guidance": None, "distill_demonstrations": False}),
    Variant("sft", "noise levels around 1 instead of 1.5", {"logit_mean": 1.0}),
    Variant("dpo", DEMO),
    Variant("dpo", "pairs", PAIRS),
    Variant("dpo", "beta 30", {"beta": 30.0}),
    Variant("dpo", "half the learning rate", {"learning_rate": 1e-3}),
    Variant("dpo", "half the learning rate, 120 steps", {"learning_rate": 1e-3, "max_steps": 120}),
    Variant("dpo", "120 steps", {"max_steps": 120}),
    Variant("reward", DEMO),
    Variant("reward", "one draw of noise", {"evidence_draws": 1}),
    Variant("reward", "four levels", {"evidence_sigmas": [0.6, 0.8, 0.9, 0.97]}),
    Variant("reward", "16 passes", {"num_train_epochs": 16}),
    Variant("ppo", DEMO),
    Variant("ppo", "20 rollouts", {"num_rollouts": 20}),
    Variant("ppo", "half the learning rate", {"learning_rate": 1e-3}),
    Variant("ppo", "noise level 1", {"noise_level": 1.0}),
    Variant("ppo", "inverse_std", {"step_weight": "inverse_std"}),
    Variant("ppo", "inverse_std, noise level 1", {"step_weight": "inverse_std", "noise_level": 1.0}),
    Variant("ppo", "CPS kernel", {"sde_kernel": "cps"}),
    Variant("ppo", "8 prompts × 4", {"num_prompts": 8, "num_generations": 4}),
    Variant("ppo", "on the gold score", reward="world"),
    Variant(
        "ppo",
        "on the gold score, inverse_std, noise level 1",
        {"step_weight": "inverse_std", "noise_level": 1.0},
        reward="world",
    ),
]


def demo_of(root: str, seed: int, scale: str) -> Any:
    """The demo of a seed, in its own folder."""
    from alignment.demo.demo import Demo
    from alignment.demo.scales import DemoConfig

    return Demo(
        DemoConfig(output_dir=str(Path(root) / f"seed-{seed}"), adapter=ADAPTER, seed=seed, scale=scale)
    )


def prepare(root: str, seed: int, scale: str, num_prompts: int) -> dict[str, Any]:
    """The stages that all variants start from, and the gold scores of base and SFT."""
    demo = demo_of(root, seed, scale)
    shutil.rmtree(demo.folder, ignore_errors=True)
    demo.folder.mkdir(parents=True)
    for stage in ("demonstrations", "sft", "candidates", "annotators"):
        getattr(demo, stage)()
    return {
        "base": gold_scores(demo, demo.config.adapter or None, num_prompts),
        "sft": gold_scores(demo, str(demo.folder / "sft"), num_prompts),
    }


def gold_scores(demo: Any, adapter: str | None, num_prompts: int) -> list[float]:
    """Gold score of one video of each held-out prompt, in float32 on every device."""
    import torch

    from alignment.demo.settings import video_size
    from generator import load_generator
    from generator.world import sample_prompts, verify_batch

    generator = load_generator(demo.config.model, adapter=adapter, dtype=torch.float32)
    prompts = sample_prompts(num_prompts, FIRST_PROMPTS, "test")
    scores: list[float] = []
    for start in range(0, num_prompts, 128):
        batch = prompts[start : start + 128]
        videos = generator.generate(
            batch,
            **video_size(demo.scale),
            num_inference_steps=demo.scale.num_inference_steps,
            seed=[FIRST_NOISE + start + number for number in range(len(batch))],
            batch_size=len(batch),
        )
        judged = verify_batch(videos, batch, fps=generator.defaults.fps)
        scores += [adherence.score for adherence in judged]
    return scores


def train(root: str, seed: int, scale: str, num_prompts: int, variant: Variant) -> dict[str, Any]:
    """Trains a variant and measures it: gold scores of a policy, held-out accuracy of a reward model."""
    from alignment.demo.settings import dpo_settings, ppo_settings, sft_settings
    from alignment.lora import LoraArguments
    from alignment.stages.arguments import GeneratorArguments
    from alignment.stages.dpo import DPOArguments, train_dpo
    from alignment.stages.on_rewards import train_ppo
    from alignment.stages.sft import train_sft
    from alignment.trainers.dpo_config import DPOConfig
    from alignment.trainers.ppo_config import PPOConfig
    from alignment.trainers.sft_config import SFTConfig

    demo = demo_of(root, seed, scale)
    folder, changes = demo.folder / variant.folder, dict(variant.changes)
    shutil.rmtree(folder, ignore_errors=True)
    if variant.stage == "reward":
        return {"accuracy": reward_accuracy(demo, folder, changes)}
    common = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": ["none"],
    }
    model, lora = demo.config.model, LoraArguments(lora_r=16)
    start = GeneratorArguments(model=model, adapter=[str(demo.folder / "sft")])
    if variant.stage == "sft":
        config = SFTConfig(**common, **{**sft_settings(demo.scale, bool(demo.config.adapter)), **changes})
        base = GeneratorArguments(model=model, adapter=[demo.config.adapter] if demo.config.adapter else None)
        train_sft(base, demo.folder / "demonstrations", args=config, lora=lora)
    elif variant.stage == "dpo":
        merge = changes.pop("merge_annotators", True)
        rankings = DPOArguments(preferences=str(demo.folder / "rankings.jsonl"), merge_annotators=merge)
        dpo_config = DPOConfig(**common, **{**dpo_settings(demo.scale), **changes})
        train_dpo(start, rankings, args=dpo_config, lora=lora)
    else:
        reward = "world" if variant.reward == "world" else Variant("reward", variant.reward).folder
        judge = reward if reward == "world" else str(demo.folder / reward)
        ppo_config = PPOConfig(**common, **{**ppo_settings(demo.scale), **changes})
        train_ppo(start, write_prompts(demo, folder), judge, args=ppo_config, lora=lora)
    return {"scores": gold_scores(demo, str(folder), num_prompts)}


def write_prompts(demo: Any, folder: Path) -> Path:
    """The prompts of PPO, as the demo draws them."""
    from generator.output import write_jsonl
    from generator.world import sample_prompts

    prompts = sample_prompts(demo.scale.num_ppo_prompts, 3000 + demo.config.seed, "train")
    path = folder.with_suffix(".jsonl")
    write_jsonl(path, [{"prompt": prompt} for prompt in prompts])
    return path


def reward_accuracy(demo: Any, folder: Path, changes: dict[str, Any]) -> float:
    """Trains a reward model and returns its pair accuracy on its held-out prompts."""
    import torch

    from alignment.demo.settings import reward_settings
    from generator import load_generator
    from reward.preferences import read_rankings
    from reward.training.reward_config import RewardConfig
    from reward.training.train import train_reward_model

    adapter, rankings = str(demo.folder / "sft"), demo.folder / "rankings.jsonl"
    config = RewardConfig(
        output_dir=str(folder),
        seed=demo.config.seed,
        disable_tqdm=True,
        report_to="none",
        **{**reward_settings(demo.scale), **changes},
    )
    _, metrics = train_reward_model(
        load_generator(demo.config.model, adapter=adapter, dtype=torch.float32),
        read_rankings(rankings),
        config,
        trunk_adapter=adapter,
        source=rankings,
    )
    return float(metrics["overall"]["held_out"]["accuracy"]["mean"])


def job(root: str, seed: int, scale: str, num_prompts: int, variant: Variant | None) -> dict[str, Any]:
    """One row of `variants.jsonl`."""
    import torch

    torch.set_num_threads(1)
    row: dict[str, Any] = {"seed": seed, "stage": variant.stage if variant else "start"}
    if variant is not None:
        row["name"] = variant.name
    try:
        found = (
            train(root, seed, scale, num_prompts, variant)
            if variant
            else prepare(root, seed, scale, num_prompts)
        )
    except Exception:  # a variant that fails is a row of its own; the others go on
        return {**row, "error": traceback.format_exc()}
    return {**row, **found}


def run(root: Path, seeds: list[int], scale: str, num_prompts: int, workers: int, stages: list[str]) -> None:
    """Runs what is missing in `variants.jsonl`; a variant waits for what it starts from."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "variants.jsonl"
    rows = [row for _, row in read_jsonl(path)] if path.is_file() else []
    done = {(row["seed"], row["stage"], row.get("name")) for row in rows if "error" not in row}
    wanted: list[tuple[int, Variant | None]] = [(seed, None) for seed in seeds]
    wanted += [(seed, v) for v in VARIANTS if v.stage in stages for seed in seeds]

    def key(seed: int, variant: Variant | None) -> tuple[int, str, str | None]:
        return (seed, variant.stage, variant.name) if variant else (seed, "start", None)

    def ready(seed: int, variant: Variant | None) -> bool:
        if variant is None:
            return True
        needs_reward = variant.stage == "ppo" and variant.reward != "world"
        reward = (seed, "reward", variant.reward)
        return (seed, "start", None) in done and (not needs_reward or reward in done)

    todo = [item for item in wanted if key(*item) not in done]
    running: dict[Future[dict[str, Any]], tuple[int, Variant | None]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, path.open("a") as file:
        while todo or running:
            for item in [item for item in todo if ready(*item)][: workers - len(running)]:
                todo.remove(item)
                running[pool.submit(job, str(root), item[0], scale, num_prompts, item[1])] = item
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                item = running.pop(future)
                row = future.result()
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{item[0]} {row['stage']} {row.get('name', '')}", row.get("error", "done"), flush=True)
                if "error" not in row:
                    done.add(key(*item))


def table(root: Path) -> str:
    """Mean gains over the seeds, with the smallest and the standard error between seeds."""
    rows = [row for _, row in read_jsonl(root / "variants.jsonl")]
    rows = [row for row in rows if "error" not in row]
    start = {row["seed"]: row for row in rows if row["stage"] == "start"}
    lines = [
        "| stage | variant | seeds | gain over base, mean ± standard error | lowest | gain over SFT |",
        "|---|---|---|---|---|---|",
    ]
    accuracies = ["| reward model | seeds | held-out pair accuracy |", "|---|---|---|"]
    for variant in VARIANTS:
        own = [row for row in rows if (row["stage"], row.get("name")) == (variant.stage, variant.name)]
        if not own:
            continue
        if variant.stage == "reward":
            accuracy = statistics.mean(row["accuracy"] for row in own)
            accuracies.append(f"| {variant.name} | {len(own)} | {accuracy:.3f} |")
            continue
        gains = {
            of: [statistics.mean(row["scores"]) - statistics.mean(start[row["seed"]][of]) for row in own]
            for of in ("base", "sft")
        }
        base = gains["base"]
        error = statistics.stdev(base) / math.sqrt(len(base)) if len(base) > 1 else math.nan
        over_sft = "–" if variant.stage == "sft" else f"{statistics.mean(gains['sft']):+.3f}"
        lines.append(
            f"| {variant.stage} | {variant.name} | {len(own)} | {statistics.mean(base):+.3f} ± {error:.3f} | "
            f"{min(base):+.3f} | {over_sft} |"
        )
    return "\n".join([*lines, "", *accuracies] if len(accuracies) > 2 else lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--scale", default="cpu", choices=["cpu", "gpu", "smoke"], help="Scale, as in the demo."
    )
    parser.add_argument("--num_prompts", type=int, default=384, help="Held-out prompts, one video each.")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument(
        "--only", nargs="+", default=["sft", "dpo", "reward", "ppo"], choices=["sft", "dpo", "reward", "ppo"]
    )
    arguments = parser.parse_args()
    run(
        arguments.output_dir,
        arguments.seeds,
        arguments.scale,
        arguments.num_prompts,
        arguments.workers,
        arguments.only,
    )
    print(table(arguments.output_dir))


if __name__ == "__main__":
    main()
