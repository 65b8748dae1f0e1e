"""Ways of running a benchmark's script: each engine by its name, in processes of its own, as a command starts it."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mode:
    """A way of running.

    Attributes:
        accelerate_config: the value of `--accelerate_config`; `single` starts without a launcher.
        flags: of the script, beside its own.
        several: whether it runs as several processes.
        shares_tokens: whether the processes share out the tokens of each video, and are one for its batches.
    """

    accelerate_config: str = "single"
    flags: tuple[str, ...] = ()
    several: bool = False
    shares_tokens: bool = False

    def groups(self, processes: int) -> int:
        """Number of batches at a time with `processes` processes."""
        return processes if self.several and not self.shares_tokens else 1

    def words(self, processes: int) -> list[str]:
        """Flags of the script with `processes` processes."""
        return [*self.flags, *(["--context_parallel", str(processes)] if self.shares_tokens else [])]


MODES = {
    "single": Mode(),
    "offloaded": Mode(flags=("--offload_weights",)),
    "activations_offloaded": Mode(flags=("--activation_offloading",)),
    "both_offloaded": Mode(flags=("--offload_weights", "--activation_offloading")),
    "8bit": Mode(flags=("--quantization", "8bit")),
    "multi_gpu": Mode("multi_gpu", several=True),
    "multi_gpu_8bit": Mode("multi_gpu", ("--quantization", "8bit"), several=True),
    "zero2": Mode("zero2", several=True),
    "fsdp": Mode("fsdp", several=True),
    "zero3": Mode("zero3", several=True),
    "ulysses": Mode("multi_gpu", several=True, shares_tokens=True),
    "ulysses_fsdp": Mode("fsdp", several=True, shares_tokens=True),
}


def run_mode(
    script: str, name: str, processes: int, words: Sequence[str], report: Path, seconds: float = 600.0
) -> dict[str, Any]:
    """Runs a script in a mode; what it has written to `report` (JSON), or in `failed` why it has written nothing.

    Args:
        script: path of the file.
        name: of the mode, see `MODES`.
        processes: where the mode is one of several.
        words: flags of the script beside the mode's and `--json`.
        seconds: after which it is stopped.
    """
    mode = MODES[name]
    count = processes if mode.several else 1
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    start = [sys.executable]
    if count > 1:
        given = LaunchArguments(accelerate_config=mode.accelerate_config, num_processes=count)
        launch = launch_command(argparse.Namespace(**vars(given)), [], torch.cuda.device_count())
        start = launch[: launch.index("--module")]
        if torch.cuda.device_count() == 0:
            environment |= environment_without_gpu(launch) | {"OMP_NUM_THREADS": "1"}
    command = [*start, script, *words, *mode.words(count), "--json", str(report)]
    begun = time.monotonic()
    with report.with_suffix(".log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = wait_or_stop(process, seconds)
        log.seek(0)
        said = log.read()
    reason = {None: f"stopped after {seconds:.0f} s", 0: ""}.get(code, f"ended with {code}")
    found: dict[str, Any] = {"mode": name, "processes": count, "groups": mode.groups(count)}
    found["seconds_in_all"] = round(time.monotonic() - begun, 1)
    if report.is_file():
        found["results"] = json.loads(report.read_text(encoding="utf-8"))
    if reason:
        mistake = re.search(r"InputError: (.+)", said)
        found["failed"] = "out of memory" if is_out_of_memory(said) else mistake[1] if mistake else reason
        errors = dict.fromkeys(re.findall(r"^.*\b\w*(?:Error|Exception): .+$", said, re.MULTILINE))
        found["said"] = "\n".join([*list(errors)[:20], said[-2000:]])
    return found


def is_out_of_memory(said: str) -> bool:
    """Returns whether the output of a process says that a GPU had too little memory."""
    return "OutOfMemoryError" in said or "CUDA out of memory" in said


def wait_or_stop(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Exit code of a launcher in a session of its own; None where it was stopped after `seconds`. It is stopped too
    where this process is interrupted, so that its workers do not keep the GPUs."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a launcher, which ends its workers; kills it where it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(35)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def add_to(file: str | Path | None, found: Any) -> None:
    """Appends a result to a file of JSON lines, so that a run that is cut short leaves what it has."""
    if file is not None:
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")
