"""Commands whose processes share videos: what a killed process leaves, and which GPU each of them takes."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from alignment import cli
from alignment.cli.launcher import LaunchArguments, meeting_environment, take_own_gpu
from alignment.cli.process_launcher import lost_processes
from generator.testing import tiny_generator

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("visible", "number", "expected"),
    [("", "1", ""), (None, "1", "1"), ("4,5,6", "1", "5"), ("GPU-a, GPU-b", "1", "GPU-b"), ("3", None, "3")],
)
def test_each_process_sees_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, number: str | None, expected: str
) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("LOCAL_RANK", number)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    take_own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_process_that_was_killed_is_named_and_those_that_the_launcher_ended_are_not() -> None:
    class Failure:
        def __init__(self, exitcode: int) -> None:
            self.exitcode = exitcode

    said = lost_processes({0: Failure(-signal.SIGTERM), 3: Failure(-signal.SIGKILL), 4: Failure(1)})
    assert said.splitlines() == [
        "vidalign: process 3 was ended by SIGKILL (out of memory?): what is finished is kept; run the same command "
        "again."
    ]


@pytest.mark.parametrize(
    ("backend", "machines", "again"), [("c10d", 2, True), ("c10d", 1, False), ("static", 2, False)]
)
def test_each_meeting_of_machines_that_may_join_again_tells_the_address(
    backend: str, machines: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    arguments = argparse.Namespace(**vars(LaunchArguments(rdzv_backend=backend, num_machines=machines)))
    for name, value in meeting_environment(arguments).items():
        monkeypatch.setenv(name, value)
    shares: Any = DynamicRendezvousHandler.use_agent_store
    assert shares.fget(None) != again


@pytest.mark.parametrize(
    ("rank", "call", "code", "said"),
    [("0", "lambda: 2", 2, ""), ("1", "lambda: 1 / 0", 1, "ZeroDivisionError"), (None, "lambda: 2", 2, "")],
)
def test_one_of_several_processes_ends_at_once_after_its_traceback(
    rank: str | None, call: str, code: int, said: str
) -> None:
    """Without the interpreter's own end, which the threads of torch.distributed now and then abort."""
    program = (
        "import atexit; from alignment.cli.command_line import end_process; "
        f"atexit.register(print, 'end of the interpreter'); print('last words'); end_process({call})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if rank is None else {"RANK": rank})
    words = [sys.executable, "-c", program]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert said in result.stderr
    assert result.stdout.splitlines() == ["last words"] + ["end of the interpreter"] * (rank is None)


def processes_of(launcher: int) -> Iterable[int]:
    """The numbers of all processes that a process has started, and that these have."""
    for task in Path(f"/proc/{launcher}/task").glob("*"):
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from processes_of(int(child))


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_video(tmp_path: Path) -> None:
    """One of two is killed in the middle; the same command then makes what is missing, as one process would."""
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    words = (
        f"generate --model {tmp_path / 'model'} --prompts world:test:12 --num_frames 5 --height 16 --width 16"
        " --num_inference_steps 100 --batch_size 2 --seed 3 --output_dir "
    )
    out = tmp_path / "killed"
    launched = f"{words}{out} --accelerate_config multi_gpu --num_processes 2"
    running = subprocess.Popen(
        [sys.executable, "-m", "alignment.cli", *launched.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 200
    while len(list(out.glob("*.mp4"))) < 4:
        assert time.monotonic() < end
        assert running.poll() is None
        time.sleep(0.02)
    rank_1 = next(
        number
        for number in processes_of(running.pid)
        if b"\0RANK=1\0" in Path(f"/proc/{number}/environ").read_bytes()
    )
    os.kill(rank_1, signal.SIGKILL)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "process 1 was ended by SIGKILL" in said
    assert "Traceback" not in said
    shown = [float(number) for number in re.findall(r"([\d.]+)/12 videos", said)]
    assert max(shown) > 3.5  # the first process alone had not made so many
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert 4 <= len(kept) < 12
    assert cli.main(f"{words}{out}") == 0
    assert cli.main(f"{words}{tmp_path / 'whole'}") == 0
    assert all((out / name).stat().st_mtime_ns == written for name, written in kept.items())
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in out.iterdir() if not path.name.endswith(".tmp.mp4")) == names
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
