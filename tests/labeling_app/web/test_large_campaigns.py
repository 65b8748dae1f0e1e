"""Pages of a large campaign, whose figures take long: they say how far these are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from labeling_app.files.candidates import import_tasks
from labeling_app.store import store as store_module
from labeling_app.store.store import Store
from labeling_app.web import lead_api
from labeling_app.web.access import COOKIE
from labeling_app.web.server import create_app

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def slow(
    tmp_path: Path, candidates: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Store, threading.Event]]:
    """A store with a large campaign whose figures are made once the event is set."""
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, candidates, campaign="main", overlap=2)
        monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
        monkeypatch.setattr(lead_api, "PATIENCE", 0.0)
        judgements, going = store.judgements, threading.Event()

        def waiting(*arguments: Any, **options: Any) -> Any:
            going.wait(20)
            return judgements(*arguments, **options)

        monkeypatch.setattr(store, "judgements", waiting)
        yield store, going
        going.set()


def test_figures_of_a_large_campaign_are_announced_while_they_are_made(
    slow: tuple[Store, threading.Event],
) -> None:
    store, going = slow
    lea = TestClient(create_app(store))
    lea.cookies.set(COOKIE, store.open_session(store.add_user("lea", "a long password", role="lead")))
    for page in ("quality", "disagreements"):
        told = lea.get(f"/api/lead/{page}?campaign=main")
        assert (told.status_code, told.json()["computing"], told.headers["retry-after"]) == (202, 0.0, "1")
        assert "0% is done" in told.json()["message"]
    going.set()
    for _ in range(500):
        told = lea.get("/api/lead/quality?campaign=main")
        if told.status_code == 200 and told.json()["changed_files"] is not None:
            break
        time.sleep(0.01)
    assert (told.status_code, told.json()["changed_files"], told.json()["files_checked"]) == (200, [], 1.0)


def test_the_page_shows_how_far_figures_are_and_then_the_figures(
    slow: tuple[Store, threading.Event], serve: Callable[..., Any], page: Page
) -> None:
    store, going = slow
    store.add_user("lea", "a long password", role="lead")
    server = serve(store)
    page.goto(f"{server.url}/login")
    page.get_by_label("Name").fill("lea")
    page.get_by_label("Password").fill("a long password")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/lead/")
    page.goto(f"{server.url}/lead/#quality")
    page.get_by_role("progressbar", name="Share that is done").wait_for()
    assert page.get_by_text("0% is done").is_visible()
    going.set()
    page.get_by_role("heading", name="Annotators").wait_for()
    assert page.get_by_role("progressbar").count() == 0
