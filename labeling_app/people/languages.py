"""Languages of annotators' pages: one catalogue of words each, in `static/languages/`."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path

from generator.output import InputError
from labeling_app.store.store import Store
from labeling_app.store.tables import User

CATALOGUES = Path(__file__).parents[1] / "static" / "languages"
DEFAULT = "en"
MESSAGE = "message."
"""Beginning of the keys of sentences that the server says."""
_PLACE = re.compile(r"\{(\w+)\}")


@cache
def catalogue(language: str) -> dict[str, str]:
    """The words of a language by their keys; `{name}` stands for a value."""
    words: dict[str, str] = json.loads((CATALOGUES / f"{language}.json").read_text(encoding="utf-8"))
    return words


@cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that have a catalogue, in alphabetical order."""
    return tuple(sorted(path.stem for path in CATALOGUES.glob("*.json")))


def preferred_language(accept_language: str) -> str:
    """The language of a browser.

    Args:
        accept_language: the header, such as `de-CH, en;q=0.8` (RFC 9110, section 12.5.4).
    """
    weighted = []
    for place, part in enumerate(accept_language.split(",")):
        code, _, parameter = part.strip().partition(";")
        quality = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", parameter)
        weight = float(quality[1]) if quality else 1.0 if not parameter.strip() else 0.0
        language = code.strip().partition("-")[0].lower()
        if language in languages() and weight > 0:
            weighted.append((-weight, place, language))
    return min(weighted)[2] if weighted else DEFAULT


def user_language(user: User | None, accept_language: str) -> str:
    """The language that the user has chosen, else that of the browser."""
    if user is not None and user.language in languages():
        return user.language
    return preferred_language(accept_language)


def set_language(store: Store, user: User, language: str) -> None:
    """Stores the language of a person's pages; an empty one leaves it to the browser.

    Raises:
        InputError: there is no such language.
    """
    if language and language not in languages():
        raise InputError(
            f"The language {language[:20]!r} is unknown: choose one of {', '.join(languages())}."
        )
    with store.write() as session:
        session.get_one(User, user.id).language = language


def say(language: str, key: str, **values: object) -> str:
    """The words of a key with values in place of `{name}`."""
    return _PLACE.sub(lambda place: str(values[place[1]]), catalogue(language)[key])


def translated(message: str, language: str) -> str:
    """A sentence of the server in another language; as it is where the catalogue does not have it."""
    if language == DEFAULT:
        return message
    for key, pattern in _sentences():
        if (found := pattern.fullmatch(message)) is not None:
            return say(language, key, **found.groupdict())
    return message


def translated_page(template: str, language: str) -> str:
    """HTML with the words of a language in place of `{{key}}`."""
    words = {"lang": language, **catalogue(language)}
    return re.sub(r"\{\{([\w.]+)\}\}", lambda place: html.escape(words[place[1]]), template)


@cache
def _sentences() -> list[tuple[str, re.Pattern[str]]]:
    found = []
    for key, sentence in catalogue(DEFAULT).items():
        if key.startswith(MESSAGE):
            parts = _PLACE.split(sentence)
            texts = [re.escape(part) if i % 2 == 0 else f"(?P<{part}>.*?)" for i, part in enumerate(parts)]
            found.append((key, re.compile("".join(texts), re.DOTALL)))
    return found
