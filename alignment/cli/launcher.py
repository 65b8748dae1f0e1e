"""Several GPUs and machines: `--accelerate_config` runs the same command again under `accelerate launch`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from alignment.cli.config_files import find_config
from generator.output import InputError, read_text
from generator.passwords import without_passwords
from generator.training.checks import check_context_groups
from generator.training.interruption import (
    BEGUN,
    LAUNCH_FOLDER,
    SAME_SECONDS,
    STOP,
    STOPPED,
    WORKING,
    Interrupted,
    handling,
    say,
)
from generator.training.invocation import COMMAND_LINE, typed

_LAUNCHED = "VIDALIGN_LAUNCHED"
_ARGUMENTS = "VIDALIGN_ARGUMENTS"
"""Environment variable with the arguments of launched processes, as JSON, where their words may not show them."""
WHOLE_MODELS = ("NO", "MULTI_GPU", "MULTI_CPU")
"""Kinds of launches (`distributed_type`) in which each process has the whole model."""
MOST_PROCESSES_WITHOUT_GPU = 8
"""On a machine with fewer cores than that."""


@dataclass
class LaunchArguments:
    """Several GPUs and machines (accelerate, DeepSpeed)."""

    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "Run under `accelerate launch` with this configuration: single, multi_gpu, zero1, zero2, zero3, "
            "fsdp, or a file that `accelerate config` wrote."
        },
    )
    num_processes: int | None = field(
        default=None,
        metadata={"help": "Processes on all machines together; as many as GPUs by default."},
    )
    num_machines: int = field(default=1, metadata={"help": "Machines; start the command on each of them."})
    machine_rank: int = field(default=0, metadata={"help": "Number of this machine, from 0."})
    main_process_ip: str | None = field(default=None, metadata={"help": "Address of machine 0."})
    main_process_port: int | None = field(default=None, metadata={"help": "A free port of machine 0."})
    rdzv_backend: str = field(
        default="static",
        metadata={
            "help": "Meeting of the machines: static, by their numbers, or c10d, in which a machine that was lost may "
            "join again.",
            "choices": ["static", "c10d"],
        },
    )
    max_restarts: int = field(
        default=0,
        metadata={
            "help": "Times that the processes of a machine start again after one was lost, from the newest checkpoint "
            "with `--resume_from_checkpoint latest`."
        },
    )


def is_launched() -> bool:
    """Returns whether this process was started by `launch`."""
    return _LAUNCHED in os.environ


def leave_safe_path() -> None:
    """Gives the programs that a launched process starts the user's own `PYTHONSAFEPATH` again."""
    if not os.environ.get(_LAUNCHED):
        os.environ.pop("PYTHONSAFEPATH", None)


def take_own_gpu() -> None:
    """Leaves this launched process the GPU of its number alone, whatever library looks for one; to be called before
    any does."""
    number = os.environ.get("LOCAL_RANK")
    if number is None:
        return
    named = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    if int(number) < len(named):
        os.environ["CUDA_VISIBLE_DEVICES"] = named[int(number)]
    elif "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = number


