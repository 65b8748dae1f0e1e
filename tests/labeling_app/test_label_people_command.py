"""`vidalign label users`, `groups`, `assign`, `invite`, `message` and `hours` as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from alignment.cli import main
from labeling_app.people.invitations import NotInvited, accept
from labeling_app.people.messages import unread_messages
from labeling_app.store.store import Store
from labeling_app.tasks.answers import submit
from labeling_app.tasks.next_task import next_task

PASSWORD = "correct horse"


@pytest.fixture
def store(sqlite_file: Path) -> Store:
    return Store(sqlite_file)


def label(store: Store, *words: str) -> int:
    """Runs a command on the store; returns its exit code."""
    return main(["label", words[0], "--db", store.url, *words[1:]])


def test_people_are_deactivated_let_in_again_and_removed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_user("ada", PASSWORD)
    assert label(store, "users", "--deactivate", "ada") == 0
    assert label(store, "users") == 0
    assert "ada\tannotator (inactive)\n" in capsys.readouterr().out
    assert label(store, "users", "--reactivate", "ada") == 0
    assert store.authenticate("ada", PASSWORD)
    assert label(store, "users", "--remove", "ada") == 2
    assert "pass --yes" in capsys.readouterr().err
    assert label(store, "users", "--remove", "eve", "--yes") == 2
    assert label(store, "users", "--remove", "ada", "--yes") == 0
    pseudonym = store.users()[0].name
    assert f"those of {pseudonym} now" in capsys.readouterr().out
    newest = store.audit_events(1)[0]
    assert (newest.action, newest.details) == ("remove user", {"user": pseudonym})


def test_groups_are_assigned_to_campaigns(
    filled: Store, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ada", "bob"):
        filled.add_user(name, PASSWORD)
    assert label(filled, "groups", "--group", "night", "--add", "bob", "ada") == 0
    assert label(filled, "assign", "--campaign", "main", "--groups", "night", "--people", "ada") == 0
    assert label(filled, "groups") == 0
    assert label(filled, "assign") == 0
    printed = capsys.readouterr().out
    assert "night\tada, bob\n" in printed
    assert printed.endswith("main\tada, group night\n")
    assert label(filled, "assign", "--campaign", "main", "--groups", "day") == 2
    assert label(filled, "assign", "--groups", "night") == 2
    assert label(filled, "groups", "--group", "night", "--delete") == 2
    assert label(filled, "assign", "--campaign", "main", "--everybody") == 0
    assert label(filled, "groups", "--group", "night", "--delete") == 0
    assert capsys.readouterr().out.endswith("main\teverybody\nDeleted the group night\n")


def test_an_invitation_is_a_link_that_is_shown_once_listed_and_withdrawn(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_user("root", PASSWORD, role="admin")
    address = "https://labels.example/label/"
    assert label(store, "invite", "--address", address, "--uses", "2", "--days", "1") == 0
    link = capsys.readouterr().out.splitlines()[0]
    token = link.removeprefix("https://labels.example/label/invitation?token=")
    assert accept(store, token, "ada", PASSWORD).role == "annotator"
    assert label(store, "invite") == 0
    listed = capsys.readouterr().out
    assert listed.startswith("1\topen\tannotator\t1 of 2\t")
    assert token not in listed
    assert label(store, "invite", "--revoke", "1") == 0
    with pytest.raises(NotInvited):
        accept(store, token, "eve", PASSWORD)
    for wrong in (["--uses", "2"], ["--address", "labels.example"], ["--revoke", "7"]):
        assert label(store, "invite", *wrong) == 2
    assert label(store, "invite", "--address", address, "--group", "none") == 2
    assert "There is no group 'none'" in capsys.readouterr().err


def test_messages_and_hours_by_command(
    filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = filled.add_user("＝ada", PASSWORD)
    assert label(filled, "message", "--text", "Hello", "--people", "＝ada") == 0
    assert [message.text for message in unread_messages(filled, ada)] == ["Hello"]
    assert label(filled, "message", "--text", "Hello", "--groups", "none") == 2
    task = next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 90.0)
    output = tmp_path / "hours.csv"
    assert label(filled, "hours", "--output_file", str(output)) == 0
    assert "＝ada                        1       0     0      0    0.03" in capsys.readouterr().out
    today = datetime.fromtimestamp(filled.judgements("main")[0].created_at, UTC).date().isoformat()
    assert output.read_text() == f"day,name,hours\n{today},'＝ada,0.0250\n"
    assert label(filled, "hours", "--output_file", str(output)) == 2
    assert label(filled, "hours", "--since", "2031-01-01", "--output_file", str(output), "--overwrite") == 0
    assert output.read_text() == "day,name,hours\n"
    assert label(filled, "hours", "--since", "yesterday") == 2
    assert label(filled, "hours", "--since", "2026-02-01", "--until", "2026-01-01") == 2
    assert "exchange them" in capsys.readouterr().err
