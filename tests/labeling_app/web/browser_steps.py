"""Steps of annotators in a browser, for the tests of their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"


def log_in(page: Page, server: Any) -> None:
    """Logs Ada in, and waits for her first task."""
    page.goto(server.url)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".card")
