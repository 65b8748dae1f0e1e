"""The ranking page on a phone, upright and on its side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labeling_app.store.store import Store
from tests.labeling_app.web.browser_steps import PASSWORD, log_in

if TYPE_CHECKING:
    from playwright.sync_api import Page

PLACES_AND_VIDEOS = """() => {
    const box = (element) => element.getBoundingClientRect();
    const places = box(document.querySelector('.rank-columns'));
    return {
        columns: new Set([...document.querySelectorAll('.card')].map((card) => Math.round(box(card).left))).size,
        inSight: places.top >= -1 && places.bottom <= window.innerHeight + 1,
        wide: document.documentElement.scrollWidth > window.innerWidth,
        height: places.height,
    };
}"""
NAMED_KEYS = r"""
[...document.querySelectorAll('.ranking-page *')].flatMap((e) => [e.title, e.ariaLabel, e.textContent])
    .filter((text) => text && /\((Space|[A-Z,.])\)|press 1|Keyboard/.test(text))
"""


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def touch(page: Page) -> None:
    """Makes the browser one that is used by fingers."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})


def test_on_a_phone_the_places_stay_in_sight_and_no_key_is_named(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    touch(page)
    page.set_viewport_size({"width": 390, "height": 844})
    log_in(page, serve(filled))
    assert page.evaluate("matchMedia('(pointer: coarse)').matches")
    for width, height, columns in ((390, 844, 2), (844, 390, 4)):
        page.set_viewport_size({"width": width, "height": height})
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            page.evaluate(f"window.scrollTo(0, {share} * (document.body.scrollHeight - window.innerHeight))")
            found = page.evaluate(PLACES_AND_VIDEOS)
            assert (found["columns"], found["inSight"], found["wide"]) == (columns, True, False), (
                width,
                share,
            )
            assert found["height"] < 0.35 * height
    assert page.evaluate(NAMED_KEYS) == []
    page.locator(".rank-column[data-rank='2'] .give-rank").click()
    assert page.locator(".rank-column[data-rank='2'] .chip").count() == 1


def test_with_a_keyboard_keys_are_named(page: Page, filled: Store, serve: Callable[[Store], Any]) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    assert page.evaluate("matchMedia('(pointer: fine)').matches")
    named = "".join(page.evaluate(NAMED_KEYS))
    assert all(key in named for key in ("(Space)", "(N)", "(Z)", "press 1–4", "Keyboard"))
