"""Runs the commands of a list on the GPUs of a machine, one command on each, and goes on where it was stopped.

    python -m benchmarks.gpu_queue benchmarks/full_size.yaml --output_dir runs/full_size --gpus 2 --seconds 540

The list is a YAML file of jobs, each with `name` and `command` (for bash, in the project's folder; `python` is the one
that runs this, `{out}` the output folder) and, as needed:

    gpus: 2             # cards it gets, 1 by default; `all` waits for the whole machine
    after: [a, b]       # jobs that must have succeeded before
    seconds: 120        # it is ended after this time
    threads: 4          # OMP_NUM_THREADS, the processor's cores divided by the cards by default

Jobs begin in the order of the list, a later one before an earlier one where the earlier must wait. Each sees its cards
alone (`CUDA_VISIBLE_DEVICES`) and writes to `{out}/NAME.log`; `{out}/jobs.jsonl` has a line for each that has ended.
One that has succeeded is not run again. Ctrl-C, SIGTERM and `--seconds` end all that run, with their children.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from generator.one_or_several import as_list
from generator.output import InputError, read_jsonl

ROOT = Path(__file__).parents[1]
GRACE_SECONDS = 45
"""Time that a job has after an interruption to end what it has started in sessions of its own."""


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
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"{file} is no list of jobs, each with name and command: see benchmarks/full_size.yaml."
        )
    jobs: list[Job] = []
    for number, entry in enumerate(entries, 1):
        if not {"name", "command"} <= set(entry) <= set(known):
            raise InputError(
                f"{file}: job {number} has {', '.join(sorted(map(str, entry))) or 'no entries'}, but name and command "
                f"are needed, and {', '.join(known)} are known."
            )
        asked = gpus if entry.get("gpus") == "all" else entry.get("gpus", 1)
        job = Job(**entry | {"gpus": asked, "after": tuple(as_list(entry.get("after", ())))})
        before = {each.name for each in jobs}
        if not _is_sound(job) or asked > gpus or job.name in before or not before.issuperset(job.after):
            raise InputError(
                f"{file}: {job.name} wants {asked} of {gpus} GPUs and waits for {', '.join(job.after) or 'no job'}: it "
                "needs a name of its own without a slash, no more GPUs than there are, numbers for seconds and "
                "threads, and to stand below what it waits for."
            )
        jobs.append(job)
    return jobs


def _is_sound(job: Job) -> bool:
    """Returns whether name and command are texts, and the numbers are numbers."""
    texts = isinstance(job.name, str) and isinstance(job.command, str) and "/" not in job.name
    whole = all(isinstance(number, int) and number >= 0 for number in (job.gpus, job.threads))
    return texts and whole and isinstance(job.seconds, int | float) and job.seconds > 0


def start(job: Job, cards: list[int], folder: Path, gpus: int) -> Running:
    """Begins a job on its cards, in a process group of its own."""
    folder = folder.resolve()
    threads = job.threads or max(1, (os.cpu_count() or 1) // max(gpus, 1))
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards)),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    with (folder / f"{job.name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", job.command.replace("{out}", shlex.quote(str(folder)))], cwd=ROOT, env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Running(job, process, cards)


def stop(running: Sequence[Running]) -> None:
    """Interrupts jobs, as Ctrl-C does, so that they end what they have started; then kills what is left of them."""
    for way, grace in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, None)):
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
    """Runs what has not succeeded yet; returns whether all has in the end."""
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
        names = [job.name for job in jobs]
        unknown = [name for name in arguments.only or () if name not in names]
        if unknown:
            raise InputError(f"{arguments.jobs} has no job {unknown[0]}: it has {', '.join(names)}.")
    except (InputError, OSError, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.only:
        jobs = [job for job in jobs if job.name in arguments.only]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the jobs, as Ctrl-C does
    try:
        return 0 if run(jobs, arguments.output_dir, arguments.gpus, arguments.seconds) else 1
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on.", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
