"""API tokens and webhooks on the lead's page: by admins alone, secrets once, with last use and last delivery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labeling_app.store.new_tasks import NewTask, VideoFile
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.web.access import COOKIE
from labeling_app.web.server import create_app
from labeling_app.web.webhook_delivery import WebhookDelivery

PATHS = ("tokens", "tokens/revoke", "webhooks", "webhooks/remove")


@pytest.fixture
def labels(database: str, clock: Any, tmp_path: Path) -> Iterator[Store]:
    """A campaign of one task."""
    with Store(database, clock=clock, uploads=tmp_path / "uploads") as store:
        files = [VideoFile(Path(f"/v/{n}.mp4"), str(n) * 64, "video/mp4", 8.0, 8, 64, 64) for n in range(2)]
        store.add_tasks("main", [NewTask("first", tuple(files))], overlap=1)
        yield store


def client_of(store: Store, role: str, app: Any = None) -> TestClient:
    user = store.user(role) or store.add_user(role, role=role)
    client = TestClient(app or create_app(store), follow_redirects=False)
    client.cookies.set(COOKIE, store.open_session(user))
    return client


def test_only_admins_see_and_change_them(labels: Store) -> None:
    app = create_app(labels)
    for role, status in (("annotator", 403), ("lead", 403)):
        client = client_of(labels, role, app)
        assert [client.get(f"/api/lead/{path}").status_code for path in ("tokens", "webhooks")] == [
            status
        ] * 2
        answers = [client.post(f"/api/lead/{path}", json={}) for path in PATHS]
        assert [answer.status_code for answer in answers] == [status] * 4
    assert "Only an admin" in client_of(labels, "lead", app).get("/api/lead/tokens").json()["message"]


def test_a_token_is_shown_once_and_its_use_to_the_hour(labels: Store, clock: Any) -> None:
    app = create_app(labels)
    admin = client_of(labels, "admin", app)
    made = admin.post("/api/lead/tokens", json={"name": "dashboard", "days": 2}).json()
    assert set(made) == {"name", "token"}
    program = TestClient(app, headers={"authorization": f"Bearer {made['token']}"})

    def shown() -> dict[str, Any]:
        listed = admin.get("/api/lead/tokens")
        assert made["token"] not in listed.text
        return listed.json()["tokens"][0]

    assert shown() == {
        "name": "dashboard",
        "state": "valid",
        "created_at": clock.now,
        "expires_at": clock.now + 2 * 86400,
        "used_at": None,
    }
    for later, counted in ((0, 0), (1800, 0), (3600, 3600)):
        clock.now = 1_000_000 + later
        assert program.get("/api/lead/overview").status_code == 200
        assert shown()["used_at"] == 1_000_000 + counted
    clock.now += 2 * 86400
    assert (program.get("/api/lead/overview").status_code, shown()["state"]) == (401, "expired")
    assert admin.post("/api/lead/tokens/revoke", json={"name": "dashboard"}).status_code == 200
    assert shown()["state"] == "revoked"
    again = admin.post("/api/lead/tokens", json={"name": "dashboard"})
    assert (again.status_code, "is or was" in again.json()["message"]) == (400, True)
    told = json.dumps([[event.action, event.details] for event in labels.audit_events()])
    assert made["token"] not in told
    assert '"revoke token"' in told


def test_a_webhook_is_added_at_a_public_address_and_tells_how_its_last_event_fared(labels: Store) -> None:
    admin = client_of(labels, "admin")
    body = {"url": "https://8.8.8.8/hook?key=hunter2", "events": ["answer.stored"], "campaign": "main"}
    made = admin.post("/api/lead/webhooks", json=body).json()
    assert made["secret"].startswith("whsec_")

    def shown() -> dict[str, Any]:
        listed = admin.get("/api/lead/webhooks")
        assert made["secret"] not in listed.text
        assert "hunter2" not in listed.text
        return listed.json()["webhooks"][0]

    assert (shown()["host"], shown()["campaign"], shown()["last"]) == ("8.8.8.8", "main", None)
    ada = labels.add_user("ada")
    task = assignment.next_task(labels, ada)
    assert task is not None
    submit(labels, ada, task.assignment, {"overall": [1, 2]}, 2.0)
    statuses = iter([500, 200])
    delivery = WebhookDelivery(labels, lambda *_: next(statuses))
    assert shown()["counts"] == {"waiting": 1}
    delivery.deliver()
    assert (shown()["last"]["state"], shown()["last"]["error"]) == ("waiting", "The receiver answered 500.")
    labels.clock.now += 60  # type: ignore[attr-defined]
    delivery.deliver()
    assert (shown()["last"]["state"], shown()["last"]["error"]) == ("delivered", "")
    assert admin.post("/api/lead/webhooks/remove", json={"webhook": made["id"]}).status_code == 200
    assert admin.get("/api/lead/webhooks").json()["webhooks"] == []


def test_a_webhook_into_the_servers_own_network_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "labels.db") as store:
        admin = client_of(store, "admin")
        for url, said in (
            ("https://127.0.0.1/hook", "not one of the open internet"),
            ("https://[::ffff:10.0.0.1]/hook", "not one of the open internet"),
            ("https://169.254.169.254/latest/meta-data", "not one of the open internet"),
            ("http://8.8.8.8/hook", "begins with https://"),
            ("https://8.8.8.8/a\r\nHost: evil", "begins with https://"),
            ("https://ada:hunter2@8.8.8.8/", "holds a user or a password"),
            ("file:///etc/passwd", "begins with https://"),
        ):
            refused = admin.post("/api/lead/webhooks", json={"url": url, "events": ["answer.stored"]})
            assert refused.status_code == 400
            assert said in refused.json()["message"]
            assert "hunter2" not in refused.text
        forced = {"url": "https://127.0.0.1/", "events": ["answer.stored"], "allow_private": True}
        assert admin.post("/api/lead/webhooks", json=forced).status_code == 422
        assert admin.get("/api/lead/webhooks").json()["webhooks"] == []
