"""Accounts of people who sign in by an OpenID provider: who is admitted, and with which role and groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from generator.output import InputError, is_storable
from labeling_app.store.names import composed
from labeling_app.store.people_tables import GroupMember, PersonGroup, ProviderIdentity
from labeling_app.store.store import ROLES, Store, end_invitations, require_another_admin, usable_name
from labeling_app.store.tables import AuditEvent, User

NOT_ADMITTED = "This account may not sign in here: ask the lead."
"""One sentence for all reasons, so that nobody learns by it who has an account."""


class NotAdmitted(InputError):
    """A person whom the provider knows, but this app does not let in.

    Attributes:
        reason: for the audit table.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(NOT_ADMITTED)
        self.reason = reason


@dataclass(frozen=True)
class AccountRules:
    """Rules by which accounts of a provider become users.

    Without `anyone`, `leads`, `annotators` and `domains`, only existing users come in. With one of the first three, an
    account gets a user of its own at its first sign-in, `name-2` where the name is taken: a name that people choose at
    the provider says nothing about who they are here. Case does not matter in names of accounts.

    Attributes:
        name_claim: claim that holds the user's name.
        domains: domains of verified e-mail addresses whose owners get an account at their first sign-in.
        anyone: all accounts of the provider come in.
        leads: names of accounts that are leads; the others are annotators.
        annotators: names of the only other accounts that come in, unless `anyone` is set.
        role_claim, roles: claim whose values give roles; who has none of them is an annotator. Without a claim, roles
            are not touched.
        group_claim, groups: claim whose values give membership in groups, by their names here.
    """

    name_claim: str = "email"
    domains: tuple[str, ...] = ()
    anyone: bool = False
    leads: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    role_claim: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    group_claim: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_account(self) -> bool:
        """True where accounts are admitted as such, by their names or all of them."""
        return self.anyone or bool(self.leads or self.annotators)


def sign_in(store: Store, issuer: str, claims: Mapping[str, Any], rules: AccountRules) -> User:
    """The user whom a provider's claims are about, made or changed as the rules say, in one transaction.

    Args:
        claims: of an ID token that was verified.

    Raises:
        NotAdmitted: the rules do not let this person in, or the user is deactivated or removed.
    """
    _check_domain(claims, rules)
    _check_account(claims, rules)
    subject = hashlib.sha256(str(claims["sub"]).encode(errors="replace")).hexdigest()
    try:
        with store.write() as session:
            identity = session.get(ProviderIdentity, (issuer, subject))
            if identity is not None:
                user = session.get_one(User, identity.user_id)
            else:
                user = _first_sign_in(session, claims, rules, store.clock(), issuer)
                session.flush()
                session.add(
                    ProviderIdentity(
                        issuer=issuer, subject=subject, user_id=user.id, created_at=store.clock()
                    )
                )
            if user.state != "active" or user.simulated or user.imported:
                raise NotAdmitted(f"the user {user.name} is {user.state}")
            _give_role(session, user, claims, rules, store.clock())
            _give_groups(session, user, claims, rules, store.clock())
            return user
    except IntegrityError as error:
        raise NotAdmitted("the account was made by another sign-in at the same moment") from error


def values_of(claims: Mapping[str, Any], claim: str | None) -> set[str]:
    """Values of a claim, which may be one text or a list of texts."""
    value = claims.get(claim) if claim else None
    return {value} if isinstance(value, str) else {v for v in value or [] if isinstance(v, str)}


def _check_domain(claims: Mapping[str, Any], rules: AccountRules) -> None:
    if rules.domains:
        email = claims.get("email")
        domain = email.rpartition("@")[2].casefold() if isinstance(email, str) else ""
        if claims.get("email_verified") is not True or domain not in {d.casefold() for d in rules.domains}:
            raise NotAdmitted("no verified e-mail address of an allowed domain")


def _check_account(claims: Mapping[str, Any], rules: AccountRules) -> None:
    if (
        rules.by_account
        and not rules.anyone
        and not _is_named(claims, rules, (*rules.leads, *rules.annotators))
    ):
        raise NotAdmitted("the account is not among those that are named")


