"""Accounts of a provider that are admitted by their names, as in a Space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labeling_app.people.provider_accounts import AccountRules, NotAdmitted, sign_in
from labeling_app.store.store import Store
from labeling_app.store.tables import User

ISSUER = "https://id.example"


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def enter(store: Store, name: str | None, subject: str, rules: AccountRules) -> User:
    return sign_in(store, ISSUER, {"sub": subject, "preferred_username": name}, rules)


def by_name(
    anyone: bool = False, leads: tuple[str, ...] = (), annotators: tuple[str, ...] = ()
) -> AccountRules:
    return AccountRules("preferred_username", anyone=anyone, leads=leads, annotators=annotators)


def test_accounts_become_annotators_and_named_ones_leads(store: Store) -> None:
    rules = by_name(anyone=True, leads=("Lea",))
    assert [enter(store, name, name, rules).role for name in ("ada", "lea", "ada")] == [
        "annotator", "lead", "annotator",
    ]  # fmt: skip
    assert [(user.name, user.role, user.password_hash) for user in store.users()] == [
        ("ada", "annotator", ""),
        ("lea", "lead", ""),
    ]
    actions = [(event.user_name, event.action) for event in reversed(store.audit_events())]
    assert actions == [("ada", "add user"), ("lea", "add user"), ("lea", "set role")]


def test_a_renamed_account_stays_the_user_and_nobody_takes_over_a_name(store: Store) -> None:
    store.add_user("ada", "correct horse", role="admin")
    rules = by_name(anyone=True, leads=("ada",))
    for name, subject, user in (("ada", "1", "ada-2"), ("countess", "1", "ada-2"), ("ada", "2", "ada-3")):
        assert enter(store, name, subject, rules).name == user
    assert {user.name: user.role for user in store.users()} == {
        "ada": "admin",
        "ada-2": "annotator",  # no lead any more under the new name
        "ada-3": "lead",
    }
    # The same holds where accounts are named one by one.
    assert enter(store, "ada", "3", by_name(annotators=("ada",))).name == "ada-4"


def test_an_admin_stays_one_whatever_the_names_say(store: Store) -> None:
    enter(store, "ada", "1", by_name(anyone=True))
    store.set_role("ada", "admin")
    assert enter(store, "ada", "1", by_name(anyone=True)).role == "admin"


def test_only_named_accounts_come_in_and_only_as_long_as_they_are_named(store: Store) -> None:
    rules = by_name(leads=("lea",), annotators=("ada",))
    assert [enter(store, name, name, rules).role for name in ("Ada", "lea")] == ["annotator", "lead"]
    with pytest.raises(NotAdmitted, match="ask the lead") as refused:
        enter(store, "eve", "eve", rules)
    assert "not among those that are named" in refused.value.reason
    with pytest.raises(NotAdmitted):
        enter(store, "Ada", "Ada", by_name(leads=("lea",)))
    assert [user.name for user in store.users()] == ["Ada", "lea"]


@pytest.mark.parametrize("name", [" ", None, "\0", "a" * 101], ids=["blank", "none", "NUL", "long"])
def test_a_name_that_is_none_is_refused(store: Store, name: str | None) -> None:
    with pytest.raises(NotAdmitted):
        enter(store, name, "1", by_name(anyone=True))
    assert store.users() == []
