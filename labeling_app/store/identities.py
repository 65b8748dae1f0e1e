"""Users who sign in by an account of another provider instead of a password."""

from __future__ import annotations

from sqlalchemy import select

from generator.output import InputError, is_storable
from labeling_app.store.names import composed, is_name
from labeling_app.store.store import Store
from labeling_app.store.tables import AuditEvent, Identity, User

LONGEST_SUBJECT = 200


def user_of_identity(store: Store, issuer: str, subject: str, name: str, role: str) -> User:
    """The user who signs in by an account, made at the first time.

    A user keeps the name of the first time, so that rankings stay together when the account is renamed; nobody gets a
    user who was there before under that name, but `name-2`. The role is that of the last time, but admins stay admins.

    Args:
        issuer: address of the provider.
        subject: what the provider calls the account for good.
        name: the account's name.
        role: `annotator` or `lead`.

    Raises:
        InputError: the name or the subject is not usable.
    """
    name = composed(name) if is_storable(name) else ""
    if not is_name(name, 90) or not is_storable(subject) or not 0 < len(subject) <= LONGEST_SUBJECT:
        raise InputError("The account that you signed in with has no usable name: use another one.")
    with store.write() as session:
        identity = session.get(Identity, (issuer, subject))
        if identity is not None:
            user = session.get_one(User, identity.user_id)
            if user.role not in (role, "admin"):
                session.add(_event(store, user.name, "set role", user=user.name, role=role))
                user.role = role
            return user
        taken = set(session.scalars(select(User.name)))
        free = next(each for each in (name, *(f"{name}-{n}" for n in range(2, 10_000))) if each not in taken)
        user = User(name=free, password_hash="", role=role, simulated=False, created_at=store.clock())
        session.add(user)
        session.flush()
        session.add(Identity(issuer=issuer, subject=subject, user_id=user.id))
        session.add(_event(store, free, "add user", user=free, role=role))
        return user


def _event(store: Store, name: str, action: str, **details: str) -> AuditEvent:
    return AuditEvent(created_at=store.clock(), user_name=name, action=action, details=details)
