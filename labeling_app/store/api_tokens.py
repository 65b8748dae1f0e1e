"""API tokens, with which programs read what leads read, and change nothing."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.exc import IntegrityError

from generator.output import InputError, is_storable
from labeling_app.store.integration_tables import ApiToken
from labeling_app.store.names import composed, is_name
from labeling_app.store.store import Store
from labeling_app.store.tables import AuditEvent

PREFIX = "vidalign_"
"""Beginning of every token, by which programs that look for leaked secrets find it."""
MAXIMUM_DAYS = 3650
USED = "use token"
"""Action of the audit events by which it is known when a token was last used."""
_VALID = select(ApiToken).where(
    ApiToken.token_hash == bindparam("token"),
    ApiToken.revoked_at.is_(None),
    or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > bindparam("now")),
)


def add_token(store: Store, name: str, days: float | None = None) -> str:
    """Makes a token and returns it; it is not kept, so it is shown only now.

    Args:
        name: of the program that gets it.
        days: until it expires; never by default.

    Raises:
        InputError: the name is taken (a revoked token keeps its name) or no name, or the days are out of range.
    """
    name = composed(name) if is_storable(name) else name
    if not is_name(name, 100) or not is_storable(name):
        raise InputError(
            f"The token's name {name[:60]!r} is not usable: give one of 1 to 100 printable characters."
        )
    if days is not None and not 0 < days <= MAXIMUM_DAYS:
        raise InputError(
            f"The token would expire in {days} days: give a number above 0, up to {MAXIMUM_DAYS}."
        )
    token = PREFIX + secrets.token_urlsafe(32)
    now = store.clock()
    row = ApiToken(
        name=name,
        token_hash=_hash(token),
        created_at=now,
        expires_at=None if days is None else now + 86400.0 * days,
    )
    try:
        with store.write() as session:
            session.add(row)
    except IntegrityError as error:
        raise InputError(f"There is or was a token {name!r} already: choose another name.") from error
    return token


def revoke_token(store: Store, name: str) -> None:
    """Ends a token for good.

    Raises:
        InputError: there is no token of this name, or it is revoked already.
    """
    with store.write() as session:
        found = (
            session.scalar(select(ApiToken).where(ApiToken.name == composed(name)))
            if is_storable(name)
            else None
        )
        if found is None or found.revoked_at is not None:
            state = "no token" if found is None else "a revoked token"
            raise InputError(f"There is {state} {name[:100]!r}: list the tokens with `vidalign label token`.")
        found.revoked_at = store.clock()


def tokens(store: Store) -> list[ApiToken]:
    """All tokens, revoked and expired ones too, in the order in which they came."""
    with store.read() as session:
        return list(session.scalars(select(ApiToken).order_by(ApiToken.id)))


def token_state(token: ApiToken, now: float) -> str:
    """Returns `valid`, `expired` or `revoked`."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


def program_name(token: str) -> str:
    """The name under which the audit table has what a program does with its token."""
    return f"token {token}"[:100]


def last_uses(store: Store) -> dict[str, float]:
    """The moment of the latest recorded use (`USED`) of each token that was used, in seconds since the epoch."""
    latest = select(AuditEvent.user_name, func.max(AuditEvent.created_at)).where(AuditEvent.action == USED)
    with store.read() as session:
        by_program = dict(session.execute(latest.group_by(AuditEvent.user_name)).tuples().all())
    moments = {row.name: by_program.get(program_name(row.name)) for row in tokens(store)}
    return {name: moment for name, moment in moments.items() if moment is not None}


def valid_token(store: Store, token: str) -> ApiToken | None:
    """The row of a token that is neither revoked nor expired."""
    with store.read() as session:
        return session.scalar(_VALID, {"token": _hash(token), "now": store.clock()})


def _hash(token: str) -> str:
    # A token has 256 random bits, so it needs no salt and no slow hash.
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
