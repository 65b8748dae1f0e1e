"""People, messages and languages as they are seen in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeling_app.campaigns.campaigns import add_campaign
from labeling_app.people.messages import write_message
from labeling_app.store.store import Store

PASSWORD = "correct horse"


@pytest.fixture
def store(sqlite_file: Path) -> Any:
    with Store(sqlite_file) as opened:
        opened.add_user("ada", PASSWORD)
        opened.add_user("lea", PASSWORD, role="lead")
        add_campaign(opened, "main", 1, ["overall"], None, [])
        yield opened


def log_in(page: Any, url: str, name: str) -> None:
    page.goto(f"{url}/login")
    page.locator("#name").fill(name)
    page.locator("#password").fill(PASSWORD)
    page.keyboard.press("Enter")


def test_an_annotator_reads_a_message_once_and_changes_the_language(
    page: Any, store: Store, serve: Callable[..., Any], serious_findings: Callable[[Any], list[str]]
) -> None:
    write_message(store, "Please be <b>quick</b>.", sender=store.user("lea"))
    page.set_extra_http_headers({"Accept-Language": "de-DE,de;q=0.9"})
    log_in(page, serve(store).url, "ada")
    page.get_by_role("heading", name="Es gibt noch nichts zu ordnen.").wait_for()
    assert page.get_attribute("html", "lang") == "de"
    page.get_by_text("Please be <b>quick</b>.").wait_for()
    page.get_by_text("Nachricht von lea").wait_for()
    assert serious_findings(page) == []
    page.get_by_role("button", name="Gelesen").click()
    page.locator(".message").wait_for(state="detached")
    menu = page.get_by_label("Sprache")
    assert menu.locator("option:checked").inner_text() == "Deutsch (wie der Browser)"
    menu.select_option("en")
    page.get_by_role("heading", name="There is nothing to rank yet.").wait_for()
    assert page.locator(".message").count() == 0
    assert page.get_by_role("link", name="Demonstrate").count() == 1


def test_a_lead_invites_assigns_writes_and_deactivates(
    page: Any, store: Store, serve: Callable[..., Any], serious_findings: Callable[[Any], list[str]]
) -> None:
    url = serve(store).url
    log_in(page, url, "lea")
    page.locator("[data-shown=campaigns]").wait_for()
    page.goto(f"{url}/lead/#people")
    page.locator("[data-shown=people]").wait_for()
    assert serious_findings(page) == []
    page.get_by_label("Group (a new name makes one)").fill("night")
    page.locator("#group-people").select_option("ada")
    page.get_by_role("button", name="Add them").click()
    page.get_by_text("night: ada").wait_for()
    page.locator("#assign-groups").select_option("night")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("main goes to group night.").wait_for()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("is shown to 1 people").wait_for()
    page.get_by_role("button", name="Make a link").click()
    page.get_by_text("Invitation 1 is made").wait_for()
    link = page.get_by_label("Link of the new invitation").input_value()
    page.get_by_role("button", name="Deactivate…").click()
    page.get_by_role("button", name="Deactivate", exact=True).click()
    page.get_by_text("ada is inactive now.").wait_for()
    assert store.authenticate("ada", PASSWORD) is None
    page.context.clear_cookies()
    page.goto(link)
    page.get_by_label("Name").fill("eve")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make my account").click()
    page.get_by_role("heading", name="There is nothing to rank yet.").wait_for()
    assert page.url == f"{url}/rank/"
