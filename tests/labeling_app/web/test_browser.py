"""The ranking page in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_app.files.candidates import import_tasks
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from tests.labeling_app.web.browser_steps import PASSWORD, log_in

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def press(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_until_seen(page: Page) -> None:
    page.wait_for_function(
        "document.querySelectorAll('.card').length && !document.querySelector('.card:not(.seen)')"
    )


def wait_for_task(page: Page, number: int) -> None:
    page.wait_for_function(
        f"document.querySelector('.progress-text')?.textContent.startsWith('Task {number} of ')"
    )


def drag(page: Page, source: str, target: str) -> None:
    begin, end = page.locator(source).bounding_box(), page.locator(target).bounding_box()
    assert begin is not None
    assert end is not None
    page.mouse.move(begin["x"] + begin["width"] / 2, begin["y"] + begin["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=8)
    page.mouse.up()


def ranks_as_shown(store: Store, number: int) -> list[int]:
    """Stored ranks of Ada's judgement in the order in which she saw the videos."""
    judgement = [j for j in store.judgements("main") if j.user.name == "ada"][number]
    with store.read() as session:
        permutation = session.scalar(
            select(Assignment.permutation).where(
                Assignment.task_id == judgement.task_id, Assignment.user_id == judgement.user_id
            )
        )
    assert judgement.ranks is not None
    assert permutation is not None
    return [judgement.ranks[position] for position in permutation]


