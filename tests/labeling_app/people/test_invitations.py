"""Invitations: used as often as they may be, and by nobody else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from generator.output import InputError
from labeling_app.people.groups import change_group, delete_group, groups
from labeling_app.people.invitations import (
    NOT_VALID,
    NotInvited,
    accept,
    invitation_state,
    invitations,
    invite,
    revoke,
)
from labeling_app.people.status import deactivate
from labeling_app.store.people_tables import Invitation
from labeling_app.store.store import Store

PASSWORD = "correct horse"


def test_of_many_who_come_at_once_as_many_get_in_as_the_invitation_allows(store: Store) -> None:
    token, _ = invite(store, uses=2)

    def come(number: int) -> str | None:
        try:
            return accept(store, token, f"guest {number}", PASSWORD).name
        except NotInvited:
            return None

    with ThreadPoolExecutor(6) as pool:
        came = [name for name in pool.map(come, range(6)) if name]
    assert len(came) == 2
    assert {user.name for user in store.users()} == set(came)
    assert (invitations(store)[0].used, invitation_state(store, invitations(store)[0])) == (2, "used")
    with store.read() as session:
        assert token not in str(session.execute(select(Invitation.__table__)).all())


@pytest.fixture
def timed(tmp_path: Path, clock: Any) -> Any:
    with Store(tmp_path / "labels.db", clock=clock) as store:
        yield store


def test_a_forged_expired_used_or_revoked_token_is_refused_by_the_same_sentence(
    timed: Store, clock: Any
) -> None:
    used, _ = invite(timed)
    accept(timed, used, "ada", PASSWORD)
    revoked, made = invite(timed)
    revoke(timed, made.id)
    expired, _ = invite(timed, days=0.5)
    clock.now += 43200.0
    for token in (used, revoked, expired, "forged", "", "\ud800"):
        with pytest.raises(NotInvited) as refused:
            accept(timed, token, "eve", PASSWORD)
        assert str(refused.value) == NOT_VALID
    assert [user.name for user in timed.users()] == ["ada"]


def test_who_comes_by_an_invitation_has_its_role_and_group(timed: Store) -> None:
    change_group(timed, "night")
    token, _ = invite(timed, role="lead", group="night")
    user = accept(timed, token, " lea ", PASSWORD)
    assert (user.name, user.role) == ("lea", "lead")
    assert timed.authenticate("lea", PASSWORD)
    assert groups(timed)[0].members == ("lea",)


def test_a_name_that_is_taken_or_a_short_password_leaves_the_invitation_its_use(timed: Store) -> None:
    timed.add_user("ada", PASSWORD)
    token, _ = invite(timed)
    for name, password, said in (
        ("ada", PASSWORD, "'ada' is taken"),
        ("eve", "short", "has 5 characters"),
        ("", PASSWORD, "not usable"),
    ):
        with pytest.raises(InputError, match=said):
            accept(timed, token, name, password)
    assert accept(timed, token, "eve", PASSWORD).role == "annotator"


def test_the_invitations_of_a_lead_who_left_or_was_demoted_and_of_a_deleted_group_end(timed: Store) -> None:
    lea = timed.add_user("lea", PASSWORD, role="lead")
    change_group(timed, "night")
    mia = timed.add_user("mia", PASSWORD, role="admin")
    timed.add_user("root", PASSWORD, role="admin")
    tokens = [invite(timed, user=lea)[0], invite(timed, group="night")[0]]
    tokens.append(invite(timed, role="admin", user=mia)[0])
    timed.set_role("mia", "annotator")
    deactivate(timed, "lea")
    delete_group(timed, "night")
    for token in tokens:
        with pytest.raises(NotInvited):
            accept(timed, token, "eve", PASSWORD)


@pytest.mark.parametrize(
    "wrong", [{"uses": 0}, {"days": 0.0}, {"days": float("nan")}, {"role": "king"}, {"group": "x"}]
)
def test_an_invitation_that_makes_no_sense_is_refused(timed: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        invite(timed, **wrong)
    assert invitations(timed) == []