def launch_command(
    arguments: argparse.Namespace, command: list[str], num_gpus: int, trains: bool = True
) -> list[str]:
    """The `accelerate launch` command line.

    Args:
        arguments: the fields of `LaunchArguments`.
        command: arguments of `vidalign` from the subcommand on.
        num_gpus: GPUs of this machine.
        trains: False for a command whose processes have each the whole model.

    Raises:
        InputError: no such configuration, or one that is for training alone, or several machines without the address
            of the first.
    """
    config_file = find_config(arguments.accelerate_config, "accelerate")
    config = _read(config_file)
    shared = getattr(arguments, "context_parallel", 1)
    kind = config["distributed_type"]
    if not trains and kind not in WHOLE_MODELS:
        raise InputError(
            f"accelerate_config is {arguments.accelerate_config} ({kind}), which divides what is trained, but each "
            "process of this command has the whole model: use multi_gpu."
        )
    machines = arguments.num_machines if arguments.num_machines > 1 else config.get("num_machines") or 1
    _check_numbers(arguments, machines, num_gpus)
    processes = arguments.num_processes or max(num_gpus, 1) * machines
    if kind == "NO":
        processes = 1
    elif kind == "MULTI_GPU" and processes == 1:
        config_file = find_config("single", "accelerate")  # accelerate refuses to distribute to one
    check_context_groups(shared, processes)
    words = [sys.executable, "-m", "alignment.cli.process_launcher", "--config_file", str(config_file)]
    words += ["--num_processes", str(processes), "--num_machines", str(machines)]
    if arguments.rdzv_backend == "c10d" and config.get("same_network"):
        raise InputError(
            f"{config_file} has `same_network: true`, with which accelerate leaves rdzv_backend c10d without an "
            "address: set it to false."
        )
    if arguments.num_machines > 1:
        if not arguments.main_process_ip:
            raise InputError("Several machines need the address of the first: pass --main_process_ip.")
        words += ["--machine_rank", str(arguments.machine_rank), "--rdzv_backend", arguments.rdzv_backend]
    if arguments.max_restarts:
        words += ["--max_restarts", str(arguments.max_restarts)]
    if arguments.main_process_ip:
        words += ["--main_process_ip", arguments.main_process_ip]
    if arguments.main_process_port:
        words += ["--main_process_port", str(arguments.main_process_port)]
    elif machines == 1:
        words += ["--main_process_port", "0"]  # any free one
    deepspeed_file = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if deepspeed_file:
        # accelerate looks in the working directory; the path is meant from the file that states it.
        beside = (config_file.parent / deepspeed_file).resolve()
        words += ["--deepspeed_config_file", str(beside if beside.is_file() else deepspeed_file)]
        if num_gpus == 0:
            # accelerate alone knows DeepSpeed on GPUs only; the trainer knows it on a CPU too.
            command = [*command, "--use_cpu", "true", "--deepspeed", words[-1]]
    return [*words, "--module", "alignment.cli", *command]


def _check_numbers(arguments: argparse.Namespace, machines: int, num_gpus: int) -> None:
    """Raises `InputError` for numbers of processes and machines that cannot be."""
    if arguments.num_machines < 1:
        raise InputError(f"num_machines is {arguments.num_machines}, but must be at least 1.")
    if not 0 <= arguments.machine_rank < machines:
        raise InputError(
            f"machine_rank is {arguments.machine_rank}, but must be between 0 and {machines - 1}: "
            "set --num_machines too."
        )
    if arguments.max_restarts < 0:
        raise InputError(f"max_restarts is {arguments.max_restarts}, but must be at least 0.")
    if arguments.num_processes is None:
        return
    if arguments.num_processes < 1:
        raise InputError(f"num_processes is {arguments.num_processes}, but must be at least 1.")
    here = num_gpus or max(os.cpu_count() or 1, MOST_PROCESSES_WITHOUT_GPU)
    if arguments.num_processes > here * machines:
        units = "GPUs" if num_gpus else "places for processes without a GPU"
        raise InputError(
            f"num_processes is {arguments.num_processes}, but must be at most {here * machines}, as a machine has "
            f"{here} {units}: name fewer."
        )


