"""The API of the lead's page about other programs, for admins: API tokens and webhooks."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Body, Depends
from pydantic import Field, StrictInt

from labeling_app.store import api_tokens, webhooks
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.web.access import Lead, NotAllowed
from labeling_app.web.people_api import Strict
from labeling_app.web.public_address import checked_address


def logged_in_admin(user: Lead) -> User:
    """The admin who is logged in; for routes that need one."""
    if user.role != "admin":
        raise NotAllowed("Only an admin sees and changes API tokens and webhooks: ask one.")
    return user


Admin = Annotated[User, Depends(logged_in_admin)]


class NewToken(Strict):
    """Name of the program that gets a token, and days until it expires; None for never."""

    name: str = Field(max_length=200)
    days: float | None = Field(default=None, gt=0, le=api_tokens.MAXIMUM_DAYS)


class TokenName(Strict):
    """Name of a token."""

    name: str = Field(max_length=200)


class NewWebhook(Strict):
    """Address to tell of events, of one campaign or of all."""

    url: str = Field(max_length=2000)
    events: list[str] = Field(max_length=len(webhooks.EVENTS))
    campaign: str | None = Field(default=None, max_length=200)


class WebhookNumber(Strict):
    """Number of a webhook."""

    webhook: StrictInt


def programs_api(store: Store) -> APIRouter:
    """The routes, without the first part of their path."""
    api = APIRouter()
    _add_tokens(api, store)
    _add_webhooks(api, store)
    return api


def _add_tokens(api: APIRouter, store: Store) -> None:
    @api.get("/tokens")
    def tokens(user: Admin) -> dict[str, Any]:
        """API tokens, revoked and expired ones too, and when each was last used, to the hour."""
        used, now = api_tokens.last_uses(store), store.clock()
        return {
            "tokens": [
                {
                    "name": row.name,
                    "state": api_tokens.token_state(row, now),
                    "created_at": row.created_at,
                    "expires_at": row.expires_at,
                    "used_at": used.get(row.name),
                }
                for row in api_tokens.tokens(store)
            ]
        }

    @api.post("/tokens")
    def add(user: Admin, body: Annotated[NewToken, Body()]) -> dict[str, Any]:
        """Makes a token and returns it; it is shown only now."""
        token = api_tokens.add_token(store, body.name, body.days)
        store.record(user.name, "add token", token=body.name, days=body.days)
        return {"name": body.name, "token": token}

    @api.post("/tokens/revoke")
    def revoke(user: Admin, body: Annotated[TokenName, Body()]) -> dict[str, Any]:
        """Ends a token for good."""
        api_tokens.revoke_token(store, body.name)
        store.record(user.name, "revoke token", token=body.name)
        return {"name": body.name}


def _add_webhooks(api: APIRouter, store: Store) -> None:
    @api.get("/webhooks")
    def all_webhooks(user: Admin) -> dict[str, Any]:
        """Webhooks with the numbers of their events by state, and how the last one that was sent fared."""
        last = webhooks.last_deliveries(store)
        return {
            "events": list(webhooks.EVENTS),
            "webhooks": [
                {
                    "id": row.id,
                    "host": urlsplit(row.url).hostname,
                    "campaign": row.campaign.name if row.campaign else None,
                    "events": row.events,
                    "counts": counts,
                    "last": None
                    if row.id not in last
                    else {
                        "state": last[row.id].state,
                        "error": last[row.id].error,
                        "at": last[row.id].created_at,
                    },
                }
                for row, counts, _ in webhooks.webhooks(store)
            ],
        }

    @api.post("/webhooks")
    def add(user: Admin, body: Annotated[NewWebhook, Body()]) -> dict[str, Any]:
        """Adds a webhook at a public address and returns the secret of its signatures, which is shown only now."""
        checked_address(body.url, allow_private=False)
        row, secret = webhooks.add_webhook(store, body.url, body.events, body.campaign)
        host = urlsplit(body.url).hostname
        store.record(user.name, "add webhook", webhook=row.id, host=host, events=row.events)
        return {"id": row.id, "secret": secret}

    @api.post("/webhooks/remove")
    def remove(user: Admin, body: Annotated[WebhookNumber, Body()]) -> dict[str, Any]:
        """Removes a webhook, and the events that wait for it."""
        removed = webhooks.remove_webhook(store, body.webhook)
        store.record(user.name, "remove webhook", webhook=removed.id, host=urlsplit(removed.url).hostname)
        return {"id": removed.id}
