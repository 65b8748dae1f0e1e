"""`vidalign label users`, `groups` and `assign` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.cli import main
from labeling_app.store.store import Store

PASSWORD = "correct horse"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "labels.db")


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
