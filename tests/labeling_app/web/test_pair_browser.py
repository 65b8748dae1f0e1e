"""Two videos on the ranking page: one key for each answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_app.files.compared_models import import_compared
from labeling_app.people.languages import set_language
from labeling_app.quality.compared_models import ALL_BAD, judged_pairs
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment
from tests.labeling_app.model_folders import write_model
from tests.labeling_app.web.browser_steps import PASSWORD, log_in

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def store(tmp_path: Path, sqlite_file: Path) -> Iterator[Store]:
    """A campaign of two models and six prompts."""
    prompts = [f"a cat, take {number}" for number in range(6)]
    folders = [
        str(write_model(tmp_path / name, 20 + 60 * i, prompts))
        for i, name in enumerate(("secret-a", "secret-b"))
    ]
    with Store(sqlite_file) as opened:
        import_compared(opened, folders, campaign="duel")
        opened.add_user("ada", PASSWORD)
        yield opened


def wait_for_task(page: Page, number: int) -> None:
    page.wait_for_function(
        f"document.querySelector('.progress-text')?.textContent.startsWith('Task {number} of ')"
        " && document.querySelectorAll('.card').length === 2 && !document.querySelector('.card:not(.seen)')"
    )


def shown_ranks(store: Store) -> list[list[int]]:
    """Ranks of all answers in the order in which the videos were shown."""
    with store.read() as session:
        rows = session.execute(select(Assignment.task_id, Assignment.permutation)).all()
    orders = {task: list(permutation) for task, permutation in rows}
    return [[(j.ranks or [])[place] for place in orders[j.task_id]] for j in store.judgements("duel")]


def test_each_answer_has_one_key_and_nothing_tells_the_models(
    page: Page,
    store: Store,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Page], list[str]],
    tmp_path: Path,
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    log_in(page, serve(store))
    for number, key in enumerate(("ArrowLeft", "2", "ArrowDown", "n", "0"), start=1):
        wait_for_task(page, number)
        assert page.locator(".rank-columns").count() == 0
        if number == 1:
            assert serious_findings(page) == []
            assert page.locator(".hint").inner_text().startswith("Press ← if A is better")
        content = page.content()
        assert "secret" not in content
        page.keyboard.press(key)
    wait_for_task(page, 6)
    page.get_by_role("button", name="B is better").click()
    page.get_by_role("heading", name="All done. Thank you!").wait_for()
    assert shown_ranks(store) == [[1, 2], [2, 1], [1, 1], [1, 1], [1, 1], [2, 1]]
    flags = [judgement.flag for judgement in store.judgements("duel")]
    assert flags == ["", "", "", ALL_BAD, "", ""]
    assert [each.all_bad for each in judged_pairs(store, "duel")] == [False] * 3 + [True] + [False] * 2
    assert errors == []
    assert not [url for url in requests if "secret" in url]


def test_an_answer_in_german_is_counted_as_in_english(
    page: Page, store: Store, serve: Callable[[Store], Any]
) -> None:
    ada = store.user("ada")
    assert ada is not None
    set_language(store, ada, "de")
    log_in(page, serve(store))
    page.wait_for_function("!document.querySelector('.card:not(.seen)')")
    assert page.locator(".hint").inner_text().startswith("Drücken Sie ←")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Aufgabe 2')")
    assert [(j.flag, j.ranks) for j in store.judgements("duel")] == [(ALL_BAD, [1, 1])]
    assert [each.all_bad for each in judged_pairs(store, "duel")] == [True]
    page.keyboard.press("u")
    page.locator("dialog[open] .earlier-answer").click()
    page.wait_for_function("document.querySelector('#ranking-flag').value === 'Alle Videos sind schlecht'")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#ranking-flag").input_value() == ""


def test_an_answer_before_the_videos_have_played_waits_and_a_later_one_replaces_it(
    page: Page, store: Store, serve: Callable[[Store], Any]
) -> None:
    page.emulate_media(reduced_motion="reduce")  # nothing plays by itself
    log_in(page, serve(store))
    page.wait_for_function("document.querySelector('.gate').textContent === 'Still to answer'")
    page.keyboard.press("n")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("button", name="B is better").get_attribute("aria-pressed") == "true"
    assert page.locator(".gate").inner_text().startswith("Let the videos play to the end once")
    assert page.locator("#ranking-flag").input_value() == ""
    assert store.judgements("duel") == []
    page.reload()
    page.wait_for_selector(".pair-answer.second[aria-pressed='true']")
    page.keyboard.press("Space")
    page.wait_for_function("!document.querySelector('.card:not(.seen)')")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Task 2')")
    assert shown_ranks(store) == [[2, 1]]
    # A change is saved by the button.
    page.keyboard.press("u")
    page.locator("dialog[open] .earlier-answer").click()
    page.wait_for_selector(".pair-answer.second[aria-pressed='true']")
    page.keyboard.press("ArrowLeft")
    assert shown_ranks(store) == [[2, 1]]
    page.get_by_role("button", name="Save the change").click()
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Task 2')")
    assert shown_ranks(store) == [[1, 2]]
