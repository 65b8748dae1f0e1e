"""PPO over several GPUs: `python -m benchmarks.alignment.ppo_scaling --num_processes 2`.

Runs the iteration of `benchmarks/alignment/ppo_iteration.py` as one process and under each engine, all in eager mode.
Engines have the prompts of one process for every process (weak scaling), so the speed-up, in videos a second against
one process, is N at best; `ulysses` has the prompts of one process, whose videos all processes share. `--full_size` is
14B at 81x480x832 as far as a benchmark can go: one prompt, two videos, two denoising steps, one of which is trained,
guidance, all blocks checkpointed, videos sampled and decoded one by one in tiles, and the first iteration counts.

    python -m benchmarks.alignment.ppo_scaling --modes single multi_gpu zero2 fsdp zero3
    python -m benchmarks.alignment.ppo_scaling --full_size --modes single offloaded both_offloaded fsdp zero3 ulysses
    python -m benchmarks.alignment.ppo_scaling --full_size --modes fsdp ulysses --tiny          # on a CPU

Other flags are those of `ppo_iteration`. A mode that fails, needs too much memory or outlasts `--mode_seconds` is said,
and the others go on. `--json` appends a line for each mode; `--against` reads the single process from such a file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from alignment.memory.work import Work
from benchmarks.alignment.engine_modes import MODES, add_to, run_mode
from benchmarks.alignment.forecasts import forecast_gb
from benchmarks.alignment.random_wan import TINY_SIZE, tiny_architecture

SCRIPT = Path(__file__).with_name("ppo_iteration.py")
FULL_SIZE = {
    "--architecture": "14B", "--num_frames": "81", "--height": "480", "--width": "832", "--num_prompts": "1",
    "--num_generations": "2", "--num_inference_steps": "2", "--trained_steps": "1", "--rollout_batch_size": "1",
    "--reward_batch_size": "1",
}  # fmt: skip
FULL_SIZE_SWITCHES = ["--gradient_checkpointing", "--tiling"]
UNDIVIDED = ("single", "offloaded", "activations_offloaded", "both_offloaded", "8bit", "ulysses")
"""Modes whose memory is forecast."""


def words_of(arguments: argparse.Namespace, more: list[str]) -> list[str]:
    """Flags of `ppo_iteration` for all modes."""
    passed = ["--variants", "fast", "--no_compile"]
    warmup = 0 if arguments.full_size and arguments.warmup is None else 1
    if arguments.full_size:
        passed += [*(word for pair in FULL_SIZE.items() for word in pair), *FULL_SIZE_SWITCHES]
    passed += ["--warmup", str(warmup if arguments.warmup is None else arguments.warmup)]
    passed += ["--iterations", str(arguments.iterations), *more]
    return passed + (["--tiny"] if arguments.tiny else [])


def expected_gb(mode: str, processes: int, tiny: bool) -> float | None:
    """Forecast of the peak of a mode with `--full_size`, in GB."""
    if mode not in UNDIVIDED:
        return None
    size = (
        TINY_SIZE
        if tiny
        else tuple(int(FULL_SIZE[f"--{side}"]) for side in ("num_frames", "height", "width"))
    )
    flags = MODES[mode].flags
    work = Work(
        "ppo", *size, rollout_batch=1, decode_batch=1, lora_r=64, checkpointed_share=1.0, tiling=True,
        quantization="8bit" if "--quantization" in flags else None,
        offload_weights="--offload_weights" in flags,
        activation_offloading="--activation_offloading" in flags,
        context_parallel=processes if MODES[mode].shares_tokens else 1,
    )  # fmt: skip
    return forecast_gb(tiny_architecture("14B") if tiny else "14B", work)


def row(found: dict[str, Any], single: float | None) -> str:
    """A line of the table; `single`: seconds of an iteration of one process."""
    if "results" not in found:
        return f"| {found['mode']} | {found['processes']} | {found['failed']} |"
    result = found["results"][0]
    seconds, peak = result["seconds"], result["peak_gib"]
    gigabytes = f"{max(peak.values()) * 2**30 / 1e9:.1f}" if peak else "–"
    expected = "–" if found.get("forecast") is None else f"{found['forecast']:.1f}"
    gain = "–" if single is None else f"{found['groups'] * single / seconds['total']:.2f}"
    return (
        f"| {found['mode']} | {found['processes']} | {seconds['total']:.2f} | {seconds['sampling']:.2f} "
        f"| {seconds['decode and reward']:.2f} | {seconds['update']:.2f} | {gigabytes} | {expected} | {gain} |"
    )


def single_seconds(file: str | None) -> float | None:
    """Seconds of an iteration of one process in a file of results; None where there is none."""
    if file is None or not Path(file).is_file():
        return None
    found = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    totals = [
        each["results"][0]["seconds"]["total"]
        for each in found
        if each["mode"] == "single" and "results" in each
    ]
    return totals[-1] if totals else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument(
        "--modes", nargs="+", default=["single", "multi_gpu", "zero2", "fsdp", "zero3"], choices=MODES
    )
    parser.add_argument("--full_size", action="store_true", help="Run 14B at 81x480x832.")
    parser.add_argument("--warmup", type=int, help="Default: 1; 0 with --full_size.")
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--mode_seconds", type=float, default=300.0, help="Most that a mode may take.")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", help="Append the figures to this file, a line a mode.")
    parser.add_argument("--against", help="A file of such lines with the single process, for the speed-up.")
    arguments, more = parser.parse_known_args()
    passed = words_of(arguments, more)
    titles = (
        "mode, processes, s an iteration, sampling, decode and reward, update, peak GB, forecast GB, speed-up"
    )
    print("| " + titles.replace(", ", " | ") + " |\n" + "|---" * 9 + "|", flush=True)
    single = single_seconds(arguments.against)
    ended = 0
    with tempfile.TemporaryDirectory(prefix="vidalign-scaling-") as folder:
        for mode in arguments.modes:
            report = Path(folder) / f"{mode}.json"
            found = run_mode(
                str(SCRIPT), mode, arguments.num_processes, passed, report, arguments.mode_seconds
            )
            if arguments.full_size and not more:
                found["forecast"] = expected_gb(mode, arguments.num_processes, arguments.tiny)
            if mode == "single" and "results" in found:
                single = found["results"][0]["seconds"]["total"]
            print(row(found, single), flush=True)
            if "failed" in found:
                print(f"{mode} {found['failed']}:\n{found['said']}", flush=True)
            ended += "results" in found
            add_to(arguments.json, found)
    if not ended:
        raise SystemExit("No mode ended well.")


if __name__ == "__main__":
    main()
