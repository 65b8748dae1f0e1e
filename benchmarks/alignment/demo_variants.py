"""Worth of the settings of the demo: themes, bases and variants of its trainings, on held-out prompts.

    python -m benchmarks.alignment.demo_variants --output_dir runs/variants --themes counts --seeds 0 1 2 --workers 15

For each theme, base and seed the demo's own stages make demonstrations, SFT adapter, candidates and rankings once.
Every variant then trains from them with some settings changed. All models make videos of held-out prompts that the demo
does not use, with the same noise, at each of the demo's guidance scales: gains are told with each model at its own best
scale. Trainings run in parallel processes, which share the GPU if there is one. Results are kept in `variants.jsonl`
after each training, so an interrupted run goes on where it stopped; `--seconds` ends one in time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.alignment.demo_grid import VARIANTS, Start, Variant
from generator.output import read_jsonl

FIRST_NOISE, FIRST_PROMPTS = 50_000, 777
Means = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """Starts and seeds that are run, each with all variants."""

    root: Path
    scale: str
    num_prompts: int
    starts: list[Start]
    seeds: list[int]
    variants: list[Variant]


def demo_of(plan: Plan, start: Start, seed: int) -> Any:
    """The demo of a seed, in its own folder."""
    from alignment.demo.demo import Demo
    from alignment.demo.scales import DemoConfig

    demo = Demo(
        DemoConfig(
            output_dir=str(plan.root / f"{start.name}-{seed}"),
            model=start.model,
            adapter=start.adapter,
            theme=start.theme,
            seed=seed,
            scale=plan.scale,
        )
    )
    demo.scale = replace(demo.scale, **start.changes)
    return demo


def prepare(plan: Plan, start: Start, seed: int) -> dict[str, Any]:
    """The stages that all variants start from, and the gold scores of base and SFT."""
    demo = demo_of(plan, start, seed)
    shutil.rmtree(demo.folder, ignore_errors=True)
    demo.folder.mkdir(parents=True)
    demo.demonstrations()
    fine_tune(demo, demo.folder / "sft", {})
    demo.candidates()
    found = demo.annotators()
    return {
        "candidates": found["gold"],
        "best_possible_accuracy": found["best_possible_accuracy"],
        "base": gold_scores(plan, demo, demo.config.adapter or None),
        "sft": gold_scores(plan, demo, str(demo.folder / "sft")),
        **({"alone": gold_scores(plan, demo, None)} if demo.config.adapter else {}),
    }


def gold_scores(plan: Plan, demo: Any, adapter: str | None) -> dict[str, list[float]]:
    """Gold scores of one video of each held-out prompt, by guidance scale; in float32 on every device."""
    import torch

    from alignment.demo.scales import GUIDANCE_SCALES
    from alignment.demo.settings import video_size
    from alignment.demo.themes import theme_prompts
    from generator import load_generator
    from generator.world import verify_batch

    generator = load_generator(demo.config.model, adapter=adapter, dtype=torch.float32)
    prompts = theme_prompts(demo.config.theme, plan.num_prompts, FIRST_PROMPTS, "test")
    found: dict[str, list[float]] = {}
    for guidance in GUIDANCE_SCALES:
        scores: list[float] = []
        for start in range(0, len(prompts), 128):
            batch = prompts[start : start + 128]
            videos = generator.generate(
                batch,
                **video_size(demo.scale),
                num_inference_steps=demo.scale.num_inference_steps,
                guidance_scale=guidance,
                seed=[FIRST_NOISE + start + number for number in range(len(batch))],
                batch_size=len(batch),
            )
            judged = verify_batch(videos.to(generator.device), batch, fps=generator.defaults.fps)
            scores += [round(adherence.score, 5) for adherence in judged]
        found[f"{guidance:g}"] = scores
    return found


def common(demo: Any, folder: Path) -> dict[str, Any]:
    """Arguments that all trainings of policies share."""
    return {
        "output_dir": str(folder),
        "seed": demo.config.seed,
        "data_seed": demo.config.seed,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": ["none"],
    }


def policy(demo: Any, adapter: str) -> Any:
    """The generator that a training begins with, in float32 on every device."""
    from alignment.stages.arguments import GeneratorArguments

    return GeneratorArguments(
        model=demo.config.model, adapter=[adapter] if adapter else None, dtype="float32"
    )


def fine_tune(demo: Any, folder: Path, changes: dict[str, Any]) -> None:
    """SFT on the demo's demonstrations."""
    from alignment.demo.settings import distilled_guidance, sft_settings
    from alignment.lora import LoraArguments
    from alignment.stages.sft import train_sft
    from alignment.trainers.sft_config import SFTConfig

    settings = {**sft_settings(demo.scale, distilled_guidance(demo.config.adapter)), **changes}
    train_sft(
        policy(demo, demo.config.adapter),
        demo.folder / "demonstrations",
        args=SFTConfig(**common(demo, folder), **settings),
        lora=LoraArguments(lora_r=16),
    )


