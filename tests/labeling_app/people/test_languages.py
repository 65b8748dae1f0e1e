"""The catalogues of words: whole, used, and found for every page and sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeling_app.campaigns import transcoding
from labeling_app.people.invitations import NOT_VALID
from labeling_app.people.languages import (
    CATALOGUES,
    catalogue,
    languages,
    preferred_language,
    say,
    translated,
    translated_page,
)
from labeling_app.people.provider_accounts import NOT_ADMITTED
from labeling_app.tasks.lease import LEASE_EXPIRED
from labeling_app.web.access import NOT_LOGGED_IN
from labeling_app.web.provider import NOT_COMPLETED, NOT_REACHED

PACKAGE = CATALOGUES.parents[1]
STATIC = CATALOGUES.parent
PAGES = sorted(path for path in STATIC.rglob("*.js") if path.name != "lead.js" and path.parent.name != "lead")
PLACE = re.compile(r"\{(\w+)\}")
SAYING = (
    "tasks/answers",
    "tasks/lease",
    "tasks/guideline_reading",
    "tasks/hidden_tasks",
    "web/demonstration_api",
)
CONSTANTS = [LEASE_EXPIRED, NOT_VALID, NOT_ADMITTED, NOT_COMPLETED, NOT_REACHED, NOT_LOGGED_IN]
CONSTANTS += [transcoding.NOT_A_VIDEO, transcoding.BROKEN, transcoding.TOO_LARGE]


def literals(path: Path) -> set[str]:
    """Quoted strings of a script or a module, and the keys of a page."""
    text = path.read_text(encoding="utf-8")
    quoted = re.findall(r"'([^'\n]*)'|\"([^\"\n]*)\"", text)
    return {one or other for one, other in quoted} | set(re.findall(r"\{\{([\w.]+)\}\}", text))


def test_every_language_has_the_same_keys_and_places() -> None:
    assert languages() == ("de", "en")
    english = catalogue("en")
    for language in languages():
        words = catalogue(language)
        assert set(words) == set(english)
        assert [
            k for k in words if sorted(PLACE.findall(words[k])) != sorted(PLACE.findall(english[k]))
        ] == []
        assert [key for key, text in words.items() if not text.strip()] == []
        assert list(words) == sorted(words)


def test_no_key_is_missing_and_none_is_unused() -> None:
    files = [
        *PAGES,
        *STATIC.glob("*.html"),
        *(PACKAGE / "web").glob("*.py"),
        *(PACKAGE / "people").glob("*.py"),
    ]
    used = set().union(*map(literals, files))
    keys = {key for key in catalogue("en") if not key.startswith("message.")}
    assert keys - used == set()
    asked = {
        key for path in PAGES for key in re.findall(r"\bt\('([\w.]+)'", path.read_text(encoding="utf-8"))
    }
    shown = {
        key for path in STATIC.glob("*.html") for key in re.findall(r"\{\{([\w.]+)\}\}", path.read_text())
    }
    assert len(asked) > 100
    assert (asked | shown) - keys - {"lang"} == set()


def test_no_script_of_annotators_says_anything_that_is_not_in_the_catalogue() -> None:
    stored = {"A video does not play", "I do not understand the prompt", "Another reason"}
    stored.add("The content is offensive or unsafe")
    sentence = re.compile(r"^[A-Z][a-z]+[ ,:…]|[a-z]{3,} [a-z]{3,} [a-z]{2,}")
    said = {
        (path.name, text)
        for path in PAGES
        for text in re.findall(
            r"'([^'\n]*)'|`([^`\n]*)`", re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        )
        for text in text
        if sentence.search(text) and text not in stored
    }
    assert said == set()


def sentences(module: str) -> Iterator[str]:
    """Sentences that a module raises or returns, with 7 in the place of values."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        raised = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if raised or isinstance(node, ast.Return):
            said = node.exc.args[0] if raised else node.value
            if isinstance(said, ast.Constant) and isinstance(said.value, str) and said.value:
                yield said.value
            elif isinstance(said, ast.JoinedStr):
                yield "".join(str(p.value) if isinstance(p, ast.Constant) else "7" for p in said.values)


@pytest.mark.parametrize("module", SAYING)
def test_every_refusal_of_an_annotator_is_translated(module: str) -> None:
    found = list(sentences(module))
    assert found
    assert [sentence for sentence in found if translated(sentence, "de") == sentence] == []


def test_sentences_that_have_names_are_translated_too() -> None:
    assert [sentence for sentence in CONSTANTS if translated(sentence, "de") == sentence] == []


def test_a_sentence_keeps_its_values_in_another_language() -> None:
    said = "You have given 300 answers within 24 hours, which is the limit: come back later."
    assert translated(said, "en") == said
    assert translated(said, "de").startswith("Sie haben in 24 Stunden 300 Antworten gegeben")
    assert translated("Nobody says this.", "de") == "Nobody says this."
    assert say("de", "login.wait", seconds=4) == (
        "Zu viele Versuche: warten Sie 4 Sekunden und versuchen Sie es noch einmal."
    )


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-CH,de;q=0.9,en;q=0.8", "de"),
        ("fr, en;q=0.5, de;q=0.7", "de"),
        ("en;q=0, de;q=0.1", "de"),
        ("de;q=0", "en"),
        ("*;q=1, ;;;, de;q=x", "en"),
    ],
)
def test_the_language_follows_the_browsers_wishes(header: str, language: str) -> None:
    assert preferred_language(header) == language


def test_a_page_has_no_place_left_and_its_language_named() -> None:
    for page in STATIC.glob("*.html"):
        shown = translated_page(page.read_text(encoding="utf-8"), "de")
        assert '<html lang="de">' in shown
        assert "{{" not in shown
