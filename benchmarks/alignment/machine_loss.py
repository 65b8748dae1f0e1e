"""Kills one of two machines in the middle of a training, starts it again, and compares the weights bit for bit.

    python -m benchmarks.alignment.machine_loss

Both machines are this one: `vidalign sft --num_machines 2 --rdzv_backend c10d`, with one process each on the CPU and a
shared output folder. All processes of machine 1 are killed with SIGKILL once a checkpoint is written. `rejoin` starts
machine 1 again while machine 0 waits (`--max_restarts`); `requeue` ends both and starts both, as a scheduler does.
Prints the step that the run went on from, the seconds from the kill to the first further step, and whether adapter and
losses are those of the run of which nothing was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from benchmarks.alignment.resume_sigkill import ADAPTER, logged_losses
from generator.testing import tiny_generator
from generator.video import write_video

MODES = ("rejoin", "requeue")
STEPS, SAVE_STEPS = 24, 4
LIMIT = 300
"""Seconds after which a machine counts as stuck."""


def prepare(folder: Path) -> None:
    """A tiny model and videos to fine-tune it on."""
    tiny_generator().pipeline.save_pretrained(folder / "model")
    noise = torch.Generator().manual_seed(0)
    rows = []
    for number in range(8):
        name = f"{number}.mp4"
        write_video(folder / name, torch.rand(3, 5, 16, 16, generator=noise) * 2 - 1, 8)
        rows.append({"file_name": name, "prompt": "a red ball"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(machine: int, data: Path, out: Path, port: int) -> subprocess.Popen[bytes]:
    """The command of one machine."""
    words = (
        f"sft --model {data / 'model'} --dataset {data} --num_frames 5 --height 16 --width 16 --seed 5"
        f" --max_steps {STEPS} --save_strategy steps --save_steps {SAVE_STEPS} --save_total_limit 9"
        " --per_device_train_batch_size 2 --learning_rate 1e-2 --logging_steps 1 --report_to none"
        f" --lora_dropout 0.1 --disable_tqdm true --output_dir {out} --resume_from_checkpoint latest"
        f" --accelerate_config multi_gpu --num_machines 2 --num_processes 2 --machine_rank {machine}"
        f" --main_process_ip 127.0.0.1 --main_process_port {port} --rdzv_backend c10d --max_restarts 3"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out.parent / f"{out.name}-{machine}.log").open("ab") as log:
        command = [sys.executable, "-m", "alignment.cli", *words.split()]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def start_all(data: Path, out: Path, port: int) -> list[subprocess.Popen[bytes]]:
    """Both machines, machine 0 first, since the machines of one host all take its address for their own."""
    first = start(0, data, out, port)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and first.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.1)
    return [first, start(1, data, out, port)]


def kill(machine: subprocess.Popen[bytes]) -> None:
    """Kills all processes of a machine at once."""
    root = psutil.Process(machine.pid)
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    machine.wait()


def newest_step(out: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    found = out.glob("checkpoint-*/trainer_state.json")
    return max((int(state.parent.name.split("-")[1]) for state in found), default=0)


def wait_for(out: Path, step: int, machines: list[subprocess.Popen[bytes]]) -> None:
    """Waits for a checkpoint of at least `step`."""
    end = time.monotonic() + LIMIT
    while newest_step(out) < step:
        if time.monotonic() > end or any(machine.poll() is not None for machine in machines):
            raise RuntimeError(f"There is no checkpoint {step} in {out}: see {out}-0.log and {out}-1.log.")
        time.sleep(0.02)


def finish(out: Path, machines: list[subprocess.Popen[bytes]]) -> None:
    for machine in machines:
        if machine.wait(LIMIT) != 0:
            raise RuntimeError(
                f"A machine ended with exit code {machine.returncode}: see {out}-0.log, {out}-1.log."
            )


def lose(mode: str, data: Path, out: Path) -> tuple[int, float]:
    """A training of which machine 1 is lost; the step that it went on from, and seconds until its next checkpoint."""
    port = free_port()
    machines = start_all(data, out, port)
    wait_for(out, SAVE_STEPS, machines)
    kill(machines[1])
    begun, step = time.perf_counter(), newest_step(out)
    if mode == "requeue":
        kill(machines[0])
        machines = start_all(data, out, free_port())
    else:
        machines[1] = start(1, data, out, port)
    wait_for(out, step + SAVE_STEPS, machines)
    seconds = time.perf_counter() - begun
    finish(out, machines)
    return step, seconds


def compare(folder: Path, modes: list[str]) -> bool:
    """Runs a training whole and with each kind of loss; returns whether all end alike."""
    from safetensors.torch import load_file

    prepare(folder)
    whole = folder / "whole"
    finish(whole, start_all(folder, whole, free_port()))
    expected = load_file(whole / ADAPTER)
    print(
        "| machine 1 is lost | went on from step | seconds to the next checkpoint | against the whole run |"
    )
    print("|---|---|---|---|", flush=True)
    results = []
    for mode in modes:
        out = folder / mode
        step, seconds = lose(mode, folder, out)
        found = load_file(out / ADAPTER)
        equal = found.keys() == expected.keys() and all(
            torch.equal(found[name], expected[name]) for name in found
        )
        equal &= logged_losses(out) == logged_losses(whole)
        results.append(equal)
        print(f"| {mode} | {step} | {seconds:.0f} | {'bit for bit' if equal else 'NOT EQUAL'} |", flush=True)
    return all(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidalign-machines-") as folder:
        sys.exit(0 if compare(Path(folder), arguments.modes) else 1)


if __name__ == "__main__":
    main()
