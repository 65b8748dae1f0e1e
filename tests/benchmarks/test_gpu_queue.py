"""The queue of commands for the GPUs of a machine: order, cards, what is run again, and what is ended."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.gpu_queue import Job, read_jobs, run
from generator.output import InputError

LISTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.yaml"))


def _rows(folder: Path) -> dict[str, dict]:
    lines = (folder / "jobs.jsonl").read_text().splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def test_each_job_has_its_cards_and_waits_for_what_it_needs(tmp_path: Path) -> None:
    show = 'echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" > {out}/$NAME; sleep 0.3'
    jobs = [
        Job("both", f"NAME=both; {show}; touch {{out}}/begun", gpus=2, threads=3),
        Job("one", f"NAME=one; test -e {{out}}/begun && {show}", after=("both",)),
        Job("other", f"NAME=other; {show}"),
        Job("none", f"NAME=none; {show}", gpus=0),
    ]
    assert run(jobs, tmp_path, gpus=2, seconds=60, poll=0.05)
    seen = {name: (tmp_path / name).read_text().rstrip("\n") for name in ("both", "one", "other", "none")}
    each = max(1, (os.cpu_count() or 1) // 2)
    assert seen == {"both": "0,1 3", "one": f"0 {each}", "other": f"1 {each}", "none": f" {each}"}
    assert _rows(tmp_path)["one"]["gpus"] == [0]


def test_what_has_failed_is_run_again_and_holds_back_what_waits_for_it(tmp_path: Path, capsys) -> None:
    jobs = [
        Job("good", "echo said >> {out}/good.txt"),
        Job("bad", "test -e {out}/mended"),
        Job("late", "echo ran > {out}/late.txt", after=("bad",)),
    ]
    assert not run(jobs, tmp_path, gpus=1, seconds=60, poll=0.05)
    assert _rows(tmp_path)["bad"]["code"] == 1
    assert not (tmp_path / "late.txt").exists()
    assert "late: not finished" in capsys.readouterr().out
    (tmp_path / "mended").touch()
    assert run(jobs, tmp_path, gpus=1, seconds=60, poll=0.05)
    assert (tmp_path / "good.txt").read_text() == "said\n"  # run once
    assert (tmp_path / "late.txt").read_text() == "ran\n"


def test_jobs_are_ended_with_their_children_when_their_time_is_up(tmp_path: Path) -> None:
    begun = time.monotonic()
    sleeper = "(sleep 30; touch {out}/outlived) & wait"
    assert not run([Job("long", sleeper, seconds=0.3)], tmp_path, gpus=1, seconds=60, poll=0.05)
    assert _rows(tmp_path)["long"]["stopped"]
    assert not run([Job("longer", sleeper)], tmp_path, gpus=1, seconds=0.5, poll=0.05)
    assert time.monotonic() - begun < 15
    assert "longer" not in _rows(tmp_path)
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


STARTER = """
import subprocess, sys
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
print(child.pid, flush=True)
try:
    child.wait()
finally:
    child.kill()
    child.wait()
"""


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_queue_lets_jobs_end_what_they_have_started(
    way: signal.Signals, tmp_path: Path
) -> None:
    """As benchmarks do whose processes have sessions of their own; the command runs in another folder."""
    (tmp_path / "starter.py").write_text(STARTER)
    out = tmp_path / "an output"
    command = "python {out}/../starter.py"
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump([{"name": "a", "command": command, "gpus": 0}]))
    words = [
        sys.executable,
        "-m",
        "benchmarks.gpu_queue",
        "jobs.yaml",
        "--output_dir",
        out.name,
        "--gpus",
        "0",
    ]
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    queue = subprocess.Popen(words, cwd=tmp_path, env=os.environ | path, stdout=subprocess.PIPE, text=True)
    log, ends = out / "a.log", time.monotonic() + 60
    while not (log.is_file() and log.read_text()) and time.monotonic() < ends:
        time.sleep(0.05)
    child = int(log.read_text())
    queue.send_signal(way)
    assert "Interrupted: the same command goes on." in queue.communicate(timeout=60)[0]
    assert queue.returncode == 130
    assert not Path(f"/proc/{child}").exists()


def test_a_job_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump([{"name": "a", "command": "true"}]))
    words = [str(tmp_path / "jobs.yaml"), "--output_dir", str(tmp_path / "out"), "--gpus", "1", "--only", "b"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_queue", *words], capture_output=True, text=True
    )
    assert (result.returncode, (tmp_path / "out").exists()) == (2, False)
    assert result.stderr.endswith("jobs.yaml has no job b: it has a.\n")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"name": "a"}, "is no list of jobs"),
        ([{"name": "a", "command": "true", "gpus": "two"}], "a wants two of 2 GPUs"),
        ([{"name": "a", "command": "true", "seconds": "long"}], "numbers for seconds"),
        ([{"name": "a/b", "command": "true"}], "without a slash"),
        ([{"name": "a"}], "job 1 has name, but name and command are needed"),
        ([{"name": "a", "command": "true", "cards": 1}], "job 1 has cards, command, name"),
        ([{"name": "a", "command": "true", "gpus": 3}], "a wants 3 of 2 GPUs"),
        ([{"name": "a", "command": "true", "after": ["b"]}], "waits for b"),
        ([{"name": "a", "command": "true"}] * 2, "a name of its own"),
    ],
)
def test_lists_that_cannot_run_are_refused(entries: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(yaml.safe_dump(entries))
    with pytest.raises(InputError, match=said):
        read_jobs(file, gpus=2)
    words = [sys.executable, "-m", "benchmarks.gpu_queue", str(file), "--gpus", "2"]
    result = subprocess.run([*words, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True)
    assert (result.returncode, (tmp_path / "out").exists()) == (2, False)
    assert said in result.stderr


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_the_lists_that_ship_name_modules_and_options_that_are_there(file: Path) -> None:
    jobs = read_jobs(file, gpus=2)
    assert jobs
    for job in jobs:
        module, *words = shlex.split(job.command.removeprefix("python -m "))
        source = Path(*module.split(".")).with_suffix(".py")
        folder = source.parent if source.name == "run.py" else source
        text = "".join(each.read_text() for each in ([folder] if folder == source else folder.glob("*.py")))
        missing = [word for word in words if word.startswith("--") and f'"{word}"' not in text]
        assert not missing, job.name
