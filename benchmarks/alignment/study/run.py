"""Gains of alignment on the built-in world, what decides them, and when it over-optimises.

    python -m benchmarks.alignment.study.run --output_dir runs/study --seconds 400
    python -m benchmarks.alignment.study.run --output_dir runs/tune --parts tune --seconds 150
    python -m benchmarks.alignment.study.run --output_dir runs/all --merge runs/study runs/ablations

All models of a seed start from the shipped base. SFT learns from rendered clips; PPO and DPO start from the SFT model
(`--start base`: from the base). The gold score is `generator.world.verify`, which no reward model sees; the proxy is a
reward model trained on simulated rankings of the SFT model's videos. Parts:

- `gold`: PPO on the gold score. `proxy`: rankings, reward model, DPO and PPO on them. Both for each of `--seeds`.
- `taught`: PPO on `--taught_reward`, which has seen no ranking, for `--proxy_seconds` with each of `--seeds`.
- `over`: PPO on the proxy of the first seed with each of `--betas`, for the over-optimisation figure.
- `ablations`: one setting of PPO (on gold) or DPO changed at a time, first seed, equal seconds each.
- `tune`: settings of PPO on the gold score from `--tune_start`, first seed, on prompts of their own; `gold` then waits
  for it and takes the best.

Trainings run in processes side by side, as many as `--workers`, on all GPUs of the machine or on a CPU. Every
training has a budget in seconds (`--gold_seconds`, …) over which its learning rate falls, and all end `--seconds` after
the start. Results are appended to `study.jsonl` as they come. At the end `study.md`, `study.json` and
`over-optimisation.png` are written from it; `--merge` writes them from the files of several runs, killed ones too, and
needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.alignment.study.report import measurements, read_rows, write_report
from benchmarks.alignment.study.settings import DPO_ABLATIONS, SCALES, TUNED, ppo_ablations, tuned
from benchmarks.named_values import named_values
from generator.output import InputError
from reward.models.storage import read_reward_config, reward_folder

PARTS = ("gold", "proxy", "taught", "over", "ablations", "tune")
RESULTS = "study.jsonl"


@dataclass
class Job:
    """A call of one of `study_arms.JOBS`, after the jobs named in `after`."""

    seed: int
    name: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[int, str]:
        return self.seed, self.name


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """All jobs of the parts that were asked for, the most important ones first."""
    parts, start = set(arguments.parts), arguments.start
    first, scale = arguments.seeds[0], SCALES[arguments.scale]
    changes = named_values(arguments.set)
    jobs: list[Job] = []

    def ppo(seed: int, name: str, seconds: float, reward: str, **more: Any) -> Job:
        after = ("reward",) if reward == "proxy" else ("sft",) if start == "sft" else ()
        given = {"arm": name, "seconds": seconds, "reward": reward, "start": start, **changes, **more}
        return Job(seed, name, "ppo", given, after)

    if parts - {"tune"} or arguments.tune_start == "sft":
        jobs += [Job(seed, "sft", "sft", {"seconds": arguments.sft_seconds}) for seed in arguments.seeds]
    if parts & {"proxy", "over", "ablations"}:
        seeds = arguments.seeds if "proxy" in parts else [first]
        ranked = {"start": start, "guidance": arguments.ranked_guidance}
        jobs += [Job(seed, "rankings", "rankings", ranked, ("sft",)) for seed in seeds]
    if parts & {"proxy", "over"}:
        seeds = arguments.seeds if "proxy" in parts else [first]
        chosen = {"start": start, "weights_from": arguments.reward_from, "trunk": arguments.reward_model}
        chosen |= named_values(arguments.reward_set)
        jobs += [Job(seed, "reward", "reward", chosen, ("rankings",)) for seed in seeds]
    if "gold" in parts:
        more = {"guidance_scale": arguments.gold_guidance}
        jobs += [ppo(seed, "ppo-gold", arguments.gold_seconds, "world", **more) for seed in arguments.seeds]
    if "proxy" in parts:
        for seed in arguments.seeds:
            dpo = {"arm": "dpo", "seconds": arguments.dpo_seconds, "start": start}
            jobs.append(Job(seed, "dpo", "dpo", dpo, ("rankings",)))
            jobs.append(ppo(seed, "ppo-proxy", arguments.proxy_seconds, "proxy", beta=arguments.proxy_beta))
    if "taught" in parts:
        taught = {"reward": arguments.taught_reward, "beta": arguments.proxy_beta}
        jobs += [ppo(seed, "ppo-taught", arguments.proxy_seconds, **taught) for seed in arguments.seeds]
    if "over" in parts:
        jobs += [
            ppo(first, f"over beta {beta:g}", arguments.over_seconds, "proxy", beta=beta)
            for beta in arguments.betas
        ]
    if "ablations" in parts:
        for name, change in ppo_ablations(scale).items():
            jobs.append(ppo(first, f"ppo, {name}", arguments.ablation_seconds, "world", **change))
        for name, change in DPO_ABLATIONS.items():
            given = {"arm": f"dpo, {name}", "seconds": arguments.dpo_seconds, "start": start, **change}
            jobs.append(Job(first, f"dpo, {name}", "dpo", given, ("rankings",)))
    if "tune" in parts:
        for name in arguments.variants or TUNED:
            more = {**changes, **tuned(name), "start": arguments.tune_start}
            job = ppo(first, f"tune: {name}", arguments.tune_seconds, "world", **more)
            after = ("sft",) if arguments.tune_start == "sft" else ()
            jobs.append(Job(first, job.name, "ppo", job.arguments, after))
    return [job for job in jobs if job.name not in arguments.skip]


def run(arguments: argparse.Namespace, folder: Path, work: Path) -> None:
    """Runs the jobs side by side, each as soon as those that it needs are done."""
    from benchmarks.alignment.study.arms import (  # imports torch, which `--merge` and `--help` do not need
        Seed,
        run_job,
    )

    deadline = time.time() + arguments.seconds
    todo, gpus = jobs_of(arguments), visible_gpus()
    seeds = {
        seed: Seed(
            seed,
            arguments.scale,
            folder / RESULTS,
            work,
            arguments.model,
            deadline,
            -(-arguments.workers // max(1, len(gpus))),
            arguments.rows,
            tuple(arguments.guidance),
        )
        for seed in arguments.seeds
    }
    done: set[tuple[int, str]] = set()
    running: dict[Future[None], Job] = {}
    context = multiprocessing.get_context("spawn")
    place = (context.Value("i", 0), gpus)
    with ProcessPoolExecutor(arguments.workers, context, initializer=choose_gpu, initargs=place) as pool:
        while todo or running:
            if time.time() > deadline and todo:
                print(
                    f"Not run, the time is over: {', '.join(f'{j.name} ({j.seed})' for j in todo)}",
                    flush=True,
                )
                todo = []
            tuning = any(job.name.startswith("tune") for job in [*todo, *running.values()])
            ready = [
                job
                for job in todo
                if all((job.seed, name) in done for name in job.after)
                and not (tuning and job.name == "ppo-gold")
            ]
            for job in ready[: arguments.workers - len(running)]:
                todo.remove(job)
                if job.name == "ppo-gold" and "tune" in arguments.parts:
                    job.arguments |= best_tuned(folder / RESULTS)
                running[pool.submit(run_job, seeds[job.seed], job.kind, job.arguments)] = job
            if not running:
                names = ", ".join(f"{job.name} ({job.seed})" for job in todo)
                print(f"Not run, as what they start from failed: {names}" if todo else "Done.", flush=True)
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                error = future.exception()
                if error is None:
                    done.add(job.key)
                    continue
                print(f"{job.name}, seed {job.seed}, failed:", flush=True)
                traceback.print_exception(error)


def visible_gpus() -> list[str]:
    """The GPUs of this process, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def choose_gpu(counter: Any, gpus: list[str]) -> None:
    """Gives a worker process one of the GPUs, in turn."""
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def best_tuned(results: Path) -> dict[str, Any]:
    """Settings of the variant of `tune` with the highest gold score at any guidance scale, if one was measured."""
    found = {
        key: mean_of(by_seed)
        for key, by_seed in measurements(read_rows([results])).items()
        if key[0].startswith("tune: ")
    }
    if not found:
        return {}
    arm, guidance = max(found, key=lambda key: found[key])
    print(
        f"ppo-gold takes the settings of {arm!r}: {found[arm, guidance]:.3f} at guidance {guidance:g}",
        flush=True,
    )
    return {"guidance_scale": 1.0, **tuned(arm.removeprefix("tune: "))}


