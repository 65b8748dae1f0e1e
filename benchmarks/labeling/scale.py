"""Times of the lead's pages and of the next task in a campaign of many videos.

    python -m benchmarks.labeling.scale --db scale.db
    python -m benchmarks.labeling.scale --db postgresql://user@host/empty

A campaign of `--videos` videos, four a task, of which `--judged` of the tasks have the answers of two annotators; some
are flagged, skipped or in dispute. Every page is asked for over HTTP, from a server in a process of its own, `--rounds`
times after the first call; `--db` is the path of a new SQLite file or the URL of an empty PostgreSQL database. Of a
page whose figures are made for the first time, the first call is answered with how far they are; `made` is then when
they were there. At the end the server is killed and started again, and the first call of each page is measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import insert, update

from benchmarks.labeling.load import Connection, Server
from generator.video import write_video
from labeling_app.files.candidates import inspect_video
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Campaign, Judgement, Media, Task, TaskVideo, new_token

VIDEOS_A_TASK = 4
ANNOTATORS = 20
OVERLAP = 2
PAGES = (
    "overview",
    "quality?campaign=scale",
    "plots/annotators.svg?campaign=scale",
    "plots/speed.svg?campaign=scale",
    "plots/positions.svg?campaign=scale",
    "plots/days.svg?campaign=scale",
    "disagreements?campaign=scale",
    "demonstrations?campaign=scale",
    "users",
    "audit",
)


def fill(store: Store, folder: Path, videos: int, judged: float) -> str:
    """Fills an empty store; returns the cookie of a lead."""
    first = folder / "0.mp4"
    write_video(first, torch.zeros(3, 4, 32, 32), 8.0)
    looked = inspect_video(first)
    tasks = videos // VIDEOS_A_TASK
    paths = [folder / f"{number}.mp4" for number in range(VIDEOS_A_TASK * tasks)]
    for path in paths[1:]:
        shutil.copyfile(first, path)
    now, drawn = store.clock(), random.Random(0)
    people = [store.add_user(f"simulated-{number}", simulated=True) for number in range(ANNOTATORS)]
    lead = store.open_session(store.add_user("lead", "a long password", role="admin"))
    with store.write() as session:
        campaign = Campaign(name="scale", overlap=OVERLAP, dimensions=["overall"], created_at=now)
        session.add(campaign)
        session.flush()
        facts = {"sha256": looked.sha256, "content_type": "video/mp4", "fps": 8.0, "num_frames": 4}
        media = [{"id": new_token(), "path": str(path), "width": 32, "height": 32, **facts} for path in paths]
        session.execute(insert(Media), media)
        done = round(judged * tasks)
        same = {"campaign_id": campaign.id, "kind": "normal", "created_at": now}
        rows = [
            {"prompt": f"prompt {n}", "fingerprint": str(n), **same}
            | {"completed": OVERLAP if n < done else 0, "filled": n < done}
            for n in range(tasks)
        ]
        session.execute(insert(Task), rows)
        ids = list(session.scalars(Task.__table__.select().with_only_columns(Task.id).order_by(Task.id)))
        places = [
            {"task_id": ids[n // VIDEOS_A_TASK], "position": n % VIDEOS_A_TASK, "media_id": each["id"]}
            for n, each in enumerate(media)
        ]
        session.execute(insert(TaskVideo), places)
        assignments, judgements = [], []
        for task in ids[:done]:
            true = drawn.sample(range(1, VIDEOS_A_TASK + 1), VIDEOS_A_TASK)
            for person in drawn.sample(people, OVERLAP):
                skipped = drawn.random() < 0.02
                ranks = true if drawn.random() < 0.8 else drawn.sample(true, VIDEOS_A_TASK)
                about = {"task_id": task, "user_id": person.id}
                order = drawn.sample(range(VIDEOS_A_TASK), VIDEOS_A_TASK)
                times = {"assigned_at": now, "expires_at": now, "permutation": order, "token": new_token()}
                assignments.append({**about, **times, "state": "skipped" if skipped else "done"})
                judgements.append(
                    {**about, "dimension": "overall", "version": 1, "seconds": drawn.uniform(5, 40)}
                    | {"ranks": None if skipped else ranks, "skip_reason": "blurred" if skipped else ""}
                    | {
                        "flag": "odd" if drawn.random() < 0.01 else "",
                        "created_at": now - drawn.uniform(0, 1e6),
                    }
                )
        if judgements:
            session.execute(insert(Assignment), assignments)
            session.execute(insert(Judgement), judgements)
        session.execute(update(Campaign).values(state="open"))
    return lead


async def measure(port: int, lead: str, people: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the first call of each page, until its figures were made, and median and 95th percentile of the
    later calls."""
    connection, found = Connection(port, lead), {}
    for page in PAGES:
        first, made = await first_call(connection, page)
        seconds = []
        for _ in range(rounds):
            begin = time.perf_counter()
            status = await get(connection, f"/api/lead/{page}")
            seconds.append(time.perf_counter() - begin)
            assert status == 200, (page, status)
        found[page.split("?")[0]] = summary(first, seconds) | ({"made": round(1000 * made)} if made else {})
    seconds = []
    for cookie in people:
        annotator = Connection(port, cookie)
        for _ in range(max(1, rounds)):
            begin = time.perf_counter()
            _, answer = await annotator.call("GET", "/api/next")
            seconds.append(time.perf_counter() - begin)
            task = answer["task"]
            assert isinstance(task, dict)
            body = {"ranks": {"overall": [1, 2, 3, 4]}, "seconds": 1.0}
            await annotator.call("POST", f"/api/assignments/{task['assignment']}/judgement", body)
    found["next task"] = summary(seconds[0], seconds[1:])
    return found


async def first_call(connection: Connection, page: str) -> tuple[float, float]:
    """Seconds of the first call of a page, and seconds until its figures were made; 0 where they were there."""
    begin = time.perf_counter()
    status = await get(connection, f"/api/lead/{page}")
    first, made = time.perf_counter() - begin, 0.0
    while status == 202:
        await asyncio.sleep(0.2)
        status = await get(connection, f"/api/lead/{page}")
        made = time.perf_counter() - begin
    assert status == 200, (page, status)
    return first, made


async def first_calls(port: int, lead: str) -> dict[str, float]:
    """Milliseconds of the first call of each page."""
    connection = Connection(port, lead)
    return {page.split("?")[0]: round(1000 * (await first_call(connection, page))[0]) for page in PAGES}


async def get(connection: Connection, path: str) -> int:
    """Status of a GET, whose body need not be JSON."""
    try:
        return (await connection.call("GET", path))[0]
    except json.JSONDecodeError:
        return 200


def summary(first: float, later: list[float]) -> dict[str, float]:
    """Milliseconds of the first call, and median and 95th percentile of the others."""
    p50, p95 = np.percentile(later, [50, 95])
    return {"first": round(1000 * first), "p50": round(1000 * p50), "p95": round(1000 * p95)}


def main() -> None:
    """Runs and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", required=True)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--judged", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, Store(arguments.db) as store:
        lead = fill(store, Path(folder), arguments.videos, arguments.judged)
        people = [store.open_session(user) for user in store.users() if user.simulated]
        server = Server(arguments.db, port)
        try:
            found = asyncio.run(measure(port, lead, people, arguments.rounds))
            server.kill_and_restart()
            for page, first in asyncio.run(first_calls(port, lead)).items():
                found[page]["started_again"] = first
        finally:
            server.stop()
    print(
        json.dumps({"videos": arguments.videos, "judged": arguments.judged, "milliseconds": found}, indent=2)
    )


if __name__ == "__main__":
    main()