def train(plan: Plan, start: Start, seed: int, variant: Variant) -> dict[str, Any]:
    """Trains a variant and measures it: gold scores of a policy, held-out accuracy of a reward model."""
    from alignment.demo.settings import dpo_settings, ppo_settings
    from alignment.lora import LoraArguments
    from alignment.stages.dpo import DPOArguments, train_dpo
    from alignment.stages.on_rewards import train_ppo
    from alignment.trainers.dpo_config import DPOConfig
    from alignment.trainers.ppo_config import PPOConfig

    demo = demo_of(plan, start, seed)
    folder, changes = demo.folder / variant.folder, dict(variant.changes)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    if variant.stage == "reward":
        accuracy = reward_accuracy(demo, folder, changes)
        return {"seconds": round(time.monotonic() - began, 1), "accuracy": accuracy}
    lora = LoraArguments(lora_r=changes.pop("lora_r", 16))
    first = policy(
        demo, str(demo.folder / (Variant("dpo", variant.after).folder if variant.after else "sft"))
    )
    if variant.stage == "sft":
        fine_tune(demo, folder, changes)
    elif variant.stage == "dpo":
        merge = changes.pop("merge_annotators", True)
        rankings = DPOArguments(preferences=str(demo.folder / "rankings.jsonl"), merge_annotators=merge)
        dpo_config = DPOConfig(**common(demo, folder), **{**dpo_settings(demo.scale), **changes})
        train_dpo(first, rankings, args=dpo_config, lora=lora)
    else:
        reward = "world" if variant.reward == "world" else Variant("reward", variant.reward).folder
        judge = reward if reward == "world" else str(demo.folder / reward)
        settings = ppo_settings(demo.scale, bool(demo.reward_start))
        ppo_config = PPOConfig(**common(demo, folder) | settings | changes)
        prompts, held_out = write_prompts(demo, folder)
        train_ppo(first, prompts, judge, args=ppo_config, lora=lora, eval_prompts=held_out)
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "scores": gold_scores(plan, demo, str(folder))}


def write_prompts(demo: Any, folder: Path) -> tuple[Path, Path]:
    """The prompts of PPO, as the demo draws them: to learn from, and to find the best checkpoint by."""
    from alignment.demo.themes import theme_prompts
    from generator.output import write_jsonl

    count, held_out = demo.scale.num_ppo_prompts, demo.scale.num_guidance_prompts
    drawn = theme_prompts(demo.config.theme, count + held_out, 3000 + demo.config.seed, "train")
    paths = folder.with_suffix(".jsonl"), folder.with_suffix(".eval.jsonl")
    for path, prompts in zip(paths, (drawn[:count], drawn[count:]), strict=True):
        write_jsonl(path, [{"prompt": prompt} for prompt in prompts])
    return paths