def test_annotator_ranks_by_keyboard_and_by_drag_and_resumes_after_a_reload(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    server = serve(filled)
    log_in(page, server)
    wait_for_task(page, 1)
    assert page.locator(".progress-text").inner_text() == "Task 1 of 12"

    # Keyboard alone, with a tie, and a reload in the middle: A second, B first, C second, D fourth.
    press(page, "212")
    page.keyboard.press("Enter")
    assert filled.judgements("main") == []
    page.reload()
    wait_for_task(page, 1)
    page.wait_for_function("document.querySelectorAll('.rank-column .chip').length === 3")
    page.keyboard.press("4")
    wait_until_seen(page)
    page.keyboard.press("Enter")
    wait_for_task(page, 2)
    assert ranks_as_shown(filled, 0) == [2, 1, 2, 3]

    # Drag chips onto places, and from place to place.
    page.locator(".rank-columns").scroll_into_view_if_needed()
    drag(page, ".pool .chip[data-video='0']", ".rank-column[data-rank='3']")
    drag(page, ".pool .chip[data-video='1']", ".rank-column[data-rank='1']")
    drag(page, ".pool .chip[data-video='2']", ".rank-column[data-rank='3']")
    drag(page, ".card[data-video='3']", ".rank-column[data-rank='2']")
    drag(page, ".rank-column[data-rank='3'] .chip[data-video='2']", ".rank-column[data-rank='4']")
    wait_until_seen(page)
    page.get_by_role("button", name="Submit").click()
    wait_for_task(page, 3)
    assert ranks_as_shown(filled, 1) == [3, 1, 4, 2]

    assert errors == []
    assert [url for url in requests if not url.startswith((server.url, "data:", "blob:"))] == []
    assert [url for url in requests if "secret-model" in url] == []
    assert "secret-model" not in page.content()


def test_videos_play_together_and_step_by_frames(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    wait_until_seen(page)
    videos = "[...document.querySelectorAll('.card video')]"
    page.wait_for_function(f"{videos}[0].currentTime > 0.4")
    times = page.evaluate(f"{videos}.map((video) => video.currentTime)")
    assert max(times) - min(times) <= 1 / 8
    assert page.evaluate(f"{videos}.every((video) => video.muted)")
    page.keyboard.press("Space")
    page.wait_for_function(f"{videos}.every((video) => video.paused)")
    stepped = []
    for _ in range(3):
        page.keyboard.press(".")
        page.wait_for_function(f"{videos}.every((video) => !video.seeking)")
        stepped.append(page.evaluate(f"{videos}.map((video) => video.currentTime)"))
    assert all(len(set(moment)) == 1 for moment in stepped)
    for before, after in pairwise(stepped):
        assert (after[0] - before[0]) % 1.0 == pytest.approx(1 / 8, abs=1e-3)


def test_submit_waits_until_every_video_was_seen(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    page.emulate_media(reduced_motion="reduce")
    log_in(page, serve(filled))
    press(page, "1234")
    page.get_by_role("button", name="Submit").click(force=True)
    page.wait_for_function(
        "document.querySelector('.gate').textContent.endsWith('to the end once: A, B, C, D')"
    )
    assert filled.judgements("main") == []
    page.get_by_role("button", name="Play or pause").click()
    wait_until_seen(page)
    page.get_by_role("button", name="Submit").click()
    wait_for_task(page, 2)


def test_skip_asks_for_a_reason_and_brings_the_next_task(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    page.get_by_role("button", name="Skip…").click()
    page.get_by_label("I do not understand the prompt").check()
    page.get_by_label("Details (optional)").fill("What is a <b>take</b>?")
    page.get_by_role("button", name="Skip this task").click()
    wait_for_task(page, 2)
    reasons = [judgement.skip_reason for judgement in filled.judgements("main", include_skips=True)]
    assert reasons == ["I do not understand the prompt: What is a <b>take</b>?"]


def test_an_expired_lease_is_said_in_one_sentence_and_the_draft_survives(
    page: Page, tmp_path: Path, candidates: Path, clock: Any, serve: Callable[[Store], Any]
) -> None:
    store = Store(tmp_path / "labels.db", clock=clock)
    import_tasks(store, candidates, campaign="main")
    store.add_user("ada", PASSWORD)
    log_in(page, serve(store))
    press(page, "1234")
    wait_until_seen(page)
    clock.now += store.lease_seconds + 1
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice:not([hidden])")
    assert page.locator(".notice").inner_text().startswith("Your time for this task ran out")
    assert store.judgements("main") == []
    # Nobody else took the task, so it comes back with what was ranked.
    page.wait_for_function("document.querySelectorAll('.rank-column .chip').length === 4")


def test_an_answer_of_another_window_is_said(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    other = page.context.new_page()
    other.goto(page.url)
    for window, places in ((other, "1234"), (page, "4321")):
        window.bring_to_front()
        window.wait_for_selector(".card")
        press(window, "".join(f"{video}{place}" for video, place in zip("abcd", places)))
        wait_until_seen(window)
        window.keyboard.press("Enter")
        wait_for_task(window, 2)
    other.close()
    assert page.locator(".notice").inner_text().startswith("You have answered this task already.")
    assert ranks_as_shown(filled, 0) == [1, 2, 3, 4]


def test_the_time_of_a_change_is_added_to_that_of_the_answer(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    ada = filled.add_user("ada", PASSWORD)
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 45.0)
    log_in(page, serve(filled))
    page.keyboard.press("u")
    page.wait_for_selector("dialog[open] .earlier-answer")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Changing')")
    press(page, "a4")
    page.keyboard.press("Enter")
    wait_for_task(page, 2)
    (judgement,) = filled.judgements("main")
    assert (judgement.version, judgement.seconds >= 45) == (2, True)


def test_a_task_that_cannot_be_fetched_is_said_and_asked_for_again(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    press(page, "1234")
    wait_until_seen(page)
    page.route("**/api/next*", lambda route: route.abort())
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="The next task could not be fetched.").wait_for()
    assert "cannot be reached" in page.locator(".notice").inner_text()
    page.unroute("**/api/next*")
    page.get_by_role("button", name="Try again").click()
    wait_for_task(page, 2)
    assert len(filled.judgements("main")) == 1


HOSTILE = [
    '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>',
    "${window.hacked = 1} {{window.hacked = 1}} \\u0 \\x `${window.hacked = 1}`",
    "\u202eright to left\u202c שלום </p></div> & &amp; \u2028 '\"",
    "x" * 9_980 + "${1}<b>end",
]


def test_hostile_prompts_and_comments_show_verbatim_and_run_nothing(
    page: Page, store: Store, write_candidates: Any, serve: Callable[[Store], Any]
) -> None:
    import_tasks(store, write_candidates(HOSTILE, 2), campaign="main")
    store.add_user("ada", PASSWORD)
    log_in(page, serve(store))
    for number, text in enumerate(HOSTILE, start=1):
        wait_for_task(page, number)
        assert page.evaluate("document.querySelector('.prompt-text').textContent") == text
        page.get_by_text("Add a comment").click()
        page.locator("#ranking-comment").fill(text)
        page.reload()
        page.wait_for_selector(".card")
        assert page.evaluate("document.querySelector('#ranking-comment').value") == text
        wait_until_seen(page)
        page.keyboard.press("1")
    page.get_by_role("heading", name="All done. Thank you!").wait_for()
    page.keyboard.press("u")
    page.wait_for_selector("dialog[open] .earlier-answer")
    page.keyboard.press("Escape")
    assert [judgement.comment for judgement in store.judgements("main")] == HOSTILE
    assert page.evaluate("window.hacked") is None


def test_several_dimensions_are_asked_one_after_the_other(
    page: Page, store: Store, candidates: Path, serve: Callable[[Store], Any]
) -> None:
    import_tasks(store, candidates, campaign="main", dimensions=["alignment", "motion"])
    store.add_user("ada", PASSWORD)
    log_in(page, serve(store))
    # Motion is asked before the prompt is shown, and not again after it.
    assert "take 0" not in page.locator(".ranking-page").inner_text()
    press(page, "1234")
    wait_until_seen(page)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.hint').textContent.startsWith('Question 2 of 2')")
    assert page.locator(".prompt-text").inner_text() == "a red circle moves right, take 0"
    assert not page.get_by_role("button", name="Back", exact=True).is_visible()
    press(page, "2222")
    page.keyboard.press("Enter")
    wait_for_task(page, 2)
    stored = {judgement.dimension: judgement.ranks for judgement in store.judgements("main")}
    assert sorted(stored["motion"] or []) == [1, 2, 3, 4]
    assert stored["alignment"] == [1, 1, 1, 1]


def test_flag_all_bad_zoom_skip_and_a_changed_answer_by_keys_alone(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    page.keyboard.press("b")
    page.keyboard.press("z")
    assert page.evaluate("[...document.querySelectorAll('.card')].map((c) => c.offsetParent !== null)") == [
        False,
        True,
        False,
        False,
    ]
    page.keyboard.press("Escape")
    assert page.locator(".card:visible").count() == 4
    page.keyboard.press("n")
    page.keyboard.press("!")
    page.keyboard.press("Control+a")
    page.keyboard.type("<i>all</i> broken")
    page.keyboard.press("Escape")
    wait_until_seen(page)
    page.keyboard.press("Enter")
    wait_for_task(page, 2)
    (judgement,) = filled.judgements("main")
    assert (judgement.ranks, judgement.flag) == ([1, 1, 1, 1], "<i>all</i> broken")

    page.keyboard.press("u")
    page.wait_for_selector("dialog[open] .earlier-answer")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Changing')")
    assert page.locator("#ranking-flag").input_value() == "<i>all</i> broken"
    press(page, "a1b2c3d4")
    page.keyboard.press("Enter")
    wait_for_task(page, 2)
    versions = filled.judgements("main", all_versions=True)
    assert [judgement.version for judgement in versions] == [1, 2]
    assert ranks_as_shown(filled, 0) == [1, 2, 3, 4]

    page.keyboard.press("k")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Enter")
    wait_for_task(page, 3)
    assert [j.skip_reason for j in filled.judgements("main", include_skips=True) if j.skip_reason] == [
        "A video does not play"
    ]


def test_four_videos_are_within_a_frame_of_each_other_after_five_seconds(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    log_in(page, serve(filled))
    wait_until_seen(page)
    page.wait_for_timeout(5000)
    spreads = page.evaluate(
        """async () => {
            const videos = [...document.querySelectorAll('.card video')];
            const spreads = [];
            for (let i = 0; i < 10; i += 1) {
                const times = videos.map((video) => video.currentTime);
                spreads.push(Math.max(...times) - Math.min(...times));
                await new Promise((resolve) => setTimeout(resolve, 37));
            }
            return spreads.sort((a, b) => a - b);
        }"""
    )
    # The middle one: a sample may fall into the moment in which all videos start again.
    assert spreads[5] <= 1 / 8


def test_the_page_fits_a_phone_and_works_by_tapping(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    page.set_viewport_size({"width": 390, "height": 844})
    log_in(page, serve(filled))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        "[...document.querySelectorAll('.ranking-page button, .ranking-page summary')]"
        ".filter((button) => button.offsetParent)"
        ".map((button) => [button.textContent, button.getBoundingClientRect()])"
        ".filter(([, box]) => box.height < 44 || box.width < 44).map(([text]) => text)"
    )
    assert small == []
    for place in (1, 2, 3, 4):
        page.locator(f".rank-column[data-rank='{place}'] .give-rank").click()
    wait_until_seen(page)
    page.get_by_role("button", name="Submit").click()
    wait_for_task(page, 2)
    assert ranks_as_shown(filled, 0) == [1, 2, 3, 4]


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_on_the_login_and_ranking_pages(
    page: Page,
    filled: Store,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Page], list[str]],
    width: int,
) -> None:
    filled.add_user("ada", PASSWORD)
    page.set_viewport_size({"width": width, "height": 844})
    server = serve(filled)
    page.goto(server.url)
    page.get_by_label("Name").wait_for()
    assert serious_findings(page) == []
    log_in(page, server)
    press(page, "212")
    assert serious_findings(page) == []
    page.keyboard.press("z")
    page.keyboard.press("!")
    assert serious_findings(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    page.wait_for_selector("dialog[open]")
    assert serious_findings(page) == []