def mean_of(by_seed: dict[int, dict[str, Any]]) -> float:
    """Mean of the scores of all seeds."""
    scores = [score for row in by_seed.values() for score in row["scores"]]
    return sum(scores) / len(scores)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/study"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scale", default="gpu", choices=sorted(SCALES))
    parser.add_argument("--parts", nargs="+", default=["gold", "proxy"], choices=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    start = {"choices": ["sft", "base"]}
    parser.add_argument("--start", default="sft", **start, help="Model that PPO and DPO start from.")
    parser.add_argument("--workers", type=int, default=6, help="Trainings side by side.")
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="JOB", help="Jobs that are left out, as `dpo` of `proxy`."
    )
    add_budgets(parser)
    add_settings(parser)
    add_rewards(parser)
    parser.add_argument(
        "--variants",
        nargs="+",
        help="Variants of `tune`: some of `TUNED` in settings.py, or several joined by ' + '.",
    )
    parser.add_argument("--tune_start", default="base", **start, help="Model that `tune` starts from.")
    parser.add_argument(
        "--work", type=Path, help="Folder for adapters and rankings; a temporary one by default."
    )
    parser.add_argument(
        "--no_report", action="store_true", help="Write study.jsonl alone, for --merge later."
    )
    parser.add_argument("--merge", nargs="+", type=Path, help="Folders of runs: writes their common report.")
    arguments = parser.parse_args()
    if not arguments.merge:
        check_arguments(parser, arguments)
    return arguments


