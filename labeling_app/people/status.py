"""Deactivation and removal of people. Their answers stay."""

from __future__ import annotations

import json
import secrets
from typing import Any

from sqlalchemy import String, cast, delete, select, update
from sqlalchemy.orm import Session

from generator.output import InputError
from labeling_app.store.computed_rows import forget_results
from labeling_app.store.people_tables import GroupMember, MessageRecipient
from labeling_app.store.store import Store, end_invitations, require_another_admin, require_person
from labeling_app.store.tables import Assignment, AuditEvent, LoginSession, User

NAMES_OF_PEOPLE = ("user", "people")
"""Keys of audit events that hold names of people."""


def deactivate(store: Store, name: str) -> User:
    """Ends a person's logins at once, gives back the tasks in hand and revokes the invitations that this person made.

    Raises:
        InputError: there is no such person, or it is the only admin.
    """
    with store.write() as session:
        user = require_person(session, name)
        _shut_out(session, user, "inactive", store.clock())
        return user


def reactivate(store: Store, name: str) -> User:
    """Lets a person in again who was deactivated, with the same password.

    Raises:
        InputError: there is no such person, or it is active.
    """
    with store.write() as session:
        user = require_person(session, name)
        if user.state == "active":
            raise InputError(f"{user.name!r} is active already: nothing was changed.")
        user.state = "active"
        return user


def remove(store: Store, name: str) -> str:
    """Removes a person for good: as `deactivate`, and a pseudonym takes the place of the name everywhere.

    Answers, decisions and demonstrations stay under the pseudonym. Password and groups are deleted; an
    account at a provider stays shut out. Texts that people wrote are not searched for the name.

    Returns:
        the pseudonym.

    Raises:
        InputError: there is no such person, or it is the only admin.
    """
    pseudonym = f"removed-{secrets.token_hex(4)}"
    with store.write() as session:
        user = require_person(session, name)
        _shut_out(session, user, "removed", store.clock())
        _pseudonymise_audit(session, user.name, pseudonym)
        forget_results(session)  # they name people
        user.name, user.password_hash, user.language = pseudonym, "", ""
        # Assignments to campaigns stay: without its last one, a campaign would be open to everybody.
        session.execute(delete(GroupMember).where(GroupMember.user_id == user.id))
        unread = (MessageRecipient.user_id == user.id, MessageRecipient.read_at.is_(None))
        session.execute(delete(MessageRecipient).where(*unread))
    return pseudonym


def _shut_out(session: Session, user: User, state: str, now: float) -> None:
    if user.role == "admin":
        require_another_admin(session, user)
    user.state = state
    # The row is locked before its leases end: `next_task` locks it too, and gives nothing out after this.
    session.flush()
    session.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    held = (Assignment.user_id == user.id, Assignment.state == "open", Assignment.expires_at > now)
    session.execute(update(Assignment).where(*held).values(expires_at=now))
    end_invitations(session, user, now)


def _pseudonymise_audit(session: Session, name: str, pseudonym: str) -> None:
    session.execute(update(AuditEvent).where(AuditEvent.user_name == name).values(user_name=pseudonym))
    text = cast(AuditEvent.details, String)
    for found in session.scalars(select(AuditEvent).where(text.contains(json.dumps(name), autoescape=True))):
        found.details = {
            key: _renamed(value, name, pseudonym) if key in NAMES_OF_PEOPLE else value
            for key, value in found.details.items()
        }


def _renamed(value: Any, name: str, pseudonym: str) -> Any:
    if isinstance(value, list):
        return [_renamed(each, name, pseudonym) for each in value]
    return pseudonym if value == name else value
