"""Webhooks: addresses that are told of events, and the events that wait for them.

An event is stored in the transaction that it tells of, so none is lost and none is told of what was rolled back;
`labeling_app.web.webhook_delivery` sends it. Signatures are those of Standard Webhooks (standardwebhooks.com): HMAC
with SHA-256 of `id.timestamp.body`. The secret of a webhook is made of a salt in the database and of a signing key that
is not: of the environment variable `VIDALIGN_WEBHOOK_KEY`, or of a file in the folder of the uploads.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import false

from generator.output import InputError
from labeling_app.store.integration_tables import Delivery, Webhook
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign, Task

STORED, FLAGGED, FINISHED = "answer.stored", "answer.flagged", "campaign.finished"
EVENTS = (STORED, FLAGGED, FINISHED)
KEY_VARIABLE = "VIDALIGN_WEBHOOK_KEY"
KEY_FILE = "webhook.key"
SHORTEST_KEY = 32
KEPT_SECONDS = 30 * 86400.0
"""Time after which events that were delivered or given up are deleted."""
_LISTENING = (
    select(Webhook.id, Webhook.events, Campaign.name)
    .join(Campaign, or_(Webhook.campaign_id.is_(None), Webhook.campaign_id == Campaign.id))
    .join(Task, Task.campaign_id == Campaign.id)
    .where(Task.id == bindparam("task"))
)


def add_webhook(
    store: Store, url: str, events: Sequence[str], campaign: str | None = None, allow_private: bool = False
) -> tuple[Webhook, str]:
    """Adds a webhook; returns it and its secret, with which the receiver checks signatures.

    Args:
        url: that `labeling_app.web.public_address.checked_address` has let pass.
        events: some of `EVENTS`.
        campaign: the only one that it is told of; by default all.
        allow_private: addresses of private networks are allowed.

    Raises:
        InputError: an event or the campaign is unknown, or the signing key cannot be read or made.
    """
    unknown = [event for event in events if event not in EVENTS]
    if unknown or not events:
        raise InputError(f"The events are {list(events)}: give one or more of {', '.join(EVENTS)}.")
    campaign_id = None if campaign is None else store.campaign(campaign).id
    salt = secrets.token_urlsafe(16)
    secret = signing_secret(signing_key(store.uploads, make=True), salt)
    row = Webhook(
        url=url,
        campaign_id=campaign_id,
        events=list(dict.fromkeys(events)),
        salt=salt,
        key_check=key_check(secret),
        allow_private=allow_private,
        created_at=store.clock(),
    )
    with store.write() as session:
        session.add(row)
    return row, secret


def remove_webhook(store: Store, number: int) -> Webhook:
    """Deletes a webhook, and the events that wait for it; returns it.

    Raises:
        InputError: there is none of this number.
    """
    with store.write() as session:
        found = session.get(Webhook, number) if 0 < number < 2**31 else None
        if found is None:
            raise InputError(f"There is no webhook {number}: list them with `vidalign label webhook`.")
        session.execute(delete(Delivery).where(Delivery.webhook_id == number))
        session.execute(delete(Webhook).where(Webhook.id == number))
        return found


def delete_webhooks_of(session: Session, campaign_id: int) -> None:
    """Deletes the webhooks of a campaign that is deleted."""
    own = select(Webhook.id).where(Webhook.campaign_id == campaign_id)
    session.execute(delete(Delivery).where(Delivery.webhook_id.in_(own)))
    session.execute(delete(Webhook).where(Webhook.campaign_id == campaign_id))


def webhooks(store: Store) -> list[tuple[Webhook, dict[str, int], str]]:
    """All webhooks, each with the number of its events by state and with its newest error."""
    with store.read() as session:
        rows = list(session.scalars(select(Webhook).order_by(Webhook.id)))
        counts: dict[int, dict[str, int]] = {row.id: {} for row in rows}
        grouped = select(Delivery.webhook_id, Delivery.state, func.count()).group_by(
            Delivery.webhook_id, Delivery.state
        )
        for webhook, state, count in session.execute(grouped):
            counts[webhook][state] = count
        failed = select(Delivery.webhook_id, Delivery.error).where(Delivery.error != "").order_by(Delivery.id)
        newest = dict(session.execute(failed).tuples().all())
    return [(row, counts[row.id], newest.get(row.id, "")) for row in rows]


def last_deliveries(store: Store) -> dict[int, Delivery]:
    """The newest event that was sent to each webhook, with or without success; none of webhooks without any."""
    newest = select(func.max(Delivery.id)).where(Delivery.attempts > 0).group_by(Delivery.webhook_id)
    with store.read() as session:
        return {
            row.webhook_id: row for row in session.scalars(select(Delivery).where(Delivery.id.in_(newest)))
        }


def signing_key(uploads: Path, make: bool = False) -> bytes:
    """The key of this installation.

    Args:
        make: makes the file where it is missing.

    Raises:
        InputError: there is none, or it is too short.
    """
    given = os.environ.get(KEY_VARIABLE)
    path = uploads / KEY_FILE
    if given is None and make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    try:
        key = path.read_text("utf-8").strip() if given is None else given
    except OSError as error:
        raise InputError(
            f"The signing key of webhooks {path} cannot be read ({error.strerror}): put it back, or set {KEY_VARIABLE}."
        ) from error
    if len(key) < SHORTEST_KEY:
        raise InputError(
            f"The signing key of webhooks has {len(key)} characters: give {SHORTEST_KEY} random ones or more."
        )
    return key.encode()


def signing_secret(key: bytes, salt: str) -> str:
    """The secret of a webhook as receivers are given it: `whsec_` and 32 bytes in base64."""
    return "whsec_" + base64.b64encode(hmac.digest(key, salt.encode(), "sha256")).decode()


def key_check(secret: str) -> str:
    """Hash of a secret of 256 random bits, which does not tell it."""
    return hashlib.sha256(f"vidalign webhook {secret}".encode()).hexdigest()


def signature(secret: str, message: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of Standard Webhooks: `v1,` and the HMAC of `message.timestamp.body` in base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return (
        "v1,"
        + base64.b64encode(hmac.digest(key, f"{message}.{timestamp}.".encode() + body, "sha256")).decode()
    )


def tell_of_answer(
    connection: Connection, task_id: int, token: str, annotator: str, version: int, flag: str, now: float
) -> None:
    """Stores what webhooks are told of an answer, in the transaction that stores the answer.

    Args:
        token: of the assignment; unlike the id of a task it never comes again.
        version: of the answer; above 1 of a changed one.
        flag: why a lead should look at the task, or empty.
    """
    rows = []
    for webhook, events, campaign in connection.execute(_LISTENING, {"task": task_id}):
        data = {"campaign": campaign, "task": task_id, "annotator": annotator, "version": version}
        for event in (STORED, FLAGGED) if flag else (STORED,):
            if event in events:
                told = {**data, "flag": flag} if event == FLAGGED else data
                rows.append(_waiting(webhook, f"{event}:{token}:{version}", event, told, now))
    if rows:
        connection.execute(insert(Delivery), rows)


def tell_of_finished(store: Store) -> int:
    """Stores what webhooks are told of campaigns that are finished, once for each number of tasks; returns how many.

    It is not stored with the answer that finishes a campaign: two last answers at the same time would not see each
    other.
    """
    listening = select(
        Webhook.id, Webhook.events, Campaign.id, Campaign.name, Campaign.overlap, Campaign.created_at
    ).join(Campaign, or_(Webhook.campaign_id.is_(None), Webhook.campaign_id == Campaign.id))
    with store.read() as session:
        found = [row for row in session.execute(listening) if FINISHED in row[1]]
        rows = []
        for webhook, _, campaign, name, overlap, made in found:
            of_campaign = (Task.campaign_id == campaign, Task.kind == "normal")
            if session.scalar(select(Task.id).where(*of_campaign, Task.filled == false()).limit(1)):
                continue
            tasks = session.scalar(select(func.count(Task.id)).where(*of_campaign))
            key = f"{FINISHED}:{campaign}:{made}:{tasks}:{overlap}"
            known = select(Delivery.id).where(Delivery.webhook_id == webhook, Delivery.key == key)
            if tasks and session.scalar(known) is None:
                data = {"campaign": name, "tasks": tasks, "overlap": overlap}
                rows.append(_waiting(webhook, key, FINISHED, data, store.clock()))
    if rows:
        with store.write() as session:
            for row in rows:
                same = (Delivery.webhook_id == row["webhook_id"], Delivery.key == row["key"])
                if session.scalar(select(Delivery.id).where(*same)) is None:
                    session.execute(insert(Delivery), [row])
    return len(rows)


def forget_old(store: Store) -> None:
    """Deletes events that were delivered or given up long ago, but for those by which a finished campaign is known."""
    with store.write() as session:
        session.execute(
            delete(Delivery).where(
                Delivery.state != "waiting",
                Delivery.created_at < store.clock() - KEPT_SECONDS,
                Delivery.key.not_like(f"{FINISHED}:%"),
            )
        )


def _waiting(webhook: int, key: str, event: str, data: dict[str, Any], now: float) -> dict[str, Any]:
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    payload = {"type": event, "timestamp": moment, "data": data}
    return {"webhook_id": webhook, "key": key, "payload": payload, "next_at": now, "created_at": now}
