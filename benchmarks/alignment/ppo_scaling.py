"""Weak scaling of PPO over several GPUs: `python -m benchmarks.alignment.ppo_scaling --num_processes 2`.

Runs the iteration of `benchmarks/alignment/ppo_iteration.py` as one process, and under each engine with the prompts of
one for every process, all in eager mode. The speed-up is videos a second against one process, so N is the best for N.
`--tiny` tries it out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command

MODES = ("single", "multi_gpu", "zero2", "zero3")
SCRIPT = Path(__file__).with_name("ppo_iteration.py")


def run(mode: str, processes: int, passed: list[str], folder: Path) -> dict[str, Any]:
    """Figures of the first process of `mode`."""
    launch = argparse.Namespace(**vars(LaunchArguments(accelerate_config=mode, num_processes=processes)))
    words = launch_command(launch, [], torch.cuda.device_count())
    report = folder / f"{mode}.json"
    command = [
        *words[: words.index("--module")],
        str(SCRIPT),
        "--variants",
        "fast",
        "--no_compile",
        "--json",
        str(report),
        *passed,
    ]
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    if torch.cuda.device_count() == 0:
        environment |= environment_without_gpu(words) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{mode} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(report.read_text(encoding="utf-8"))[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=["single", "zero2", "zero3"], choices=MODES)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments, more = parser.parse_known_args()
    passed = ["--warmup", str(arguments.warmup), "--iterations", str(arguments.iterations), *more]
    passed += ["--tiny"] if arguments.tiny else []
    print(
        "| mode | processes | s an iteration | sampling | decode and reward | update | peak GB | speed-up |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vidalign-scaling-") as folder:
        for mode in arguments.modes:
            processes = 1 if mode == "single" else arguments.num_processes
            found = results[mode] = run(mode, processes, passed, Path(folder))
            seconds, peak = found["seconds"], found["peak_gib"]
            single = results.get("single", {"seconds": {"total": float("nan")}})["seconds"]["total"]
            gigabytes = f"{max(peak.values()) * 2**30 / 1e9:.1f}" if peak else "–"
            print(
                f"| {mode} | {processes} | {seconds['total']:.2f} | {seconds['sampling']:.2f} "
                f"| {seconds['decode and reward']:.2f} | {seconds['update']:.2f} | {gigabytes} "
                f"| {processes * single / seconds['total']:.2f} |",
                flush=True,
            )
            if arguments.json:
                Path(arguments.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