def launch(arguments: argparse.Namespace, command: list[str], trains: bool = True) -> int:
    """Runs the command under `accelerate launch` and returns its exit code.

    A mistake of the user that a process finds is said once, at the end, after what the launcher prints.

    Args:
        arguments, command, trains: see `launch_command`.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    words = launch_command(arguments, command, num_gpus, trains)
    with tempfile.TemporaryDirectory(prefix="vidalign-") as folder:
        report = Path(folder) / "error.txt"
        # `python -m`, with which the processes start, would look for modules in the working directory first: a folder
        # `reward/` or a `generator.py` there would be taken for ours.
        environment = {
            "PYTHONFAULTHANDLER": "1",  # a process that a signal ends says where it was
            **meeting_environment(arguments),
            **os.environ,
            _LAUNCHED: os.environ.get("PYTHONSAFEPATH", ""),
            "PYTHONSAFEPATH": "1",
            "VIDALIGN_ERROR_FILE": str(report),
            LAUNCH_FOLDER: folder,
            COMMAND_LINE: shlex.join(typed() or command),
        }
        if num_gpus == 0:
            environment |= environment_without_gpu(words)
        shown = [without_passwords(word) for word in words]
        if shown != words:
            # The launcher prints the words of a process that has failed, and whoever is on the machine can list them.
            environment[_ARGUMENTS] = json.dumps(words[words.index("alignment.cli") + 1 :])
        # In a session of its own, since the terminal would interrupt the launcher, which ends its processes unsaved.
        process = subprocess.Popen(shown, env=environment, start_new_session=True)
        relay = _Relay(process, Path(folder))
        with handling(relay.receive):
            code = process.wait()
        if relay.code is not None:
            told = Path(folder) / STOPPED
            saved = told.read_text(encoding="utf-8") if told.is_file() else ""
            begun = relay.begun or (Path(folder) / BEGUN).exists()
            raise Interrupted("", relay.code, Path(saved) if saved else None, begun)
        if report.is_file():
            print(f"vidalign: error: {report.read_text(encoding='utf-8')}", file=sys.stderr)
            return 2
    return code


def launched_arguments() -> list[str] | None:
    """The arguments of this launched process where its words do not show them all, for a password is among them."""
    given = os.environ.pop(_ARGUMENTS, None)
    return None if given is None else json.loads(given)


class _Relay:
    """Passes signals on to the processes: the first lets a training save a checkpoint, a second Ctrl-C ends it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.code: int | None = None
        self.begun = False
        self._since = 0.0
        self._ended = False

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Handles a signal."""
        now = time.monotonic()
        if self.code is None:
            self.code, self._since = 128 + number, now
            self.begun = (self.folder / WORKING).exists()
            if self.begun:
                (self.folder / STOP).touch()
                say(
                    "\nvidalign: a checkpoint is saved at the end of this step or rollout, then training "
                    "stops (Ctrl-C stops at once)\n"
                )
                return
        elif self._ended or number != signal.SIGINT or now - self._since <= SAME_SECONDS:
            return
        # The launcher passes it on to its processes, and kills those that have not ended after 30 s.
        self._ended = True
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)


def without_gpu() -> dict[str, Any]:
    """Training arguments with which a launched process uses the CPU, and DeepSpeed where accelerate was told so."""
    import torch

    if torch.cuda.is_available():
        return {}
    return {"use_cpu": True, "deepspeed": os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")}


def environment_without_gpu(words: list[str]) -> dict[str, str]:
    """Environment variables that an `accelerate launch` command needs where there is no GPU.

    `--cpu` would drop all processes but one, and `ACCELERATE_USE_CPU` would quietly take DDP in place of DeepSpeed.
    """
    if "--deepspeed_config_file" in words:
        return {"DS_ACCELERATOR": "cpu"}
    return {"ACCELERATE_USE_CPU": "true"}


def meeting_environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Environment variables with which a lost machine may join the others again.

    By itself PyTorch tells the address of the first process only in the first meeting, so that whoever comes to a later
    one waits for it in vain; with these, each meeting tells it.
    """
    again = arguments.rdzv_backend == "c10d" and arguments.num_machines > 1
    return {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if again else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_text(path))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not an accelerate configuration: run `accelerate config`.") from error
    if not isinstance(config, dict) or "distributed_type" not in config:
        raise InputError(f"{path} is not an accelerate configuration: it has no `distributed_type`.")
    return config
