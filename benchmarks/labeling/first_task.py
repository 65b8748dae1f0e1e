"""Time until an annotator sees the first task in Chromium.

    python -m benchmarks.labeling.first_task --db first.db

A campaign of `--tasks` tasks of four videos, a server in a process of its own, and for each of `--rounds` annotators,
already logged in, a browser context that has nothing of the page yet. The clock runs from the request of the page until
every video of the task shows a frame, and until the page may be submitted by keys (its places are there). `--db` is the
path of a new SQLite file or the URL of an empty PostgreSQL database. The browser is Debian's Chromium unless
`--chromium` names another.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright
from torch.nn.functional import interpolate

from benchmarks.labeling.load import Server
from generator.video import write_video
from labeling_app.files.candidates import inspect_video
from labeling_app.store.new_tasks import NewTask
from labeling_app.store.store import Store

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PLACES_ARE_THERE = "document.querySelectorAll('.rank-column').length === 4"
FRAMES_ARE_SHOWN = (
    "(() => { const videos = [...document.querySelectorAll('.card video')];"
    " return videos.length === 4 && videos.every((video) => video.readyState > 1); })()"
)


def fill(store: Store, folder: Path, tasks: int, annotators: int) -> list[str]:
    """Imports tasks with two seconds of blurred noise at 480 × 272 pixels; returns the annotators' cookies."""
    random = torch.Generator().manual_seed(0)
    videos = []
    for number in range(4):
        path = folder / f"{number}.mp4"
        coarse = torch.rand(1, 3, 33, 17, 30, generator=random) * 2 - 1
        write_video(path, interpolate(coarse, size=(33, 272, 480), mode="trilinear")[0], 16.0)
        videos.append(inspect_video(path))
    store.add_tasks(
        "first", [NewTask(f"prompt {n}", tuple(videos)) for n in range(tasks)], overlap=annotators
    )
    store.add_user("lead", "a long password", role="admin")
    return [store.open_session(store.add_user(f"simulated-{n}", simulated=True)) for n in range(annotators)]


def visit(browser: Any, port: int, cookie: str) -> dict[str, float]:
    """Milliseconds until the places and until all videos are there, and kilobytes that came without the videos."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    url = f"http://127.0.0.1:{port}/"
    context.add_cookies([{"name": f"vidalign_session_{port}", "value": cookie, "url": url}])
    page = context.new_page()
    begin = time.perf_counter()
    page.goto(f"{url}rank/", wait_until="commit")
    page.wait_for_function(PLACES_ARE_THERE)
    places = time.perf_counter() - begin
    page.wait_for_function(FRAMES_ARE_SHOWN)
    frames = time.perf_counter() - begin
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').filter((each) => !each.name.includes('/media/'))"
        ".map((each) => each.transferSize)"
    )
    context.close()
    return {"places": 1000 * places, "videos": 1000 * frames, "kilobytes": sum(sizes) / 1000}


def main() -> None:
    """Runs and prints JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", required=True)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(arguments.db) as store,
        sync_playwright() as playwright,
    ):
        cookies = fill(store, Path(folder), arguments.tasks, arguments.rounds)
        server = Server(arguments.db, port)
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
        try:
            found = [visit(browser, port, cookie) for cookie in cookies]
        finally:
            browser.close()
            server.stop()
    for what in ("places", "videos", "kilobytes"):
        values = [each[what] for each in found]
        first, later = round(values[0]), values[1:]
        print(
            json.dumps(
                {what: {"first": first, "median": round(statistics.median(later)), "most": round(max(later))}}
            )
        )


if __name__ == "__main__":
    main()
