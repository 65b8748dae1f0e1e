"""Load and durability of the labeling server.

    python -m benchmarks.labeling.load --db load.db --annotators 200 --tasks 400 --overlap 5 --think_seconds 2
    python -m benchmarks.labeling.load --db kill.db --tasks 2000 --overlap 5 --think_seconds 0.5 --kill_every 6

Simulated annotators fetch tasks and answer them over HTTP, all at once, until nothing is left. With
`--kill_every` the server is killed with SIGKILL so often and started again. At the end the database is read: every
acknowledged answer must be there, no task may have more annotators than its overlap, nobody the same task twice.
Times are of whole requests as the client sees them; client and server share the machine. `--db` is the path of a
new SQLite file or the URL of an empty PostgreSQL database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from generator.video import write_video
from labeling_app.files.candidates import inspect_video
from labeling_app.store.new_tasks import NewTask
from labeling_app.store.store import Store

IDLE_SECONDS = 3.0
"""After so long a client opens a new connection; uvicorn closes idle ones after five seconds."""


@dataclass
class Record:
    """Observations of the clients: seconds of each kind of request, acknowledged answers, lost connections."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "judgement": []})
    acknowledged: list[str] = field(default_factory=list)
    lost_connections: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    kills: int = 0


class Connection:
    """A kept-alive HTTP connection; small, so that the client takes little of the machine it measures."""

    def __init__(self, port: int, cookie: str) -> None:
        self.port, self.cookie = port, cookie
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.last_used = 0.0

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        """Status and JSON of the response; ConnectionError where the server went away."""
        if self.streams is not None and time.perf_counter() - self.last_used > IDLE_SECONDS:
            self.streams[1].close()
            self.streams = None
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        content = b"" if body is None else json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Cookie: vidalign_session_{self.port}={self.cookie}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in head if line.startswith("content-length:"))
            answer = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            self.streams = None
            raise ConnectionError from error
        self.last_used = time.perf_counter()
        return int(head[0].split()[1]), json.loads(answer)


class Server:
    """`vidalign label serve` in a process of its own."""

    def __init__(self, database: str, port: int) -> None:
        self.command = [sys.executable, "-m", "alignment.cli", "label", "serve", "--db", database]
        self.command += ["--port", str(port)]
        self.port = port
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError("The server did not start.")

    def kill_and_restart(self) -> None:
        """As if the machine had lost its power, as far as the process can tell."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def stop(self) -> None:
        """Ends it politely."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def cpu_seconds(self) -> float:
        """Processor time of the server so far; NaN where the system does not tell (other than Linux)."""
        try:
            fields_of_process = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields_of_process[11]) + int(fields_of_process[12])) / os.sysconf("SC_CLK_TCK")


def prepare(store: Store, folder: Path, arguments: argparse.Namespace) -> dict[str, str]:
    """Imports tasks and logs the annotators in; returns their cookies."""
    videos = []
    for number in range(4):
        path = folder / f"{number}.mp4"
        write_video(path, torch.full((3, 8, 32, 32), number / 4), 8.0)
        videos.append(inspect_video(path))
    tasks = [NewTask(f"prompt {number}", tuple(videos)) for number in range(arguments.tasks)]
    store.add_tasks("load", tasks, overlap=arguments.overlap)
    store.add_user("lead", "a long password", role="admin")
    names = [f"simulated-{number}" for number in range(arguments.annotators)]
    return {name: store.open_session(store.add_user(name, simulated=True)) for name in names}


async def annotate(connection: Connection, record: Record, think_seconds: float, seed: int) -> None:
    """One annotator's work until nothing is left."""
    drawn = random.Random(seed)
    await asyncio.sleep(drawn.uniform(0, think_seconds))
    idle = 0
    while idle < 3:
        try:
            begin = time.perf_counter()
            status, answer = await connection.call("GET", "/api/next")
            record.seconds["next"].append(time.perf_counter() - begin)
            task = answer.get("task") if status == 200 else None
            if not isinstance(task, dict):
                # The last tasks may be in other hands and come free again.
                idle += 1
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(drawn.expovariate(1 / think_seconds) if think_seconds else 0)
            ranks = [drawn.randint(1, 4) for _ in range(4)]
            body = {"ranks": {"overall": ranks}, "seconds": 1.0}
            begin = time.perf_counter()
            status, _ = await connection.call(
                "POST", f"/api/assignments/{task['assignment']}/judgement", body
            )
            record.seconds["judgement"].append(time.perf_counter() - begin)
            if status == 200:
                record.acknowledged.append(str(task["assignment"]))
            else:
                record.refusals[status] += 1
            idle = 0
        except (ConnectionError, OSError):
            record.lost_connections += 1
            await asyncio.sleep(0.2)


async def run(arguments: argparse.Namespace, server: Server, cookies: dict[str, str]) -> Record:
    """All annotators at once, and the killer."""
    record = Record()

    async def kill() -> None:
        while True:
            await asyncio.sleep(arguments.kill_every)
            await asyncio.to_thread(server.kill_and_restart)
            record.kills += 1

    killer = asyncio.create_task(kill()) if arguments.kill_every else None
    await asyncio.gather(
        *(
            annotate(Connection(server.port, cookie), record, arguments.think_seconds, number)
            for number, cookie in enumerate(cookies.values())
        )
    )
    if killer is not None:
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)
    return record


def check(store: Store, record: Record, overlap: int) -> dict[str, int]:
    """Faults of the database; all zeros are right."""
    from sqlalchemy import select

    from labeling_app.store.tables import Assignment

    judgements = store.judgements("load", all_versions=True)
    rows = Counter((judgement.task_id, judgement.user_id) for judgement in judgements)
    annotators = Counter(task for task, _ in rows)
    with store.read() as session:
        owners = {a.token: (a.task_id, a.user_id) for a in session.scalars(select(Assignment)).unique()}
    return {
        "judgements": len(judgements),
        "lost": sum(owners[assignment] not in rows for assignment in record.acknowledged),
        "duplicates": sum(count > 1 for count in rows.values()),
        "above_overlap": sum(count > overlap for count in annotators.values()),
        "wrong_counters": sum(t.completed != annotators[t.id] for t in store.tasks("load")),
    }


def main() -> None:
    """Runs and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", required=True)
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--overlap", type=int, default=5)
    parser.add_argument("--think_seconds", type=float, default=2.0)
    parser.add_argument("--kill_every", type=float, default=0.0)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, Store(arguments.db) as store:
        cookies = prepare(store, Path(folder), arguments)
        server = Server(arguments.db, port)
        begin, cpu_before = time.perf_counter(), server.cpu_seconds()
        try:
            record = asyncio.run(run(arguments, server, cookies))
            cpu = server.cpu_seconds() - cpu_before
        finally:
            server.stop()
        taken = time.perf_counter() - begin
        result: dict[str, object] = {
            "arguments": {**vars(arguments), "db": store.url.split(":")[0].split("+")[0]},
            "seconds": round(taken, 1),
            "server_cpu_milliseconds_a_request": None
            if arguments.kill_every
            else round(1000 * cpu / sum(map(len, record.seconds.values())), 2),
            "acknowledged": len(record.acknowledged),
            "refusals": dict(record.refusals),
            "kills": record.kills,
            "lost_connections": record.lost_connections,
            **check(store, record, arguments.overlap),
        }
        for kind, seconds in record.seconds.items():
            p50, p95, p99 = (round(1000 * float(np.percentile(seconds, p))) for p in (50, 95, 99))
            result[f"{kind}_milliseconds"] = {"p50": p50, "p95": p95, "p99": p99, "requests": len(seconds)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
