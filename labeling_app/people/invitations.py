"""Invitations: links by which people choose their own name and password.

A link holds a random token, of which only the hash is kept.
"""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import IntegrityError

from generator.output import InputError
from labeling_app.people.groups import require_group
from labeling_app.store.passwords import checked_hash
from labeling_app.store.people_tables import GroupMember, Invitation
from labeling_app.store.store import ROLES, Store, usable_name
from labeling_app.store.tables import User

DAY = 86400.0
MAXIMUM_USES = 1000
MAXIMUM_DAYS = 365.0
NOT_VALID = (
    "This invitation is not valid: it may have expired, been used or been withdrawn; ask for a new one."
)
"""One sentence for all, so that nobody learns by trying which tokens there were."""


class NotInvited(InputError):
    """The token of an invitation is forged, expired, used up or revoked."""


def invite(
    store: Store,
    role: str = "annotator",
    group: str | None = None,
    uses: int = 1,
    days: float = 7.0,
    user: User | None = None,
) -> tuple[str, Invitation]:
    """Makes an invitation.

    Args:
        role, group: what those get who come by it.
        uses: accounts that may be made with it, 1 to 1000.
        days: time until it expires, at most 365 days.
        user: who invites; None for the command line.

    Returns:
        the token for the link, which is kept nowhere, and the invitation.

    Raises:
        InputError: a value is out of range, or there is no such role or group.
    """
    if role not in ROLES:
        raise InputError(f"The role {role!r} is unknown: choose one of {', '.join(ROLES)}.")
    if not 1 <= uses <= MAXIMUM_USES:
        raise InputError(f"The invitation is for {uses} uses: give a number from 1 to {MAXIMUM_USES}.")
    if not 0 < days <= MAXIMUM_DAYS:
        raise InputError(
            f"The invitation holds {days} days: give a number above 0 and at most {MAXIMUM_DAYS:.0f}."
        )
    token, now = secrets.token_urlsafe(32), store.clock()
    with store.write() as session:
        made = Invitation(
            token_hash=_hash(token),
            role=role,
            group=require_group(session, group) if group is not None else None,
            uses=uses,
            used=0,
            user_id=user.id if user is not None else None,
            created_at=now,
            expires_at=now + days * DAY,
        )
        session.add(made)
    return token, made


def invitations(store: Store) -> list[Invitation]:
    """All invitations, the newest first."""
    with store.read() as session:
        return list(session.scalars(select(Invitation).order_by(Invitation.id.desc())).unique())


def invitation_state(store: Store, invitation: Invitation) -> str:
    """Returns `open`, `used`, `revoked` or `expired`."""
    if invitation.revoked_at is not None:
        return "revoked"
    if invitation.used >= invitation.uses:
        return "used"
    return "open" if invitation.expires_at > store.clock() else "expired"


def revoke(store: Store, number: int) -> Invitation:
    """Withdraws an invitation; accounts that were made with it stay.

    Raises:
        InputError: there is no such invitation.
    """
    with store.write() as session:
        found = session.get(Invitation, number) if 0 < number < 2**31 else None
        if found is None:
            raise InputError(f"There is no invitation {number}: list them and name another.")
        found.revoked_at = found.revoked_at or store.clock()
        return found


def require_valid(store: Store, token: str) -> None:
    """Checks that an account could be made with this token now.

    Raises:
        NotInvited: it could not.
    """
    with store.read() as session:
        if session.scalar(select(Invitation.id).where(*_usable(store, token))) is None:
            raise NotInvited(NOT_VALID)


def accept(store: Store, token: str, name: str, password: str) -> User:
    """Makes the account of an invited person, in one transaction with the use of the invitation.

    Raises:
        NotInvited: the token is forged, expired, used up or revoked.
        InputError: the name is not usable or taken, or the password is too short or long. Then the invitation keeps
            its use.
    """
    require_valid(store, token)  # before the hash, which takes time
    name, password_hash = usable_name(name), checked_hash(password)
    used = (
        update(Invitation)
        .where(*_usable(store, token))
        .values(used=Invitation.used + 1)
        .returning(Invitation.role, Invitation.group_id)
    )
    try:
        with store.write() as session:
            found = session.execute(used).first()
            if found is None:
                raise NotInvited(NOT_VALID)
            user = User(name=name, password_hash=password_hash, role=found[0], created_at=store.clock())
            session.add(user)
            session.flush()
            if found[1] is not None:
                session.add(GroupMember(group_id=found[1], user_id=user.id))
    except IntegrityError as error:
        raise InputError(f"The name {name!r} is taken: choose another one.") from error
    return user


def _usable(store: Store, token: str) -> tuple[ColumnElement[bool], ...]:
    return (
        Invitation.token_hash == _hash(token),
        Invitation.revoked_at.is_(None),
        Invitation.expires_at > store.clock(),
        Invitation.used < Invitation.uses,
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
