"""Runs the commands of a list on the GPUs of a machine, one command on each, and goes on where it was stopped.

    python -m benchmarks.gpu_queue benchmarks/full_size.yaml --output_dir runs/full_size --gpus 2 --seconds 540

The list is a YAML file of jobs, each with `name` and `command` (for bash; `{out}` is the output folder) and, as needed:

    gpus: 2             # cards it gets, 1 by default; `all` waits for the whole machine
    after: [a, b]       # jobs that must have succeeded before
    seconds: 120        # it is ended after this time
    threads: 4          # OMP_NUM_THREADS, the processor's cores divided by the cards by default

Jobs begin in the order of the list, a later one before an earlier one where the earlier must wait. Each sees its cards
alone (`CUDA_VISIBLE_DEVICES`) and writes to `{out}/NAME.log`; `{out}/jobs.jsonl` has a line for each that has ended.
One that has succeeded is not run again. Ctrl-C and `--seconds` end all that run, with their children.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from generator.output import InputError, read_jsonl

GRACE_SECONDS = 10
"""Time between the request to end and the end of a job."""


@dataclass(frozen=True)
class Job:
    """A line of the list; `gpus` 0 is a job without one."""

    name: str
    command: str
    gpus: int = 1
    after: tuple[str, ...] = ()
    seconds: float = float("inf")
    threads: int = 0


@dataclass
class Running:
    """A job that has begun."""

    job: Job
    process: subprocess.Popen[bytes]
    cards: list[int]
    begun: float = field(default_factory=time.monotonic)


def read_jobs(file: Path, gpus: int) -> list[Job]:
    """Jobs of a list for a machine of `gpus` cards.

    Raises:
        InputError: a job has no name or command, an unknown entry or more cards than there are, two have one name, or
            one waits for a job that does not come before it.
    """
    known = Job.__dataclass_fields__
    jobs: list[Job] = []
    for number, entry in enumerate(yaml.safe_load(file.read_text(encoding="utf-8")) or [], 1):
        names = set(entry) if isinstance(entry, dict) else set()
        if not {"name", "command"} <= names <= set(known):
            raise InputError(
                f"{file}: job {number} has {', '.join(sorted(names)) or 'no entries'}, but name and command are "
                f"needed, and {', '.join(known)} are known."
            )
        asked = gpus if entry.get("gpus") == "all" else int(entry.get("gpus", 1))
        job = Job(**entry | {"gpus": asked, "after": tuple(entry.get("after", ()))})
        before = {each.name for each in jobs}
        if asked > gpus or job.name in before or not before.issuperset(job.after):
            raise InputError(
                f"{file}: {job.name} wants {asked} of {gpus} GPUs and waits for {', '.join(job.after) or 'no job'}: it "
                "needs a name of its own, no more GPUs than there are, and to stand below what it waits for."
            )
        jobs.append(job)
    return jobs


def start(job: Job, cards: list[int], folder: Path, gpus: int) -> Running:
    """Begins a job on its cards, in a process group of its own."""
    threads = job.threads or max(1, (os.cpu_count() or 1) // max(gpus, 1))
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards)),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    with (folder / f"{job.name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", job.command.replace("{out}", str(folder))],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    return Running(job, process, cards)


def stop(running: Sequence[Running]) -> None:
    """Ends jobs and their children: first by request, those that do not heed it by force."""
    for way, grace in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        for each in running:
            with suppress(ProcessLookupError):
                os.killpg(each.process.pid, way)
        for each in running:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(grace)


def ended(each: Running, folder: Path) -> dict[str, object] | None:
    """The line about a job that has ended or had its time; None while it runs."""
    late = time.monotonic() - each.begun > each.job.seconds
    if late:
        stop([each])
    code = each.process.poll()
    if code is None:
        return None
    if not late:
        stop([each])  # what it has left behind
    row = {
        "name": each.job.name,
        "code": code,
        "seconds": round(time.monotonic() - each.begun, 1),
        "gpus": each.cards,
        "stopped": late,
    }
    with (folder / "jobs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def run(jobs: Sequence[Job], folder: Path, gpus: int, seconds: float, poll: float = 0.5) -> bool:
    """Runs what has not succeeded yet; whether all has in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "jobs.jsonl"
    rows = [row for _, row in read_jsonl(table)] if table.is_file() else []
    done = {row["name"] for row in rows if row["code"] == 0 and not row["stopped"]}
    todo, running, free = [job for job in jobs if job.name not in done], list[Running](), list(range(gpus))
    ends = time.monotonic() + seconds
    try:
        while (todo or running) and time.monotonic() < ends:
            for job in list(todo):
                if len(free) >= job.gpus and done.issuperset(job.after):
                    cards, free = free[: job.gpus], free[job.gpus :]
                    running.append(start(job, cards, folder, gpus))
                    todo.remove(job)
            if not running:
                break  # what is left waits for a job that has failed
            time.sleep(poll)
            for each in list(running):
                row = ended(each, folder)
                if row is not None:
                    running.remove(each)
                    free = sorted(free + each.cards)
                    print(f"{row['name']}: {row['seconds']} s, exit code {row['code']}", flush=True)
                    if row["code"] == 0 and not row["stopped"]:
                        done.add(each.job.name)
    finally:
        stop(running)
    for name in [each.job.name for each in running] + [job.name for job in todo]:
        print(f"{name}: not finished", flush=True)
    return done.issuperset(job.name for job in jobs)


def main() -> int:
    """Command line; exit code 0 if all jobs have succeeded, 1 if not, 2 for a wrong list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", type=Path, help="YAML file of jobs.")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--gpus", type=int, help="Cards of the machine; those that torch sees by default.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="End after this time.")
    parser.add_argument("--only", nargs="+", help="Names of the jobs to run.")
    arguments = parser.parse_args()
    if arguments.gpus is None:
        import torch

        arguments.gpus = torch.cuda.device_count()
    try:
        jobs = read_jobs(arguments.jobs, arguments.gpus)
    except (InputError, OSError, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.only:
        jobs = [job for job in jobs if job.name in arguments.only]
    return 0 if run(jobs, arguments.output_dir, arguments.gpus, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