def reward_accuracy(demo: Any, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Trains a reward model and returns what it says of its held-out prompts."""
    import torch

    from alignment.demo.settings import reward_settings
    from generator import load_generator
    from reward.certainty import side_baseline
    from reward.preferences import read_rankings
    from reward.training.reward_config import RewardConfig
    from reward.training.train import train_reward_model

    start = changes.pop("weights_from", demo.reward_start)
    adapter, rankings = None if start else str(demo.folder / "sft"), demo.folder / "rankings.jsonl"
    config = RewardConfig(
        output_dir=str(folder),
        seed=demo.config.seed,
        disable_tqdm=True,
        report_to="none",
        **{**reward_settings(demo.scale, bool(start)), **changes},
    )
    _, metrics = train_reward_model(
        load_generator(demo.config.model, adapter=adapter, dtype=torch.float32),
        read_rankings(rankings),
        config,
        trunk_adapter=adapter,
        source=rankings,
        weights_from=start or None,
    )
    found = metrics["overall"]["held_out"]
    return {**found["accuracy"], "baseline": side_baseline(found)}


def job(plan: Plan, start: Start, seed: int, variant: Variant | None) -> dict[str, Any]:
    """One row of `variants.jsonl`."""
    import torch

    torch.set_num_threads(1)
    row: dict[str, Any] = {"start": start.name, "seed": seed, "stage": variant.stage if variant else "start"}
    if variant is not None:
        row["name"] = variant.name
    began = time.monotonic()
    try:
        found = train(plan, start, seed, variant) if variant else prepare(plan, start, seed)
    except Exception:  # a variant that fails is a row of its own; the others go on
        return {**row, "error": traceback.format_exc()}
    return {**row, "wall": round(time.monotonic() - began, 1), **found}


Item = tuple[Start, int, "Variant | None"]


def key(item: Item) -> tuple[str, int, str, str | None]:
    """Name of a job in `variants.jsonl`."""
    start, seed, variant = item
    return (start.name, seed, variant.stage if variant else "start", variant.name if variant else None)


def wants(item: Item) -> list[tuple[str, int, str, str | None]]:
    """Names of the jobs whose results a job starts from."""
    start, seed, variant = item
    if variant is None:
        return []
    needed: list[tuple[str, str | None]] = [("start", None)]
    if variant.stage == "ppo" and variant.reward != "world":
        needed.append(("reward", variant.reward))
    if variant.after:
        needed.append(("dpo", variant.after))
    return [(start.name, seed, *each) for each in needed]


def run(plan: Plan, workers: int, seconds: float) -> None:
    """Runs what is missing in `variants.jsonl`; a variant waits for what it starts from."""
    plan.root.mkdir(parents=True, exist_ok=True)
    path = plan.root / "variants.jsonl"
    rows = [row for _, row in read_jsonl(path)] if path.is_file() else []
    done = {(row["start"], row["seed"], row["stage"], row.get("name")) for row in rows if "error" not in row}
    trainings: list[Variant | None] = [None, *plan.variants]
    todo: list[Item] = [
        (start, seed, each) for seed in plan.seeds for each in trainings for start in plan.starts
    ]
    todo = [item for item in todo if key(item) not in done]
    running: dict[Future[dict[str, Any]], Item] = {}
    ends = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, path.open("a") as file:
        while (todo or running) and time.monotonic() < ends:
            ready = [item for item in todo if done.issuperset(wants(item))]
            for item in ready[: workers - len(running)]:
                todo.remove(item)
                running[pool.submit(job, plan, *item)] = item
            if not running:
                break
            finished, _ = wait(running, max(ends - time.monotonic(), 0), FIRST_COMPLETED)
            for future in finished:
                item, row = running.pop(future), future.result()
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(*key(item), row.get("error", f"{row.get('wall')} s"), flush=True)
                if "error" not in row:
                    done.add(key(item))
        if running or todo:
            print(f"Time is up: {len(todo)} jobs not begun, {len(running)} not finished.", flush=True)
            for process in pool._processes.values():
                process.terminate()


def best(scores: dict[str, list[float]]) -> tuple[str, list[float]]:
    """The guidance scale with the highest mean, and its scores."""
    scale = max(scores, key=lambda each: statistics.mean(scores[each]))
    return scale, scores[scale]


def difference(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of paired differences and half the width of its 95 % interval (normal approximation)."""
    each = [a - b for a, b in zip(ours, theirs, strict=True)]
    return statistics.mean(each), 1.96 * statistics.stdev(each) / math.sqrt(len(each))


def _signed(found: tuple[float, float]) -> str:
    return f"{found[0]:+.3f} ± {found[1]:.3f}"


def _three(value: float | None) -> str:
    """Three decimals; a dash for what so few pairs do not tell."""
    return "–" if value is None else f"{value:.3f}"


def table(plan: Plan) -> str:
    """Gains of every start, seed and variant, each model at its own best guidance scale."""
    rows = [row for _, row in read_jsonl(plan.root / "variants.jsonl")]
    rows = [row for row in rows if "error" not in row]
    begun = {(row["start"], row["seed"]): row for row in rows if row["stage"] == "start"}
    lines = [
        "| start | stage | variant | seed | at 1, 2, 3, 5 | each at its best: over base | SFT | model alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    accuracies = [
        "| start | reward model | seed | held-out pair accuracy | baseline |",
        "|---|---|---|---|---|",
    ]
    order = sorted(
        rows, key=lambda row: (row["start"], row["stage"] != "start", row["stage"], str(row.get("name")))
    )
    for row in order:
        start, seed = row["start"], row["seed"]
        if row["stage"] == "reward":
            found = row["accuracy"]
            accuracies.append(
                f"| {start} | {row['name']} | {seed} | {_three(found['mean'])} [{_three(found['low'])}, "
                f"{_three(found['high'])}], n = {found['n']} | {_three(found['baseline'])} |"
            )
            continue
        begin = begun[start, seed]
        others = [best(begin[of])[1] for of in ("base", "sft", "alone") if of in begin]
        models = ("alone", "base", "sft") if row["stage"] == "start" else ("scores",)
        for model in (each for each in models if each in row):
            swept = ", ".join(f"{statistics.mean(scores):.3f}" for scores in row[model].values())
            own = best(row[model])[1]
            name = row.get("name", "") if model == "scores" else model
            lines.append(
                f"| {start} | {row['stage']} | {name} | {seed} | {swept} | "
                + " | ".join([*(_signed(difference(own, other)) for other in others), "–"][:3])
                + " |"
            )
    return "\n".join([*lines, "", *accuracies] if len(accuracies) > 2 else lines)


def main() -> None:
    """Command line."""
    from alignment.demo.scales import DemoConfig
    from alignment.demo.themes import THEMES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--themes", nargs="+", default=["counts"], choices=list(THEMES))
    parser.add_argument("--model", default="nano-v1", help="Generator to align, as in the demo.")
    parser.add_argument(
        "--adapters",
        nargs="+",
        help="Adapters to begin with; none for the base alone. Default: the demo's.",
    )
    parser.add_argument(
        "--scale", default="cpu", choices=["cpu", "gpu", "smoke"], help="Scale, as in the demo."
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        help="NAME=NUMBER of the scale's sizes, such as num_ranked_prompts=240.",
    )
    parser.add_argument("--num_prompts", type=int, default=384, help="Held-out prompts, one video each.")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--seconds", type=float, default=1e6, help="End after this time.")
    parser.add_argument(
        "--only", nargs="+", default=["sft", "dpo", "reward", "ppo"], choices=["sft", "dpo", "reward", "ppo"]
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[variant.name for variant in VARIANTS],
        choices=sorted({variant.name for variant in VARIANTS}),
        metavar="NAME",
        help="Names of the variants, of each stage in --only.",
    )
    arguments = parser.parse_args()
    changes = {name: int(value) for name, value in (each.split("=") for each in arguments.set)}
    adapters = arguments.adapters or [DemoConfig(output_dir="", model=arguments.model).adapter or "none"]
    plan = Plan(
        arguments.output_dir,
        arguments.scale,
        arguments.num_prompts,
        [
            Start(theme, "" if adapter == "none" else adapter, changes, arguments.model)
            for theme in arguments.themes
            for adapter in adapters
        ],
        arguments.seeds,
        [each for each in VARIANTS if each.stage in arguments.only and each.name in arguments.variants],
    )
    run(plan, arguments.workers, arguments.seconds)
    print(table(plan), flush=True)


if __name__ == "__main__":
    main()
