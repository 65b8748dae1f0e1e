"""The demonstration page and the lead's pages in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labeling_app.campaigns.campaigns import add_campaign
from labeling_app.campaigns.demonstrations import add_library, ask, demonstrations
from labeling_app.people.languages import set_language
from labeling_app.quality.adjudication import adjudications
from labeling_app.store.api_tokens import valid_token
from labeling_app.store.guidelines import set_guidelines
from labeling_app.store.store import Store
from labeling_app.store.webhooks import webhooks
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"
HOSTILE = '<img src=x onerror="window.hacked = 1"> ${window.hacked = 1} \\u0 \u202e'


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def open_page(page: Page, server: Any, name: str, path: str, selector: str) -> None:
    page.goto(server.url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/(rank|lead)/$"))
    page.goto(f"{server.url}/{path}")
    page.wait_for_selector(selector)


def log_in_again(page: Page, server: Any, name: str) -> None:
    page.context.clear_cookies()
    page.goto(f"{server.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/(rank|lead)/$"))


def answer_everything(store: Store, names: dict[str, list[int]], limit: int = 3) -> None:
    """Users of these names rank tasks alike, by position in the task."""
    for name, ranks in names.items():
        user = store.add_user(name)
        for _ in range(limit):
            task = assignment.next_task(store, user)
            assert task is not None
            shown = [ranks[position] for position in task.permutation]
            submit(store, user, task.assignment, {"overall": shown}, 8.0, comment=HOSTILE)


def small_targets(page: Page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('.ranking-page :is(button, summary, a, select, input:not([type=checkbox]))')]"
        ".filter((button) => button.offsetParent)"
        ".map((button) => [button.outerHTML.slice(0, 80), button.getBoundingClientRect()])"
        ".filter(([, box]) => box.height < 44 || box.width < 44).map(([text]) => text)"
    )


def test_a_video_is_uploaded_previewed_and_given_and_bad_ones_are_refused_in_one_sentence(
    page: Page,
    filled: Store,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Page], list[str]],
    candidates: Path,
    tmp_path: Path,
) -> None:
    ask(filled, "main", [HOSTILE])
    filled.add_user("ada", PASSWORD)
    open_page(page, serve(filled), "ada", "demonstrate/", ".prompt-text")
    assert page.evaluate("document.querySelector('.prompt-text').textContent") == HOSTILE
    give = page.get_by_role("button", name="Give this video")
    give.click(force=True)
    page.wait_for_function("document.querySelector('.status').textContent.startsWith('Upload or choose')")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    page.locator("#upload-file").set_input_files(bad)
    page.wait_for_selector(".notice:not([hidden])")
    assert page.locator(".notice").inner_text() == (
        "The video cannot be read to its end, so it may be damaged: save it anew and upload it again."
    )
    page.locator("#upload-file").set_input_files(sorted(candidates.glob("*.mp4"))[0])
    page.wait_for_selector(".preview-place video")
    assert page.locator(".notice").is_hidden()
    page.wait_for_function("document.querySelector('.preview-place video').readyState >= 2")
    page.locator("#demonstration-comment").fill(HOSTILE)
    assert serious_findings(page) == []
    give.click()
    page.get_by_text("No prompt waits for a video.").wait_for()
    (row,) = demonstrations(filled, "main")
    assert (row.prompt.prompt, row.comment, row.source) == (HOSTILE, HOSTILE, "upload")
    assert page.evaluate("window.hacked") is None


def test_a_video_of_the_library_is_given_on_a_phone(
    page: Page,
    filled: Store,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Page], list[str]],
    candidates: Path,
    tmp_path: Path,
) -> None:
    ask(filled, "main", ["a red circle", "a blue circle"])
    library = tmp_path / "library"
    library.mkdir()
    for path in sorted(candidates.glob("*.mp4"))[:2]:
        (library / path.name).write_bytes(path.read_bytes())
    add_library(filled, "main", library)
    filled.add_user("ada", PASSWORD)
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, serve(filled), "ada", "demonstrate/", ".prompt-text")
    first = page.locator(".prompt-text").inner_text()
    page.get_by_role("button", name="Another prompt").click()
    page.wait_for_function(f"document.querySelector('.prompt-text').textContent !== '{first}'")
    page.get_by_text("Or choose one of 2 videos").click()
    page.get_by_role("button", name="Take video 2").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert small_targets(page) == []
    assert serious_findings(page) == []
    page.get_by_role("button", name="Give this video").click()
    page.wait_for_function("document.querySelector('.progress-text').textContent === '1 prompt waits'")
    (row,) = demonstrations(filled, "main")
    assert row.source == "library"
    assert row.prompt.prompt != first


def test_each_prompt_offers_the_library_of_its_campaign(
    page: Page, filled: Store, serve: Callable[[Store], Any], candidates: Path, tmp_path: Path
) -> None:
    for number, (campaign, prompt) in enumerate((("main", "a red circle"), ("other", "a blue circle"))):
        folder = tmp_path / campaign
        folder.mkdir()
        if campaign == "other":
            add_campaign(filled, campaign)
        for path in sorted(candidates.glob("*.mp4"))[number : 2 * number + 1]:
            (folder / path.name).write_bytes(path.read_bytes())
        add_library(filled, campaign, folder)
        ask(filled, campaign, [prompt])
    filled.add_user("ada", PASSWORD)
    open_page(page, serve(filled), "ada", "demonstrate/", ".prompt-text")
    page.get_by_role("button", name="Another prompt").click()
    for waiting in ("1 prompt waits", "0 prompts wait"):
        offered = {"a red circle": 1, "a blue circle": 2}[page.locator(".prompt-text").inner_text()]
        page.get_by_text(f"Or choose one of {offered} videos").click()
        page.get_by_role("button", name=f"Take video {offered}").click()
        page.get_by_role("button", name="Give this video").click()
        page.wait_for_function(f"document.querySelector('.progress-text').textContent === '{waiting}'")
    assert {row.source for name in ("main", "other") for row in demonstrations(filled, name)} == {"library"}


def test_an_upload_belongs_to_the_prompt_for_which_it_was_chosen(
    page: Page, filled: Store, serve: Callable[[Store], Any], candidates: Path
) -> None:
    ask(filled, "main", ["a red circle", "a blue circle"])
    filled.add_user("ada", PASSWORD)
    open_page(page, serve(filled), "ada", "demonstrate/", ".prompt-text")
    held: list[Any] = []
    page.route("**/api/demonstrations/uploads", lambda route: held.append(route))
    page.locator("#upload-file").set_input_files(min(candidates.glob("*.mp4")))
    page.wait_for_function("document.querySelector('.status').textContent.endsWith('…')")
    page.get_by_role("button", name="Another prompt").click()
    page.wait_for_function("!document.querySelector('#upload-file').files.length")
    assert page.locator(".preview-place video").count() == 0
    assert page.locator(".notice").is_hidden()
    assert page.locator(".gate").inner_text() == "Upload or choose a video first."
    assert page.locator(".status").is_hidden()


def test_the_part_that_was_chosen_last_stays(
    page: Page, filled: Store, serve: Callable[[Store], Any]
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    open_page(page, serve(filled), "lea", "lead/", "[data-shown=campaigns]")
    held: list[Any] = []
    page.route("**/api/lead/quality*", lambda route: held.append(route))
    page.get_by_role("link", name="Quality").click()
    page.wait_for_function("document.querySelector('.tab[aria-current]').textContent === 'Quality'")
    page.get_by_role("link", name="People").click()
    page.wait_for_selector("[data-shown=people]")
    with page.expect_response("**/api/lead/quality*"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("[data-shown=people] #new-user").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_long_name_leaves_room_for_the_rest(
    page: Page, filled: Store, serve: Callable[[Store], Any], width: int
) -> None:
    answer_everything(filled, {"x" * 100: [1, 2, 3, 4], "ann": [4, 3, 2, 1]}, limit=1)
    filled.add_user("lea", PASSWORD, role="lead")
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, serve(filled), "lea", "lead/#adjudication", "[data-shown=adjudication]")
    assert page.evaluate(
        "[...document.querySelectorAll('.table-place')].every((place) => place.scrollWidth <= place.clientWidth)"
    )


def test_a_lead_sets_rules_guidelines_people_and_asks_for_demonstrations(
    page: Page, filled: Store, serve: Callable[[Store], Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    root = filled.add_user("root", PASSWORD, role="admin")
    filled.add_user("ada", PASSWORD)
    server = serve(filled)
    open_page(page, server, "root", "lead/", "[data-shown=campaigns]")
    page.get_by_label("Share of gold items").fill("0.1")
    page.get_by_label("Answers a person a day").fill("40")
    page.get_by_role("button", name="Save the rules").click()
    page.get_by_text("The rules are saved.").wait_for()
    page.locator("#guidelines-text").fill(HOSTILE)
    page.get_by_role("button", name="Save as a new version").click()
    page.get_by_text("Version 1 of the guidelines holds from now on.").wait_for()
    page.get_by_label("Name of the project").fill("spring")
    page.get_by_role("button", name="Make the project").click()
    page.get_by_text("So far: spring").wait_for()
    page.locator("#new-campaign").fill("second")
    page.get_by_role("button", name="Make the campaign").click()
    page.get_by_text("The campaign second has 0 tasks.").wait_for()
    assert serious_findings(page) == []
    row = filled.campaign("main")
    assert (row.gold_share, row.daily_cap, filled.campaign("second").overlap) == (0.1, 40, 2)

    page.get_by_role("link", name="People").click()
    page.locator("#new-user").fill("bob")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("(shown only now)").wait_for()
    password = page.locator(".status").inner_text().split("password ")[1].split(" ")[0]
    assert filled.authenticate("bob", password) is not None
    page.get_by_label("Role of bob").select_option("lead")
    page.get_by_role("button", name="Change the role").click()
    page.get_by_text("bob is lead now.").wait_for()
    assert serious_findings(page) == []

    page.get_by_role("link", name="Demonstrations").click()
    page.locator("#ask-prompts").fill("a cat\na dog")
    page.get_by_role("button", name="Ask for demonstrations").click()
    page.get_by_text("2 new prompts wait for a video.").wait_for()
    set_language(filled, root, "de")  # of this part alone
    page.get_by_role("link", name="Programs").click()
    page.get_by_label("Name des Programms").fill("dashboard")
    page.get_by_role("button", name="Token erstellen").click()
    page.get_by_text("Das Token dashboard ist erstellt").wait_for()
    token = page.locator("#token-secret").input_value()
    assert valid_token(filled, token) is not None
    page.locator("#webhook-url").fill("https://8.8.8.8/hook")
    page.locator("[id='event-answer.stored']").uncheck()
    page.get_by_role("button", name="Webhook hinzufügen").click()
    page.get_by_text("Webhook 1 ist hinzugefügt").wait_for()
    secret = page.locator("#webhook-secret").input_value()
    assert secret.startswith("whsec_")
    assert webhooks(filled)[0][0].events == ["answer.flagged", "campaign.finished"]
    page.locator("tr", has_text="8.8.8.8").wait_for()
    assert serious_findings(page) == []
    page.reload()
    page.locator("[data-shown=programs] tr", has_text="dashboard").wait_for()
    assert [shown for shown in (token, secret) if shown in page.content()] == []
    page.get_by_role("button", name="Widerrufen…").click()
    page.get_by_role("button", name="Widerrufen", exact=True).click()
    page.get_by_text("Das Token dashboard ist widerrufen.").wait_for()
    page.get_by_role("button", name="Entfernen…").click()
    page.get_by_role("button", name="Entfernen", exact=True).click()
    page.get_by_text("Es gibt noch keinen Webhook.").wait_for()
    assert valid_token(filled, token) is None

    page.get_by_role("link", name="Audit").click()
    page.get_by_text("ask for demonstrations").wait_for()
    assert serious_findings(page) == []
    # The annotator reads the guidelines as they were written.
    log_in_again(page, server, "ada")
    page.get_by_role("heading", name="Before you begin").wait_for()
    assert page.evaluate("document.querySelector('.guidelines-text').textContent.trim()") == HOSTILE
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("width", [1280, 390])
def test_a_lead_looks_at_quality_and_decides_a_disagreement(
    page: Page,
    filled: Store,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Page], list[str]],
    width: int,
) -> None:
    answer_everything(filled, {"ann": [1, 2, 3, 4], HOSTILE[:12]: [4, 3, 2, 1]})
    set_guidelines(filled, "main", "Look.")
    filled.add_user("lea", PASSWORD, role="lead")
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, serve(filled), "lea", "lead/#quality", "[data-shown=quality]")
    page.wait_for_function(
        "[...document.querySelectorAll('.plot img')].every((image) => image.naturalWidth > 100)"
    )
    assert page.locator(".plot img").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_findings(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Rankings with the decisions").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 6

    page.get_by_role("link", name="Adjudication").click()
    page.wait_for_selector("[data-shown=adjudication]")
    assert page.locator(".decision").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        assert small_targets(page) == []
    assert serious_findings(page) == []
    page.locator(".decision").first.get_by_role("link", name="Decide with all videos").click()
    page.wait_for_selector(".card")
    assert "2 more to decide" in page.locator(".looking").inner_text()
    assert page.locator(".answers-given tbody tr").count() == 2
    for place in "2133":
        page.keyboard.press(place)
    page.get_by_label("Use it as a hidden gold item").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_findings(page) == []
    page.get_by_role("button", name="Decide", exact=True).click()
    page.wait_for_function("document.querySelector('.looking')?.textContent.includes('1 more to decide')")
    page.get_by_role("link", name="Back to the list").click()
    page.wait_for_selector("[data-shown=adjudication]")
    assert page.locator(".decision").count() == 2
    (decision,) = adjudications(filled, "main").values()
    assert decision.ranks == [2, 1, 3, 3]
    assert len(filled.tasks("main", kind="gold")) == 1
    assert page.evaluate("window.hacked") is None
