"""Webhooks: events told once and signed, repeated after failures, and never sent into the server's own network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alignment import cli
from generator.output import InputError
from labeling_app.campaigns.lifecycle import delete_campaign
from labeling_app.store import webhooks
from labeling_app.store.new_tasks import NewTask, VideoFile
from labeling_app.store.store import Store
from labeling_app.store.webhooks import EVENTS, add_webhook, signature
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, skip, submit
from labeling_app.web.public_address import checked_address, is_public, post
from labeling_app.web.webhook_delivery import WAITS, WebhookDelivery

URL = "https://example.org/hook"


@pytest.fixture
def labels(database: str, clock: Callable[[], float], tmp_path: Path) -> Iterator[Store]:
    """A campaign of two tasks for one annotator each."""
    with Store(database, clock=clock, uploads=tmp_path / "uploads") as store:
        files = [VideoFile(Path(f"/v/{n}.mp4"), str(n) * 64, "video/mp4", 8.0, 8, 64, 64) for n in range(4)]
        tasks = [NewTask("first", tuple(files[:2])), NewTask("second", tuple(files[2:]))]
        store.add_tasks("main", tasks, overlap=1)
        store.add_user("ada")
        yield store


class Receiver:
    """Takes what is sent; answers with the next of `statuses`, 200 after them."""

    def __init__(self, *statuses: int | Exception) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, Any], dict[str, str]]] = []

    def __call__(self, url: str, body: bytes, headers: Any, allow_private: bool) -> int:
        self.got.append((json.loads(body), dict(headers)))
        status = self.statuses.pop(0) if self.statuses else 200
        if isinstance(status, Exception):
            raise status
        return status

    @property
    def types(self) -> list[str]:
        return [body["type"] for body, _ in self.got]


def answer(store: Store, flag: str = "") -> str:
    user = store.user("ada")
    assert user is not None
    task = assignment.next_task(store, user)
    assert task is not None
    submit(store, user, task.assignment, {"overall": [1, 2]}, 2.0, "", flag)
    return task.assignment


def test_events_are_told_once_and_signed_so_that_receivers_can_check_them(labels: Store) -> None:
    _, secret = add_webhook(labels, URL, EVENTS)
    receiver = Receiver()
    sender = WebhookDelivery(labels, receiver)
    token = answer(labels, flag="odd")
    sender.deliver()
    assert sorted(receiver.types) == ["answer.flagged", "answer.stored"]
    revise(labels, labels.user("ada"), token, {"overall": [2, 1]}, 3.0)  # type: ignore[arg-type]
    answer(labels)
    while sender.deliver():
        pass
    assert receiver.types[2:].count("answer.stored") == 2
    assert receiver.types.count("campaign.finished") == 1
    flagged = next(body for body, _ in receiver.got if body["type"] == "answer.flagged")
    assert flagged["data"]["campaign"] == "main"
    assert (flagged["data"]["annotator"], flagged["data"]["flag"]) == ("ada", "odd")
    assert len({headers["webhook-id"] for _, headers in receiver.got}) == len(receiver.got)
    for body, headers in receiver.got:
        sent = json.dumps(body, separators=(",", ":"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{sent}".encode()
        key = base64.b64decode(secret.split("_", 1)[1])
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
    labels.add_tasks("main", [])
    assert sender.deliver() == 0


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # Test vector of the specification's reference libraries.
    secret, message = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    found = signature(secret, message, 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_event_that_nobody_takes_is_sent_again_later_and_given_up_at_last(
    labels: Store, clock: Any
) -> None:
    add_webhook(labels, URL, ["answer.stored"])
    answer(labels)
    receiver = Receiver(500, 302, OSError("no route"), *[503] * 20)
    sender = WebhookDelivery(labels, receiver)
    assert [sender.deliver(), sender.deliver()] == [1, 0]
    for wait in WAITS:
        clock.now += wait - 1
        assert sender.deliver() == 0
        clock.now += 1
        assert sender.deliver() == 1
    clock.now += 1e6
    assert sender.deliver() == 0
    assert len(receiver.got) == len(WAITS) + 1
    (_, counts, error), *_ = webhooks.webhooks(labels)
    assert (counts, error) == ({"failed": 1}, "The receiver answered 503.")
    assert len({headers["webhook-id"] for _, headers in receiver.got}) == 1  # the receiver knows it again


def test_a_receiver_that_is_gone_for_good_is_asked_once(labels: Store) -> None:
    add_webhook(labels, URL, ["answer.stored"])
    answer(labels)
    assert WebhookDelivery(labels, Receiver(410)).deliver() == 1
    assert webhooks.webhooks(labels)[0][1] == {"failed": 1}


def test_two_servers_on_one_database_send_an_event_once(labels: Store) -> None:
    add_webhook(labels, URL, ["answer.stored"])
    answer(labels)
    other = WebhookDelivery(labels, second := Receiver())
    first = Receiver()

    def slow(*arguments: Any) -> int:
        other.deliver()  # while the first one sends
        return first(*arguments)

    WebhookDelivery(labels, slow).deliver()
    assert (len(first.got), len(second.got)) == (1, 0)


def test_a_webhook_hears_of_its_own_campaign_and_events_only_and_goes_with_the_campaign(
    labels: Store,
) -> None:
    labels.add_tasks("other", [])
    add_webhook(labels, URL, EVENTS, "other")
    add_webhook(labels, URL, ["answer.flagged"], "main")
    answer(labels)
    user = labels.user("ada")
    assert user is not None
    task = assignment.next_task(labels, user)
    assert task is not None
    skip(labels, user, task.assignment, "blurred", 1.0)
    assert WebhookDelivery(labels, Receiver()).deliver() == 0
    delete_campaign(labels, "main", "main")
    assert [row.campaign.name for row, _, _ in webhooks.webhooks(labels) if row.campaign] == ["other"]


def test_neither_key_nor_secret_is_in_the_database_and_another_key_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "labels.db") as store:
        _, secret = add_webhook(store, URL, EVENTS)
        key = (store.uploads / webhooks.KEY_FILE).read_text()
        assert (store.uploads / webhooks.KEY_FILE).stat().st_mode & 0o077 == 0
        with store.write() as session:
            session.execute(
                text("INSERT INTO campaigns (name, overlap, dimensions, created_at) VALUES ('a', 1, '[]', 0)")
            )
            add = "INSERT INTO tasks (campaign_id, prompt, fingerprint, completed, filled, created_at) VALUES"
            session.execute(text(f"{add} (1, 'p', 'f', 1, true, 0)"))
        monkeypatch.setenv(webhooks.KEY_VARIABLE, "x" * 40)
        assert WebhookDelivery(store, receiver := Receiver()).deliver() == 1
        assert receiver.got == []
        assert "another one" in webhooks.webhooks(store)[0][2]
        monkeypatch.setenv(webhooks.KEY_VARIABLE, "short")
        with pytest.raises(InputError, match="has 5 characters"):
            add_webhook(store, URL, EVENTS)
    for path in tmp_path.glob("labels.db*"):
        if path.is_file():
            assert secret.removeprefix("whsec_").encode() not in path.read_bytes()
            assert key.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", None),
        ("64:ff9b::a00:1", False), ("2002:7f00:1::", False), ("::127.0.0.1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_of_private_networks_are_told_in_every_spelling(
    address: str, public: bool | None
) -> None:
    assert public is None or is_public(address) is public


@pytest.mark.parametrize(
    ("url", "addresses", "said"),
    [
        ("https://localhost/x", ["127.0.0.1"], "open internet"),
        ("https://inside.example/x", ["8.8.8.8", "10.0.0.1"], "open internet"),
        ("https://0x7f000001/x", ["127.0.0.1"], "open internet"),
        ("https://[::ffff:169.254.169.254]/x", ["::ffff:169.254.169.254"], "open internet"),
        ("http://example.org/x", ["8.8.8.8"], "https://"),
        ("file:///etc/passwd", [], "https://"),
        ("https://ada:hunter2@example.org/x", ["8.8.8.8"], "user or a password"),
        ("https://example.org/\r\nX-Evil: 1", ["8.8.8.8"], "https://"),
        ("https://example.org:99999/", ["8.8.8.8"], "https://"),
    ],
)
def test_addresses_with_tricks_are_refused(url: str, addresses: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        checked_address(url, False, lambda host, port: addresses)
    assert "hunter2" not in str(caught.value)


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            answer(self)

        def log_message(self, *arguments: Any) -> None:
            return

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/hook?a=1", paths
    finally:
        listening.shutdown()
        listening.server_close()


def test_the_address_that_was_checked_is_called_although_the_name_means_another_a_moment_later() -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    def ok(request: BaseHTTPRequestHandler) -> None:
        assert request.headers["host"] == f"receiver.example:{port}"
        request.send_response(204)
        request.end_headers()

    with server(ok) as (url, paths):
        port = url.split(":")[2].split("/")[0]
        named = url.replace("127.0.0.1", "receiver.example")
        assert post(named, b"{}", {}, True, rebinding) == 204
        assert (asked, paths) == (["receiver.example"], ["/hook?a=1"])
        with pytest.raises(InputError, match="open internet"):
            post(named.replace("http", "https"), b"{}", {}, False, rebinding)


def test_redirects_are_not_followed() -> None:
    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("location", "/inside")
        request.end_headers()

    with server(elsewhere) as (url, paths):
        assert post(url, b"{}", {}, True) == 307
        assert paths == ["/hook?a=1"]


def test_a_receiver_that_dawdles_holds_nobody_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def dawdle() -> None:
            taken, _ = listening.accept()
            with taken:
                for _ in range(100):
                    try:
                        taken.sendall(b"H")
                    except OSError:
                        return
                    time.sleep(0.05)

        threading.Thread(target=dawdle, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011
            post(f"http://127.0.0.1:{listening.getsockname()[1]}/", b"{}", {}, True, seconds=0.3)
        assert time.monotonic() - begin < 2


def test_the_command_adds_lists_and_removes_webhooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--db", str(tmp_path / "labels.db")]
    cli.main(["label", "campaign", *db, "--overlap", "2"])
    capsys.readouterr()
    assert cli.main(["label", "webhook", *db, "--add", "https://127.0.0.1/hook"]) == 2
    assert "--allow_private" in capsys.readouterr().err
    assert not (tmp_path / "labels.uploads").exists()
    local = ["--add", "http://127.0.0.1:9/hook?key=hunter2", "--allow_private"]
    assert (
        cli.main(["label", "webhook", *db, *local, "--events", "answer.flagged", "--campaign", "default"])
        == 0
    )
    assert "secret whsec_" in capsys.readouterr().out
    assert cli.main(["label", "webhook", *db]) == 0
    assert capsys.readouterr().out == "1\t127.0.0.1\tanswer.flagged\tdefault\tnothing yet\n"
    assert cli.main(["label", "webhook", *db, *local, "--events", "all"]) == 2
    assert cli.main(["label", "webhook", *db, "--events", "answer.stored"]) == 2
    assert cli.main(["label", "webhook", *db, "--remove", "1"]) == 0
    assert cli.main(["label", "webhook", *db, "--remove", "1"]) == 2
    with Store(tmp_path / "labels.db") as store:
        assert "hunter2" not in json.dumps([event.details for event in store.audit_events()])
