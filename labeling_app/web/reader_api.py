"""The API of what every page has beside its work: the words of a language, and messages of leads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from generator.output import InputError
from labeling_app.people import languages, messages
from labeling_app.store.store import Store
from labeling_app.web.access import Annotator


class Language(BaseModel):
    """Language of the user's pages; empty for that of the browser."""

    model_config = ConfigDict(extra="forbid")
    language: str = Field(max_length=10)


class ReadMessage(BaseModel):
    """Number of a message that the user has read."""

    model_config = ConfigDict(extra="forbid")
    message: StrictInt


def reader_api(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api", tags=["reader"])

    @api.get("/words")
    def words(
        request: Request, user: Annotator, language: Annotated[str, Query(max_length=10)] = ""
    ) -> dict[str, Any]:
        """The words of the pages in a language, by default that of the user or of the browser."""
        if language and language not in languages.languages():
            known = ", ".join(languages.languages())
            raise InputError(f"The language {language!r} is unknown: choose one of {known}.")
        wished = request.headers.get("accept-language", "")
        shown = language or languages.user_language(user, wished)
        found = languages.catalogue(shown)
        return {
            "language": shown,
            "own": user.language,
            "browser": languages.preferred_language(wished),
            "choices": [
                [code, languages.say(code, "language.name")] for code in reversed(languages.languages())
            ],
            "words": {key: text for key, text in found.items() if not key.startswith(languages.MESSAGE)},
        }

    @api.post("/language")
    def set_language(user: Annotator, body: Annotated[Language, Body()]) -> dict[str, Any]:
        """Chooses the language of the user's pages."""
        languages.set_language(store, user, body.language)
        store.record(user.name, "set language", language=body.language)
        return {}

    @api.get("/messages")
    def unread(user: Annotator) -> dict[str, Any]:
        """Messages to the user that were not confirmed, the oldest first."""
        return {
            "messages": [
                {
                    "id": row.id,
                    "text": row.text,
                    "sender": row.user.name if row.user else "",
                    "at": row.created_at,
                }
                for row in messages.unread_messages(store, user)
            ]
        }

    @api.post("/messages/read")
    def confirm(user: Annotator, body: Annotated[ReadMessage, Body()]) -> dict[str, Any]:
        """Says that the user has read a message, which is not shown again."""
        messages.confirm_message(store, user, body.message)
        return {}

    return api
