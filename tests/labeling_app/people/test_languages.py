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
IN_ENGLISH = {"lead.js", *(path.name for path in (STATIC / "lead").glob("*.js"))} - {"programs.js"}
PAGES = sorted(path for path in STATIC.rglob("*.js") if path.name not in IN_ENGLISH)
PLACE = re.compile(r"\{(\w+)\}")
SAYING = (
    "tasks/answers",
    "tasks/lease",
    "tasks/guideline_reading",
    "tasks/hidden_tasks",
    "tasks/marks",
    "web/demonstration_api",
)
CLASSES = re.compile(r"(make\('\w*', |\b(actionButton|button|control)\(|className = )$")
"""Text before names of CSS classes."""
NOT_SHOWN = {
    "A video does not play": "reason as it is stored",
    "I do not understand the prompt": "reason as it is stored",
    "The content is offensive or unsafe": "reason as it is stored",
    "Another reason": "reason as it is stored",
    "All videos are bad": "flag as it is stored",
    "textarea, select, input:not([type=range])": "selector",
    "button, summary, a": "selector",
    "noopener noreferrer": "relation of a link",
    "translate(…px, …px)": "style",
    " with-images": "class",
    "vidalign-draft …": "key in the browser's storage",
    "@scope (:has(> .ranking-page)) {\\n…\\n}": "style sheet",
}
"""Quoted texts with a space that nobody reads, each with the reason."""
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


def quoted(script: str) -> Iterator[tuple[str, str]]:
    """Quoted texts of a script, each with what stands before it; `${…}` of templates is left out, but read too."""
    script = re.sub(r"(?m)^\s*//.*|(?<=[;,{}) ])//.*", "", script)
    for found in re.finditer(r"'((?:[^'\\\n]|\\.)*)'", script):
        yield script[max(0, found.start() - 40) : found.start()], found[1]
    inner = re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", script)
    while (hollow := re.sub(r"\$\{[^{}`]*\}|\$\{[^{}`]*\{[^{}`]*\}[^{}`]*\}", "…", inner)) != inner:
        inner = hollow
        for found in re.finditer(r"`([^`]*)`", inner):
            if "${" not in found[1]:
                yield inner[max(0, found.start() - 40) : found.start()], found[1]


def shown_sentences(path: Path) -> set[str]:
    """Quoted texts with a word and a space that are no names of CSS classes."""
    return {
        text
        for before, text in quoted(path.read_text(encoding="utf-8"))
        if " " in text
        and re.search(r"[A-Za-z]{2}", text)
        and not CLASSES.search(before)
        and text not in NOT_SHOWN
        and not text.startswith("(")  # of matchMedia
    }


def test_no_script_of_annotators_says_anything_that_is_not_in_the_catalogue(tmp_path: Path) -> None:
    of_leads = {"decide.js"}
    said = {
        (path.name, text) for path in PAGES if path.name not in of_leads for text in shown_sentences(path)
    }
    assert said == set()
    found = tmp_path / "new.js"
    found.write_text("make('p', 'big hint', {}, 'Go on'); say(`Video ${letter(a)}: no ${tag}.`);")
    assert shown_sentences(found) == {"Go on", "Video …: no …."}


def sentences(module: str) -> Iterator[str]:
    """Sentences that a module raises or returns, with 7 in the place of values."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        raised = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if raised or isinstance(node, ast.Return):
            said = node.exc.args[0] if raised else node.value
            if isinstance(said, ast.Constant) and isinstance(said.value, str) and said.value:
                yield said.value
            elif isinstance(said, ast.JoinedStr) and not _is_html(said):
                yield "".join(str(p.value) if isinstance(p, ast.Constant) else "7" for p in said.values)


def _is_html(said: ast.JoinedStr) -> bool:
    return isinstance(said.values[0], ast.Constant) and str(said.values[0].value).startswith("<")


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
