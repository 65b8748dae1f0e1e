"""Tables for other programs: API tokens, webhooks and their deliveries."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from labeling_app.store.tables import Base, Campaign


class ApiToken(Base):
    """A program that may read what leads read; only the hash of its token is kept.

    Attributes:
        expires_at, revoked_at: seconds since the epoch; None where it never expires, or was not revoked.
    """

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Webhook(Base):
    """An address that is told of events.

    Attributes:
        campaign_id: of the only campaign that it is told of; None for all.
        events: names of events (`labeling_app.store.webhooks.EVENTS`).
        salt: with the signing key, which is not in the database, it makes the secret.
        key_check: hash by which a process knows whether its signing key is the one that the secret was made with.
        allow_private: addresses of private networks are allowed, and http.
    """

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    campaign_id: Mapped[int | None] = mapped_column(ForeignKey("campaigns.id"), index=True)
    events: Mapped[list[str]]
    salt: Mapped[str] = mapped_column(String(32))
    key_check: Mapped[str] = mapped_column(String(64))
    allow_private: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[float]
    campaign: Mapped[Campaign | None] = relationship(lazy="joined")


class Delivery(Base):
    """An event on its way to a webhook.

    Attributes:
        key: names the event, so that a webhook gets each once.
        state: `waiting`, `delivered` or `failed` (given up).
        attempts: how often it was sent.
        next_at: when it is sent, or sent again; seconds since the epoch.
        error: why the last attempt failed; empty where none did.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "key"),
        Index("ix_webhook_deliveries_waiting", "state", "next_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    key: Mapped[str] = mapped_column(String(200))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(10), default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float]
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[float]
    webhook: Mapped[Webhook] = relationship(lazy="joined")
