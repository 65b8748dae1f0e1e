"""People who are deactivated or removed, and what stays of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from generator.output import InputError
from labeling_app.files.rankings import ranking_rows
from labeling_app.people.groups import assign_campaign, assigned
from labeling_app.people.status import deactivate, reactivate, remove
from labeling_app.store.store import Store
from labeling_app.store.tables import AuditEvent
from labeling_app.tasks.answers import submit
from labeling_app.tasks.lease import LeaseExpired
from labeling_app.tasks.next_task import next_task

PASSWORD = "correct horse"


def test_a_deactivated_person_is_shut_out_at_once_and_the_task_in_hand_goes_to_others(filled: Store) -> None:
    ada, bob, cyd = (filled.add_user(name, PASSWORD) for name in ("ada", "bob", "cyd"))
    token = filled.open_session(ada)
    held = next_task(filled, ada)
    other = next_task(filled, bob)
    assert held is not None
    assert other is not None
    assert held.task == other.task  # overlap 2: the first task is full
    deactivate(filled, "ada")
    assert filled.session_user(token) is None
    assert filled.authenticate("ada", PASSWORD) is None
    taken = next_task(filled, cyd)
    assert taken is not None
    assert taken.task == held.task
    with pytest.raises(LeaseExpired):
        submit(filled, ada, held.assignment, {"overall": [1, 2, 3, 4]}, 5.0)
    assert next_task(filled, ada) is None  # also by a request that was let in before
    assert reactivate(filled, "ada").state == "active"
    assert filled.authenticate("ada", PASSWORD) is not None
    assert filled.session_user(token) is None
    assert next_task(filled, ada) is not None
    with pytest.raises(InputError, match="active already"):
        reactivate(filled, "ada")


def test_the_answers_of_a_removed_person_stay_under_a_pseudonym(filled: Store) -> None:
    ada = filled.add_user("ada", PASSWORD)
    filled.record("ada", "login", address="::1")
    filled.record("lea", "change group", people=["bob", "ada"], group="ada")
    task = next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 5.0)
    assign_campaign(filled, "main", ["ada"], [])
    pseudonym = remove(filled, "ada")
    assert pseudonym.startswith("removed-")
    assert [row["annotator"] for row in ranking_rows(filled, "main", None)] == [pseudonym]
    assert filled.user("ada") is None
    assert filled.authenticate(pseudonym, PASSWORD) is None
    with filled.read() as session:
        events = session.execute(
            select(AuditEvent.user_name, AuditEvent.details).order_by(AuditEvent.id)
        ).all()
    assert tuple(events[-2]) == (pseudonym, {"address": "::1"})
    assert tuple(events[-1]) == ("lea", {"people": ["bob", pseudonym], "group": "ada"})
    assert assigned(filled)["main"].people == (pseudonym,)  # so that it is not open to everybody now
    assert next_task(filled, filled.add_user("ada", PASSWORD)) is None
    for change in (lambda: filled.set_password(pseudonym, PASSWORD), lambda: reactivate(filled, pseudonym)):
        with pytest.raises(InputError, match="no person"):
            change()


def test_the_last_admin_who_can_log_in_stays(tmp_path: Any) -> None:
    with Store(tmp_path / "labels.db") as store:
        store.add_user("root", PASSWORD, role="admin")
        store.add_user("idle", PASSWORD, role="admin")
        deactivate(store, "idle")
        for change in (
            lambda: deactivate(store, "root"),
            lambda: remove(store, "root"),
            lambda: store.set_role("root", "lead"),
        ):
            with pytest.raises(InputError, match="only admin"):
                change()
        assert [(user.name, user.state) for user in store.users()] == [
            ("root", "active"),
            ("idle", "inactive"),
        ]
        reactivate(store, "idle")
        assert remove(store, "root") in {user.name for user in store.users()}
