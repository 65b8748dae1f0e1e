"""Delivery of events to webhooks, beside the server: signed, and repeated where the receiver does not answer."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from generator.output import InputError
from labeling_app.store.integration_tables import Delivery, Webhook
from labeling_app.store.store import Store
from labeling_app.store.webhooks import (
    forget_old,
    key_check,
    signature,
    signing_key,
    signing_secret,
    tell_of_finished,
)
from labeling_app.web.public_address import post

logger = logging.getLogger(__name__)

WAITS = (10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0, 43200.0)
"""Seconds between the attempts; after the last one an event is given up."""
CLAIM_SECONDS = 60.0
"""Time after which another server takes an event over from one that was ended while it sent."""
AT_A_TIME = 20
PAUSE = 2.0
OLD_EVERY = 3600.0
Post = Callable[[str, bytes, Mapping[str, str], bool], int]


class WebhookDelivery:
    """A thread that sends what waits; several servers may work on one database.

    Args:
        post: sends; gets URL, body, headers and whether private addresses are allowed, and returns the status.
        pause: seconds between two looks at the database.
    """

    def __init__(self, store: Store, post: Post = post, pause: float = PAUSE) -> None:
        self.store = store
        self.post = post
        self.pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def __enter__(self) -> WebhookDelivery:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=self.pause + 1)

    def _run(self) -> None:
        old_at = 0.0
        while not self._end.wait(self.pause):
            try:
                self.deliver()
                if self.store.clock() >= old_at:
                    forget_old(self.store)
                    old_at = self.store.clock() + OLD_EVERY
            except (SQLAlchemyError, OSError) as error:
                # The database may be away for a while; events wait in it.
                logger.warning("Webhooks wait: %s", str(error).splitlines()[0])

    def deliver(self) -> int:
        """Sends the events that are due; returns how many were sent, with or without success."""
        tell_of_finished(self.store)
        now = self.store.clock()
        due = (
            select(Delivery.id, Delivery.next_at)
            .where(Delivery.state == "waiting", Delivery.next_at <= now)
            .order_by(Delivery.next_at)
            .limit(AT_A_TIME)
        )
        with self.store.read() as session:
            found = session.execute(due).all()
        sent = 0
        for number, next_at in found:
            if self._end.is_set():
                break
            if self._claim(number, next_at, now):
                self._send(number)
                sent += 1
        return sent

    def _claim(self, number: int, next_at: float, now: float) -> bool:
        mine = (Delivery.id == number, Delivery.state == "waiting", Delivery.next_at == next_at)
        with self.store.write() as session:
            taken = update(Delivery).where(*mine).values(next_at=now + CLAIM_SECONDS).returning(Delivery.id)
            return session.scalar(taken) is not None

    def _send(self, number: int) -> None:
        with self.store.read() as session:
            event = session.get(Delivery, number)
        if event is None:
            return  # its webhook was removed meanwhile
        webhook: Webhook = event.webhook
        error, final = self._attempt(event, webhook)
        attempts = event.attempts + 1
        values: dict[str, object] = {"attempts": attempts, "error": error}
        if not error:
            values["state"] = "delivered"
        elif final or attempts > len(WAITS):
            values["state"] = "failed"
        else:
            values["next_at"] = self.store.clock() + WAITS[attempts - 1]
        with self.store.write() as session:
            session.execute(update(Delivery).where(Delivery.id == number).values(**values))

    def _attempt(self, event: Delivery, webhook: Webhook) -> tuple[str, bool]:
        """Sends once; returns the reason of a failure, or an empty text, and whether that is final."""
        body = json.dumps(event.payload, separators=(",", ":")).encode()
        # The same at every attempt, and at no other event's: numbers of rows may come again.
        message = "msg_" + hashlib.sha256(f"{webhook.salt}:{event.key}".encode()).hexdigest()[:32]
        timestamp = int(self.store.clock())
        try:
            secret = signing_secret(signing_key(self.store.uploads), webhook.salt)
            if key_check(secret) != webhook.key_check:
                raise InputError("The signing key is another one than when the webhook was added.")
            headers = {
                "content-type": "application/json",
                "user-agent": "vidalign-webhooks",
                "webhook-id": message,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(secret, message, timestamp, body),
            }
            status = self.post(webhook.url, body, headers, webhook.allow_private)
        except (InputError, OSError) as error:
            return str(error)[:300] or type(error).__name__, False
        if 200 <= status < 300:
            return "", False
        redirect = " (redirects are not followed)" if 300 <= status < 400 else ""
        return f"The receiver answered {status}{redirect}.", status == 410
