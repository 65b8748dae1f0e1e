"""In a real browser: guidelines before the first task, a lead who only looks, letters, passwords, deletion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labeling_app.campaigns.demonstrations import ask
from labeling_app.store.guidelines import set_guidelines
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment
from labeling_app.tasks import next_task as assignment

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"
GUIDELINES = """# Look twice

Rank by **motion** first:

1. smooth
2. natural

| good | bad |
|---|---|
| a ball | a blob |

[rules](https://example.org/rules) [bad](javascript:window.hacked=1) [worse](data:text/html,x)
![pixel](https://example.org/pixel.png) <img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>
<a href="javascript:window.hacked=1">tag</a> `${window.hacked = 1}`
"""


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def log_in(page: Page, server: Any, name: str, path: str = "") -> None:
    page.context.clear_cookies()
    page.goto(f"{server.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/(rank|lead)/$"))
    if path:
        page.goto(f"{server.url}/{path}")


def held(store: Store) -> int:
    with store.read() as session:
        return session.query(Assignment).count()


def test_guidelines_are_rendered_safely_and_acknowledged_before_the_first_task_and_when_they_change(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    filled.add_user("ada", PASSWORD)
    set_guidelines(filled, "main", GUIDELINES)
    server = serve(filled)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    log_in(page, server, "ada")
    page.get_by_role("heading", name="Before you begin: the guidelines").wait_for()
    text = page.locator(".guidelines-text")
    assert text.locator("h1").inner_text() == "Look twice"
    assert text.locator("strong").inner_text() == "motion"
    assert text.locator("ol li").all_inner_texts() == ["smooth", "natural"]
    assert text.locator("td").all_inner_texts() == ["a ball", "a blob"]
    links = text.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert links == ["https://example.org/rules", "https://example.org/pixel.png"]  # a picture is a link
    assert text.locator("img, script, iframe").count() == 0
    assert "<script>window.hacked = 1</script>" in text.inner_text()
    assert page.evaluate("window.hacked") is None
    assert all(url.startswith((server.url, "data:")) for url in asked)
    assert serious_findings(page) == []
    assert held(filled) == 0  # nothing is taken while somebody reads
    page.reload()
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_selector(".card")
    page.reload()
    page.wait_for_selector(".card")  # once is enough
    set_guidelines(filled, "main", "Look **three** times.")
    page.reload()
    page.get_by_role("heading", name="The guidelines have changed").wait_for()
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_selector(".card")
    page.get_by_text("Guidelines", exact=True).click()
    assert page.locator(".guidelines-text strong").inner_text() == "three"


def test_the_guidelines_come_before_demonstrations_too(
    page: Page, filled: Store, serve: Callable[..., Any]
) -> None:
    filled.add_user("ada", PASSWORD)
    set_guidelines(filled, "main", "Show *all* of it.")
    ask(filled, "main", ["a cat"])
    log_in(page, serve(filled), "ada", "demonstrate/")
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_function("document.querySelector('.prompt-text')?.textContent === 'a cat'")


def test_a_lead_looks_at_tasks_without_taking_one_until_asked_to(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    server = serve(filled)
    log_in(page, server, "lea")
    assert page.url.endswith("/lead/")
    page.goto(f"{server.url}/rank/")
    page.wait_for_selector(".card")
    assert page.locator(".looking").is_visible()
    assert page.locator(".prompt-text").inner_text() == "a red circle moves right, take 0"
    page.get_by_role("button", name="Next task").click()
    page.wait_for_function("document.querySelector('.prompt-text').textContent.endsWith('take 1')")
    assert page.get_by_role("button", name="Skip…").is_hidden()
    assert page.evaluate("Object.keys(localStorage)") == []
    assert serious_findings(page) == []
    assert held(filled) == 0
    page.get_by_role("button", name="Rank tasks myself").click()
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Task 1 of 12')")
    assert held(filled) == 1
    assert page.get_by_role("button", name="Skip…").is_visible()


def test_the_lead_sees_the_video_that_the_annotator_meant(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    bob: Any = filled.add_user("bob", PASSWORD)
    task = assignment.next_task(filled, bob, order=lambda _: [3, 2, 0, 1])
    assert task is not None
    filled.add_user("lea", PASSWORD, role="lead")
    server = serve(filled)
    log_in(page, server, "bob")
    page.wait_for_selector(".card")
    for key in ("1", "2", "3", "4", "!"):
        page.keyboard.press(key)
    page.keyboard.type("Video B looks broken")
    assert page.locator(".flag-part .about-video[aria-pressed=true]").inner_text() == "B"
    page.reload()
    page.wait_for_selector(".card")
    assert page.locator(".flag-part .about-video[aria-pressed=true]").inner_text() == "B"
    assert serious_findings(page) == []
    page.wait_for_function("!document.querySelector('.card:not(.seen)')")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function("document.querySelector('.progress-text').textContent.startsWith('Task 2')")
    (judgement,) = filled.judgements("main")
    assert judgement.remark_videos == {"flag": [2]}
    log_in(page, server, "lea", "lead/#adjudication")
    page.wait_for_selector(".remark")
    said = page.locator(".remark").inner_text()
    assert "bob flagged, about video C here (B for bob)" in said
    assert "Letters as bob saw them: A is D here, B is C here, C is A here, D is B here." in said
    assert serious_findings(page) == []


def test_a_password_is_given_anew_only_after_a_question(
    page: Page, filled: Store, serve: Callable[..., Any]
) -> None:
    ada: Any = filled.add_user("ada", PASSWORD)
    session = filled.open_session(ada)
    filled.add_user("lea", PASSWORD, role="lead")
    log_in(page, serve(filled), "lea", "lead/#people")
    row = page.locator("tr", has_text="ada")
    row.get_by_role("button", name="New password…").click()
    page.get_by_role("button", name="Go back").click()
    assert filled.authenticate("ada", PASSWORD) is not None
    row.get_by_role("button", name="New password…").click()
    page.get_by_role("button", name="Give a new password").click()
    page.get_by_text("(shown only now)").wait_for()
    password = page.locator(".status").inner_text().split("password ")[1].split(" ")[0]
    assert filled.authenticate("ada", PASSWORD) is None
    assert filled.authenticate("ada", password) is not None
    assert filled.session_user(session) is None
    page.reload()
    page.wait_for_selector("[data-shown=people]")
    assert password not in page.content()


def test_a_campaign_is_paused_renamed_and_deleted_on_the_page(
    page: Page, filled: Store, serve: Callable[..., Any], serious_findings: Callable[[Page], list[str]]
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    log_in(page, serve(filled), "lea")
    page.wait_for_selector("[data-shown=campaigns]")
    page.locator("#rule-overlap").fill("3")
    page.locator("#dimension-motion").check()
    page.get_by_role("button", name="Save the rules").click()
    page.get_by_text("The rules are saved.").wait_for()
    row = filled.campaign("main")
    assert (row.overlap, row.dimensions) == (3, ["overall", "motion"])
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("The campaign main is paused.").wait_for()
    page.locator("#campaign-name").fill("spring #1")
    page.get_by_role("button", name="Rename").click()
    page.get_by_text("The campaign is called spring #1 now.").wait_for()
    assert filled.campaign("spring #1").state == "paused"
    page.get_by_role("button", name="Delete…").click()
    assert serious_findings(page) == []
    delete = page.get_by_role("button", name="Delete it")
    page.locator("#typed-name").fill("spring")
    assert delete.is_disabled()
    page.locator("#typed-name").fill("spring #1")
    delete.click()
    page.get_by_text("The campaign spring #1 is deleted.").wait_for()
    assert filled.campaigns() == []
    assert page.locator("[data-shown=campaigns]").is_visible()


def test_the_login_page_keeps_the_name_after_a_wrong_password(
    page: Page, filled: Store, serve: Callable[..., Any]
) -> None:
    filled.add_user("José", PASSWORD)
    server = serve(filled)
    page.goto(f"{server.url}/login")
    for password in ["wrong horse"] * 6:  # the last ones are told to wait
        page.get_by_label("Name").fill("José")
        page.get_by_label("Password").fill(password)
        with page.expect_navigation():
            page.get_by_role("button", name="Log in").click()
        page.wait_for_function("document.querySelector('.login-message').textContent")
        assert page.get_by_label("Name").input_value() == "José"
        page.wait_for_function("document.activeElement.id === 'password'")  # focus follows the first drawing
    assert filled.audit_events(1)[0].action == "failed login"