def _is_named(claims: Mapping[str, Any], rules: AccountRules, names: Iterable[str]) -> bool:
    name = claims.get(rules.name_claim)
    return isinstance(name, str) and name.casefold() in {each.casefold() for each in names}


def _first_sign_in(
    session: Session, claims: Mapping[str, Any], rules: AccountRules, now: float, issuer: str
) -> User:
    name = claims.get(rules.name_claim)
    if not isinstance(name, str) or not is_storable(name) or not name.strip():
        raise NotAdmitted(f"the claim {rules.name_claim} is missing")
    if rules.name_claim == "email" and claims.get("email_verified") is not True:
        raise NotAdmitted("the e-mail address is not verified")
    if rules.by_account:
        return _new_user(session, _free_name(session, name), now)
    known = select(User).where(User.name == composed(name))
    if rules.name_claim == "email":
        known = select(User).where(func.lower(User.name) == composed(name).lower())
    user = session.scalar(known.order_by(User.id).limit(1))
    if user is None:
        if not rules.domains:
            raise NotAdmitted("there is no user of this name")
        return _new_user(session, name, now)
    linked = select(ProviderIdentity.subject).where(
        ProviderIdentity.user_id == user.id, ProviderIdentity.issuer == issuer
    )
    if session.scalar(linked.limit(1)) is not None:
        raise NotAdmitted(f"the user {user.name} belongs to another account of the provider")
    return user


def _new_user(session: Session, name: str, now: float) -> User:
    try:
        user = User(name=usable_name(name), password_hash="", role="annotator", created_at=now)
    except InputError as error:
        raise NotAdmitted(str(error)) from error
    session.add(user)
    details = {"user": user.name, "role": user.role}
    session.add(AuditEvent(created_at=now, user_name=user.name, action="add user", details=details))
    return user


def _free_name(session: Session, name: str) -> str:
    taken = set(session.scalars(select(User.name)))
    numbered = (name if n == 1 else f"{name}-{n}" for n in count(1))
    return next(each for each in numbered if composed(each) not in taken)


def _role(user: User, claims: Mapping[str, Any], rules: AccountRules) -> str:
    if rules.by_account:
        named = "lead" if _is_named(claims, rules, rules.leads) else "annotator"
        return "admin" if user.role == "admin" else named
    if rules.role_claim is None:
        return user.role
    given = values_of(claims, rules.role_claim)
    roles = [ROLES.index(role) for value, role in rules.roles.items() if value in given]
    return ROLES[max(roles, default=0)]


def _give_role(
    session: Session, user: User, claims: Mapping[str, Any], rules: AccountRules, now: float
) -> None:
    role = _role(user, claims, rules)
    if role == user.role:
        return
    demoted = ROLES.index(role) < ROLES.index(user.role)
    if user.role == "admin" and role != "admin":
        try:
            require_another_admin(session, user)
        except InputError:
            return  # the only admin stays one
    if demoted:
        end_invitations(session, user, now)
    details = {"user": user.name, "role": role}
    session.add(AuditEvent(created_at=now, user_name=user.name, action="set role", details=details))
    user.role = role


def _give_groups(
    session: Session, user: User, claims: Mapping[str, Any], rules: AccountRules, now: float
) -> None:
    given = values_of(claims, rules.group_claim)
    wanted = {group for value, group in rules.groups.items() if value in given}
    for name in sorted(set(rules.groups.values())) if rules.group_claim else []:
        group = session.scalar(select(PersonGroup).where(PersonGroup.name == composed(name)))
        if group is None and name in wanted:
            group = PersonGroup(name=usable_name(name, "group"), created_at=now)
            session.add(group)
            session.flush()
        if group is None:
            continue
        member = session.get(GroupMember, (group.id, user.id))
        if name in wanted and member is None:
            session.add(GroupMember(group_id=group.id, user_id=user.id))
        elif name not in wanted and member is not None:
            session.execute(
                delete(GroupMember).where(GroupMember.group_id == group.id, GroupMember.user_id == user.id)
            )