def add_budgets(parser: argparse.ArgumentParser) -> None:
    """Adds the seconds of the run and of each kind of training."""
    parser.add_argument(
        "--seconds",
        type=float,
        default=400.0,
        help="Seconds after which no training goes on; measuring takes some more.",
    )
    said = "Seconds at most; --scale says how many steps."
    parser.add_argument("--sft_seconds", type=float, default=90.0, help=said)
    parser.add_argument("--dpo_seconds", type=float, default=90.0, help=said)
    parser.add_argument("--gold_seconds", type=float, default=300.0)
    parser.add_argument("--proxy_seconds", type=float, default=150.0)
    parser.add_argument("--over_seconds", type=float, default=120.0)
    parser.add_argument("--ablation_seconds", type=float, default=90.0)
    parser.add_argument("--tune_seconds", type=float, default=60.0)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds what the trainings and measurements are set to."""
    parser.add_argument(
        "--gold_guidance", type=float, default=3.0, help="Guidance scale of the rollouts of `gold`."
    )
    parser.add_argument(
        "--guidance", nargs="+", type=float, default=[1.0, 3.0], help="Guidance scales of the measurements."
    )
    parser.add_argument(
        "--ranked_guidance", type=float, default=1.0, help="Guidance of the videos that are ranked."
    )
    parser.add_argument(
        "--proxy_beta", type=float, default=0.03, help="KL coefficient of `proxy` and `taught`."
    )
    parser.add_argument(
        "--betas", nargs="+", type=float, default=[0.0, 0.1, 1.0], help="KL coefficients of `over`."
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="Settings of every PPO.")
    parser.add_argument(
        "--rows", type=int, default=0, help="Denoising steps in a micro-batch of PPO; 0: what fits."
    )


def add_rewards(parser: argparse.ArgumentParser) -> None:
    """Adds the reward models."""
    parser.add_argument(
        "--reward_set", nargs="+", default=[], metavar="NAME=VALUE", help="Settings of the reward model."
    )
    parser.add_argument(
        "--reward_from",
        default="",
        help="Reward model that learns on from here: the folder `pretrained` of "
        "`benchmarks.reward.accuracy.run --save_pretrained`.",
    )
    parser.add_argument(
        "--reward_model",
        default="",
        help="Generator on which that reward model was taught, if it is not --model; of the same autoencoder.",
    )
    parser.add_argument(
        "--taught_reward",
        default="nano-reward",
        help="Trained reward model of `taught`, or several joined by commas.",
    )


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program where arguments do not go together or name what is not there."""
    if arguments.reward_model and not arguments.reward_from:
        parser.error("--reward_model is the generator of --reward_from: name that reward model, too")
    for name in arguments.variants or ():
        try:
            tuned(name)
        except ValueError as error:
            parser.error(str(error))
    every = {job.name for job in jobs_of(argparse.Namespace(**vars(arguments) | {"skip": []}))}
    unknown = [name for name in arguments.skip if name not in every]
    if unknown:
        parser.error(f"--skip {unknown[0]}: these parts have the jobs {', '.join(sorted(every))}")
    taught = arguments.taught_reward.split(",") if "taught" in arguments.parts else []
    for name in [*filter(None, [arguments.reward_from]), *taught]:
        try:
            read_reward_config(reward_folder(name))
        except InputError as error:
            parser.error(str(error))


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.merge:
        print(write_report([source / RESULTS for source in arguments.merge], folder))
        return
    work = arguments.work or Path(tempfile.mkdtemp(prefix="vidalign-study-"))
    settings = {name: str(value) for name, value in vars(arguments).items()}
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"arguments": settings}) + "\n")
    try:
        run(arguments, folder, work)
        if not arguments.no_report:
            print(write_report([folder / RESULTS], folder))
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
