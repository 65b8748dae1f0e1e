"""A newcomer and a lead from the invitation to the export, with nothing but what the pages say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_app.campaigns.campaigns import Rules, set_rules
from labeling_app.files.candidates import import_tasks
from labeling_app.store.guidelines import set_guidelines
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"


@pytest.fixture
def store(sqlite_file: Path, write_candidates: Callable[..., Path]) -> Iterator[Store]:
    """Three tasks of three videos with guidelines and reasons, and a lead."""
    folder = write_candidates([f"a red circle moves right, take {number}" for number in range(3)], 3)
    with Store(sqlite_file) as opened:
        import_tasks(opened, folder, campaign="main")
        set_rules(opened, "main", Rules(tags=["artefact", "wrong motion"]))
        set_guidelines(opened, "main", "# How to rank\n\nLook at **motion** first.")
        opened.add_user("lea", PASSWORD, role="lead")
        yield opened


def rank_by_keys(page: Page, number: int, keys: str) -> None:
    """Ranks videos A, B and C of a task by the keys that its hint names, and submits."""
    page.get_by_text(f"Task {number} of 3", exact=True).wait_for()
    page.get_by_text("Give video A a place: press 1–3").wait_for()
    for key in keys:
        page.keyboard.press(key)
    page.get_by_text("Every video has a place.").wait_for()
    page.wait_for_function("!document.querySelector('.card:not(.seen)')")
    page.get_by_role("button", name="Submit").click()


def test_a_newcomer_ranks_three_tasks_and_the_lead_exports_them(
    page: Page, store: Store, serve: Callable[..., Any], tmp_path: Path
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    url = serve(store).url
    # The lead invites.
    page.goto(url)
    page.get_by_label("Name").fill("lea")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="People").click()
    page.get_by_role("button", name="Make a link").click()
    page.get_by_text("Invitation 1 is made").wait_for()
    link = page.get_by_label("Link of the new invitation").input_value()
    page.get_by_role("button", name="Log out").click()
    # The newcomer makes an account and reads the guidelines.
    page.goto(link)
    page.get_by_label("Name").fill("eve")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make my account").click()
    page.get_by_role("heading", name="How to rank").wait_for()
    page.get_by_role("button", name="I have read them").click()
    # The page's head names every module, so that none waits for another.
    loaded = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
    modules = {name for name in loaded if name.startswith(f"{url}/static/") and name.endswith(".js")}
    named = page.evaluate("[...document.querySelectorAll('link[rel=modulepreload]')].map(({ href }) => href)")
    assert f"{url}/static/ranking/marks.js" in modules
    assert modules == {name for name in named if name.startswith(f"{url}/static/")}
    rank_by_keys(page, 1, "312")
    rank_by_keys(page, 2, "112")  # a tie
    page.get_by_text("Task 3 of 3", exact=True).wait_for()
    page.keyboard.press("c")
    page.get_by_role("heading", name="What is wrong with video C?").wait_for()
    page.get_by_role("button", name="wrong motion").click()
    page.keyboard.press("a")
    rank_by_keys(page, 3, "123")
    page.get_by_role("heading", name="All done. Thank you!").wait_for()
    page.get_by_role("button", name="Log out").click()
    # The lead exports.
    page.get_by_label("Name").fill("lea")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Quality").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Rankings with the decisions").click()
    download.value.save_as(tmp_path / "rankings.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rankings.jsonl").read_text().splitlines()]
    with store.read() as session:
        orders = dict(session.execute(select(Assignment.task_id, Assignment.permutation)).tuples().all())
    shown = [[row["ranks"][place] for place in orders[number]] for number, row in enumerate(rows, start=1)]
    assert shown == [[3, 1, 2], [1, 1, 2], [1, 2, 3]]
    assert {row["annotator"] for row in rows} == {"eve"}
    assert [row["tags"] for row in rows] == [
        [], [], [{"video": rows[2]["videos"][orders[3][2]], "tag": "wrong motion"}],
    ]  # fmt: skip
    assert errors == []
