"""The Gradio component `VideoRanking`: what it takes and gives, and what people do with it in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr
import pytest
import torch
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError

from generator.output import InputError
from generator.video import write_video
from labeling_app.web.video_ranking import RankedVideos, VideoRanking, _ShownTasks
from reward.preferences import MISSING
from vidalign import read_preferences

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = '<img src=x onerror="window.hacked = 1"> ${window.hacked = 1} \\u0 `{{value}}` \u202e'


@pytest.fixture
def clips(candidates: Path) -> list[str]:
    return [str(path) for path in sorted(candidates.glob("*.mp4"))[:4]]


@pytest.fixture(autouse=True)
def no_analytics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


def test_ranks_come_back_with_the_videos_that_were_shown(clips: list[str]) -> None:
    component = VideoRanking(render=False)
    assert component.preprocess(component.postprocess(None)) is None
    sent = component.postprocess({"prompt": HOSTILE, "videos": clips, "ranks": [2, -1, 1, 2]})
    assert "secret-model" not in json.dumps(sent)
    assert component.preprocess(sent) == {
        "prompt": HOSTILE, "videos": clips, "ranks": [2, MISSING, 1, 2], "dimension": "overall",
    }  # fmt: skip
    given = component.preprocess({"task": sent["task"], "ranks": [1, 2, 2, 4], "videos": ["/etc/passwd"]})
    assert given == {"prompt": HOSTILE, "videos": clips, "ranks": [1, 2, 2, 4], "dimension": "overall"}


@pytest.mark.parametrize(
    "ranks",
    [None, "1224", [1, 2, 2], [1, 2, 2, 5], [0, 1, 1, 1], [1, 2, 2, True], [1, 2, 2, 4.0], [1, 2, 2, "4"]],
)
def test_forged_ranks_are_refused(clips: list[str], ranks: Any) -> None:
    component = VideoRanking({"prompt": "a red circle", "videos": clips}, render=False)
    with pytest.raises(gr.Error, match="not those of 4 videos"):
        component.preprocess({"task": component.value["task"], "ranks": ranks})
    with pytest.raises(gr.Error, match="not known to the server"):
        component.preprocess({"task": "made up", "ranks": [1, 2, 3, 4]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a.mp4", "b.mp4"], "mapping with prompt and videos"),
        ({"prompt": "a red circle"}, "mapping with prompt and videos"),
        ({"prompt": None, "videos": ["a.mp4", "b.mp4"]}, "prompt must be text"),
        ({"prompt": "\ud800", "videos": ["a.mp4", "b.mp4"]}, "prompt must be text"),
        ({"prompt": "a red circle", "videos": ["a.mp4"]}, "2 to 9 videos, but was given 1 videos"),
        ({"prompt": "a red circle", "videos": "a.mp4"}, "2 to 9 videos, but was given 'a.mp4'"),
        ({"prompt": "a red circle", "videos": ["none.mp4", "b.mp4"]}, "none.mp4 does not exist"),
        (
            {"prompt": "a red circle", "videos": ["http://a/1.mp4", "http://a/2.mp4"], "ranks": [1, 3]},
            "one a video",
        ),
        (
            {"prompt": "a red circle", "videos": ["http://a/1.mp4", "http://a/2.mp4"], "dimension": "x"},
            "unknown",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_clear_sentence(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoRanking(value, render=False)


def test_videos_at_addresses_are_left_where_they_are() -> None:
    videos = ["https://example.org/1.mp4", "https://example.org/2.mp4"]
    sent = VideoRanking(render=False, fps=16).postprocess({"prompt": "a red circle", "videos": videos})
    assert [(video["url"], video["fps"]) for video in sent["videos"]] == [(url, 16) for url in videos]


def test_a_running_app_shows_only_files_that_gradio_allows(clips: list[str]) -> None:
    component, folder = VideoRanking(render=False), str(Path(clips[0]).parent)
    running = SimpleNamespace(has_launched=True, blocked_paths=[folder], allowed_paths=[])
    token = LocalContext.blocks.set(running)  # type: ignore[arg-type]
    try:
        with pytest.raises(InvalidPathError):
            component.postprocess({"prompt": "a red circle", "videos": clips})
    finally:
        LocalContext.blocks.reset(token)


def test_old_tasks_are_forgotten_but_not_those_that_every_visitor_sees() -> None:
    shown = _ShownTasks(remembered=2)
    task: RankedVideos = {"prompt": "", "videos": [], "ranks": [], "dimension": "overall"}
    lasting, first, second, third = (shown.add(task, lasting) for lasting in (True, False, False, False))
    assert [shown.find(token) is not None for token in (lasting, first, second, third)] == [
        True,
        False,
        True,
        True,
    ]


def test_no_stub_is_written_beside_the_source() -> None:
    assert not (ROOT / "labeling_app" / "web" / "video_ranking.pyi").exists()


def launched(app: gr.Blocks, **arguments: Any) -> str:
    app.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, **arguments)
    return str(app.local_url).rstrip("/")


@pytest.fixture
def two_rankings(clips: list[str], tmp_path: Path) -> Iterator[tuple[str, list[Any], list[list[int]]]]:
    """An app with two components, the rankings that were submitted, and the ranks of each change of the second."""
    frames = torch.rand(3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_video(tmp_path / "full-colour.mp4", frames, fps=8)  # 4:4:4, which not every browser plays
    submitted: list[Any] = []
    changed: list[list[int]] = []

    def submit(value: Mapping[str, Any]) -> dict[str, Any]:
        submitted.append(value)
        return {"prompt": "what comes next", "videos": clips[:2]}

    with gr.Blocks(title="Two") as app:
        gr.HTML('<div class="card" id="mine">mine</div>')
        first = VideoRanking({"prompt": HOSTILE, "videos": clips}, elem_id="first")
        videos = [clips[0], str(tmp_path / "full-colour.mp4"), clips[1]]
        second = VideoRanking(
            {"prompt": "second", "videos": videos, "dimension": "motion"}, play_to_end=False, elem_id="second"
        )
        first.submit(submit, first, first)
        second.submit(submit, second, second)
        second.change(lambda value: changed.append(value["ranks"]), second)
    yield launched(app, footer_links=[]), submitted, changed
    app.close()


def drag(page: Page, source: Locator, target: Locator) -> None:
    target.scroll_into_view_if_needed()
    begin, end = source.bounding_box(), target.bounding_box()
    assert begin is not None
    assert end is not None
    page.mouse.move(begin["x"] + begin["width"] / 2, begin["y"] + begin["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=6)
    page.mouse.up()


def wait_for_change(page: Page, changed: list[list[int]], ranks: list[int]) -> None:
    """Waits until the component has told of these ranks."""
    for _ in range(200):
        if changed and changed[-1] == ranks:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"The last change is {changed[-1:]}, not {ranks}.")


def test_two_rankings_on_a_page_are_ranked_by_keys_and_drag_without_touching_each_other(
    page: Page,
    two_rankings: tuple[str, list[Any], list[list[int]]],
    serious_findings: Callable[[Page], list[str]],
) -> None:
    url, submitted, changed = two_rankings
    page.set_viewport_size({"width": 1280, "height": 2400})
    page.goto(url)
    first, second = page.locator("#first"), page.locator("#second")
    second.locator(".card").nth(2).wait_for()
    assert first.locator(".prompt-text").evaluate("(text) => text.textContent") == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert second.locator(".question").inner_text().startswith("Which video moves best")
    page.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 2)")
    assert second.locator("video").nth(1).evaluate("(video) => video.videoWidth") == 64  # the doubled copy
    assert serious_findings(page) == []
    assert page.evaluate("getComputedStyle(document.getElementById('mine')).borderTopWidth") == "0px"

    second.locator(".card").nth(0).click()
    for key, ranks in (("2", [2, -1, -1]), ("1", [2, 1, -1]), ("3", [2, 1, 3])):
        page.keyboard.press(key)
        wait_for_change(page, changed, ranks)  # Gradio may pass two that follow each other fast as one
    assert second.locator(".card-rank").all_inner_texts() == ["2nd", "1st", "3rd"]
    drag(page, first.locator(".pool .chip").nth(0), first.locator("[data-rank='2']"))
    drag(page, first.locator(".pool .chip").nth(0), second.locator("[data-rank='1']"))
    assert first.locator(".card-rank").all_inner_texts() == ["2nd", *["no place yet"] * 3]
    assert second.locator(".card-rank").all_inner_texts() == ["2nd", "1st", "3rd"]

    second.get_by_role("button", name="Submit").click()
    second.get_by_text("what comes next").wait_for()
    assert changed[:3] == [[2, -1, -1], [2, 1, -1], [2, 1, 3]]  # once for each rank
    # Two videos are compared by one key.
    assert second.locator(".hint").inner_text().endswith("↓ if they are equal.")
    second.locator(".card").nth(0).click()
    before = len(changed)
    page.keyboard.press("ArrowRight")
    wait_for_change(page, changed, [2, 1])
    assert second.locator(".card-rank").all_inner_texts() == ["", "better"]
    second.get_by_role("button", name="A is better").click()
    assert second.locator(".card-rank").all_inner_texts() == ["better", ""]
    wait_for_change(page, changed, [1, 2])
    page.wait_for_timeout(300)
    assert changed[before:] == [[2, 1], [1, 2]]
    assert [(Path(value["videos"][1]).name, value["ranks"]) for value in submitted] == [
        ("full-colour.mp4", [2, 1, 3])
    ]
    first.get_by_role("button", name="Submit").click(force=True)
    assert first.locator(".gate").inner_text() == "Still to place: B, C, D"
    assert len(submitted) == 1

    page.goto(f"{url}/?__theme=dark")
    first.locator(".card").nth(0).wait_for()
    assert first.locator(".card").nth(0).evaluate("(card) => getComputedStyle(card).backgroundColor") == (
        "rgb(33, 36, 41)"
    )
    assert serious_findings(page) == []


def test_a_phone_in_german_has_its_words_and_names_no_keys(
    page: Page, two_rankings: tuple[str, list[Any], list[list[int]]]
) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})
    page.add_init_script("Object.defineProperty(navigator, 'languages', { value: ['de-CH', 'en'] })")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(two_rankings[0])
    second = page.locator("#second")
    second.locator(".card").nth(2).wait_for()
    assert second.locator(".submit").inner_text() == "Absenden"
    assert (
        second.locator(".hint")
        .inner_text()
        .startswith("Geben Sie Video A einen Platz: auf einen Platz tippen")
    )
    assert page.locator(".keys").count() == 0
    second.locator(".rank-column[data-rank='2'] .give-rank").click()
    assert second.locator(".card-rank").first.inner_text() == "2."


def test_the_example_of_the_documentation_collects_a_rankings_file(
    page: Page, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "labeling-server.md").read_text(encoding="utf-8")
    (example,) = [
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "VideoRanking" in code
    ]
    assert example.count("\n") <= 25
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "a red circle", "videos": clips}, {"prompt": "a blue circle", "videos": clips[:2]}]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names: dict[str, Any] = {}
    exec(
        compile(
            example.replace("launch()", "launch(prevent_thread_lock=True, quiet=True)"), "example", "exec"
        ),
        names,
    )
    try:
        page.goto(names["app"].local_url)
        page.locator(".card").nth(3).wait_for()
        page.locator(".card").nth(0).click()
        for key in "1224":
            page.keyboard.press(key)
        page.wait_for_function("!document.querySelector('.card:not(.seen)')")
        page.keyboard.press("Enter")
        page.get_by_text("a blue circle").wait_for()
        page.locator(".card").nth(0).click()
        page.keyboard.press("ArrowDown")
        page.wait_for_function("!document.querySelector('.card:not(.seen)')")
        page.keyboard.press("Enter")
        page.get_by_text("There is nothing to rank.").wait_for()
    finally:
        names["app"].close()
    found = read_preferences("rankings.jsonl")
    assert [(each.prompt, each.ranks) for each in found] == [
        ("a red circle", [1, 2, 2, 4]),
        ("a blue circle", [1, 1]),
    ]
