"""In a real browser: reasons and marks, the task browser, known answers after gold items, example videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labeling_app.campaigns.campaigns import Rules, make_gold, set_rules
from labeling_app.campaigns.guideline_videos import read_example_videos, with_example_videos
from labeling_app.store.guidelines import set_guidelines
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import recent_answers

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def log_in(page: Page, server: Any, name: str, path: str) -> None:
    page.goto(f"{server.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/(rank|lead)/$"))
    page.goto(f"{server.url}/{path}")


def rank_all(page: Page) -> None:
    for key in "1234":
        page.keyboard.press(key)
    page.wait_for_function("!document.querySelector('.card:not(.seen)')")


def test_reasons_are_given_and_marked_by_mouse_and_by_keys(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    set_rules(filled, "main", Rules(tags=["artefact", "wrong motion"]))
    ada: Any = filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled), "ada", "rank/")
    page.wait_for_selector(".card")
    # By keys, video B: a reason, a point left of the middle, and a moment.
    for key in ("b", "t", "Enter", "m", "Shift+ArrowLeft", "ArrowUp", "Enter", "x"):
        page.keyboard.press(key)
    assert page.locator(".tag-marks li").count() == 2
    playing = "[...document.querySelectorAll('.card video')].some((video) => !video.paused)"
    page.wait_for_function(playing)  # they stood still for the point alone
    page.get_by_role("button", name="Remove the mark artefact", exact=False).last.click()
    # By mouse, video A: a box over the right lower quarter of the picture.
    page.keyboard.press("a")
    page.get_by_role("button", name="wrong motion").click()
    page.get_by_role("button", name="Mark in the picture (M)").click()
    box = page.locator(".mark-layer:not([hidden])").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1, steps=4)
    page.mouse.up()
    assert page.locator(".mark-layer:not([hidden])").count() == 0
    assert page.locator(".card[data-video='0'] .mark:visible").count() == 1
    assert serious_findings(page) == []
    page.reload()  # the draft keeps them
    page.wait_for_selector(".card")
    assert page.locator(".card[data-video='1'] .card-foot").get_attribute("data-tags") == "artefact"
    page.keyboard.press("a")
    rank_all(page)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Task 2')")
    (answered,) = recent_answers(filled, ada)
    by_tag = {mark["tag"]: mark for mark in answered.tags}
    assert len(answered.tags) == 2
    point = by_tag["artefact"]
    assert (point["video"], point["x"], point["y"]) == (1, 0.4, 0.48)
    assert "width" not in point
    area = by_tag["wrong motion"]
    assert area["video"] == 0
    assert [area[name] for name in ("x", "y", "width", "height")] == pytest.approx([0.5] * 4, abs=0.03)
    assert 0 <= area["seconds"] <= 1.0


def test_a_lead_finds_tasks_by_filters_and_opens_one_to_decide(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    server = serve(filled)
    page.set_viewport_size({"width": 390, "height": 844})
    log_in(page, server, "lea", "lead/#tasks")
    page.wait_for_selector("[data-shown=tasks]")
    assert page.locator(".task-list tbody tr").count() == 12
    page.get_by_label("Prompt holds").fill("take 1")
    page.get_by_role("button", name="Find").click()
    page.get_by_text("3 tasks, page 1 of 1").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious_findings(page) == []
    page.get_by_role("link", name="a red circle moves right, take 11").click()
    page.wait_for_selector(".card")
    assert page.locator(".prompt-text").inner_text().endswith("take 11")
    assert "Nobody has answered" in page.locator(".answers-given").inner_text()
    page.goto(f"{server.url}/lead/#campaigns")
    page.wait_for_selector("[data-shown=campaigns]")
    page.locator("#campaign-name").fill("copy")
    page.get_by_role("button", name="Clone under this name").click()
    page.get_by_text("has the rules of main and 12 tasks, without answers.").wait_for()
    page.get_by_label("Reasons for a video").fill("artefact, wrong count")
    page.get_by_role("button", name="Save the rules").click()
    page.get_by_text("The rules are saved.").wait_for()
    assert filled.campaign("copy").tags == ["artefact", "wrong count"]
    assert filled.campaign("main").tags == []


def test_examples_come_before_the_first_task_and_known_answers_and_results_after_gold_items(
    page: Page,
    filled: Store,
    candidates: Path,
    serve: Callable[..., Any],
    serious_findings: Callable[[Page], list[str]],
) -> None:
    text = f"# Look\n\n![a good one]({candidates / 'secret-model-005-0.mp4'})"
    set_guidelines(filled, "main", with_example_videos(filled, text, read_example_videos(text, Path())))
    make_gold(filled, filled.tasks("main")[0].id, {"overall": [1, 2, 3, 4]})
    set_rules(filled, "main", Rules(quiz_size=1, quiz_pass=0.5, gold_feedback=True))
    ada: Any = filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled), "ada", "rank/")
    page.wait_for_function("document.querySelector('.guidelines-text video')?.duration > 0")
    assert page.locator(".example-video").inner_text() == "a good one"
    assert serious_findings(page) == []
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_selector(".card")
    task = assignment.next_task(filled, ada)
    assert task is not None
    rank_all(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="The answer to this task was known").wait_for()
    rows = page.locator(".feedback tbody tr").all_inner_texts()
    ordinals = ["1st", "2nd", "3rd", "4th"]
    assert rows[0].split()[-4:] == [ordinals[position] for position in task.permutation]
    assert rows[1].split()[-4:] == ordinals
    assert "Trial of main:" in page.locator(".feedback").inner_text()
    assert serious_findings(page) == []
    for width, rows_of_bar in ((1440, 1), (768, 1), (390, 2)):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".top-bar").bounding_box()["height"] < 48 * rows_of_bar
    page.keyboard.press("Enter")
    page.wait_for_function("!document.querySelector('.feedback')")
