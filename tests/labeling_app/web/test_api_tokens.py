"""API tokens: programs read what leads read, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from alignment import cli
from generator.output import InputError
from labeling_app.store.api_tokens import add_token, revoke_token
from labeling_app.store.backup import backup, restore
from labeling_app.store.store import Store
from labeling_app.web.server import create_app


def read(app: object, token: str, path: str = "/api/lead/overview", method: str = "GET") -> tuple[int, str]:
    client = TestClient(app, follow_redirects=False)  # type: ignore[arg-type]
    headers = {"authorization": f"Bearer {token}"}
    answer = client.request(method, path, headers=headers, json={} if method == "POST" else None)
    return answer.status_code, answer.text


def test_a_token_reads_every_page_of_the_lead_and_changes_nothing(filled: Store) -> None:
    app = create_app(filled)
    token = add_token(filled, "dashboard")
    paths = app.openapi()["paths"]
    for path, methods in paths.items():
        if not path.startswith("/api/lead/"):
            continue
        address = path.replace("{name}", "days")
        if "get" in methods and "{" not in address:
            of_admins = address in ("/api/lead/tokens", "/api/lead/webhooks")
            assert read(app, token, f"{address}?campaign=main")[0] == (403 if of_admins else 200), path
        if "post" in methods:
            refused = read(
                app, token, address.replace("{task_id}", "1").replace("{demonstration_id}", "1"), "POST"
            )
            assert (refused[0], "only reads" in refused[1]) == (403, True), path
    for path in ("/api/next", "/api/answers", "/api/guidelines?campaign=main"):
        assert read(app, token, path)[0] == 401, path
    assert filled.audit_events()[0].user_name == "token dashboard"  # of the export


def test_a_token_that_was_revoked_or_has_expired_opens_nothing(
    database: str, clock: Callable[[], float]
) -> None:
    with Store(database, clock=clock) as store:
        app = create_app(store)
        short, long = add_token(store, "short", days=2), add_token(store, "long")
        clock.now += 2 * 86400 - 1  # type: ignore[attr-defined]
        assert [read(app, token)[0] for token in (short, long)] == [200, 200]
        clock.now += 1  # type: ignore[attr-defined]
        assert [read(app, token)[0] for token in (short, long)] == [401, 200]
        revoke_token(store, "long")
        status, text = read(app, long)
        assert (status, "revoked" in text) == (401, True)
        assert [read(app, wrong)[0] for wrong in ("", "vidalign_", long[:-1], "\x00", "long")] == [401] * 5
        with pytest.raises(InputError, match="a revoked token"):
            revoke_token(store, "long")
        with pytest.raises(InputError, match="is or was"):
            add_token(store, "long")  # its name would make the audit ambiguous


def test_neither_database_nor_backup_holds_a_token_and_a_restored_backup_knows_none(tmp_path: Path) -> None:
    with Store(tmp_path / "labels.db") as store:
        token = add_token(store, "dashboard")
        revoke_token(store, "dashboard")
    backup(tmp_path / "labels.db", tmp_path / "backup.db")
    assert not any(token.encode() in path.read_bytes() for path in tmp_path.glob("*.db*"))
    restore(tmp_path / "backup.db", tmp_path / "again.db")
    with Store(tmp_path / "again.db") as store:
        assert read(create_app(store), token)[0] == 401


def test_the_command_makes_lists_and_revokes_tokens(
    tmp_path: Path, candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--db", str(tmp_path / "labels.db")]
    assert cli.main(["label", "token", *db]) == 2
    assert "There is no database" in capsys.readouterr().err
    cli.main(["label", "campaign", *db, "--overlap", "2"])
    capsys.readouterr()
    assert cli.main(["label", "token", *db, "--add", "dash board", "--expires", "30"]) == 0
    token = capsys.readouterr().out.removeprefix("dash board: ").split(" (")[0]
    with Store(tmp_path / "labels.db") as store:
        assert read(create_app(store), token)[0] == 200
        assert json.dumps([event.details for event in store.audit_events()]).count(token) == 0
    cli.main(["label", "token", *db])
    assert capsys.readouterr().out.startswith("dash board\tvalid until 20")
    assert cli.main(["label", "token", *db, "--revoke", "dash board"]) == 0
    cli.main(["label", "token", *db])
    listed = capsys.readouterr().out
    assert "dash board\trevoked 20" in listed
    assert "\tlast used 20" in listed
    for wrong in (
        ["--revoke", "nobody"],
        ["--add", "a", "--expires", "-1"],
        ["--add", "a\nb"],
        ["--expires", "3"],
    ):
        assert cli.main(["label", "token", *db, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
