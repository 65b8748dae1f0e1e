"""A real browser that has worked with one database and then meets another at the same address."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from labeling_app.files.candidates import import_tasks
from labeling_app.store.backup import backup, restore
from labeling_app.store.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
PIXEL = """
() => [...document.querySelectorAll('.card video')].map((video) => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
})
"""


def store_of(folder: Path, colour: str) -> Store:
    """A database with one task of three clips of a colour, and the annotator Ada."""
    clips = folder / colour
    clips.mkdir()
    rows = []
    for number in range(3):
        with av.open(str(clips / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            image = np.full((64, 64, 3), COLOURS[colour], np.uint8)
            image[0, 0] = number * 40  # the contents differ, as those of videos do
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        rows.append({"file_name": f"{number}.mp4", "prompt": f"a {colour} square"})
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(folder / f"{colour}.db")
    import_tasks(store, clips, campaign="main")
    store.add_user("ada", PASSWORD)
    return store


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    if not page.url.endswith("/login"):
        page.goto(f"{url}/login")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_function(
        "document.querySelectorAll('.card').length && !document.querySelector('.card:not(.seen)')"
    )


def test_the_second_database_on_a_port_shows_its_own_clips_and_no_draft_of_the_first(
    page: Page, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    port = 0
    for colour in ("red", "blue"):
        with store_of(tmp_path, colour) as store:
            server = serve(store, port)
            port = server.port
            log_in(page, server.url)
            assert page.locator(".prompt-text").inner_text() == f"a {colour} square"
            channel = {"red": 0, "blue": 2}[colour]
            assert [np.argmax(shown) for shown in page.evaluate(PIXEL)] == [channel] * 3
            assert page.locator(".rank-column .chip").count() == 0
            page.keyboard.press("1")
            server.stop()


def test_nothing_that_a_browser_keeps_fits_a_restored_database(
    page: Page, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    addresses = []
    with store_of(tmp_path, "red") as store:
        server = serve(store)
        log_in(page, server.url)
        page.keyboard.press("1")
        addresses.append(page.evaluate("document.querySelector('.card video').currentSrc"))
        backup(store.url, tmp_path / "copy.db")
        server.stop()
    restore(tmp_path / "copy.db", tmp_path / "restored.db")
    with Store(tmp_path / "restored.db") as store:
        server = serve(store, server.port)
        page.goto(f"{server.url}/rank/")
        assert page.url.endswith("/login")  # the cookie is the original's too
        log_in(page, server.url)
        addresses.append(page.evaluate("document.querySelector('.card video').currentSrc"))
        assert page.locator(".rank-column .chip").count() == 0
        server.stop()
    assert addresses[0] != addresses[1]
