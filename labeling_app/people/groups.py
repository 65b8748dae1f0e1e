"""Groups of people, and who is assigned to which campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from generator.output import InputError, is_storable
from labeling_app.store.names import composed
from labeling_app.store.people_tables import (
    CampaignGroup,
    CampaignPerson,
    GroupMember,
    Invitation,
    PersonGroup,
)
from labeling_app.store.store import Store, require_person, usable_name
from labeling_app.store.tables import Campaign, User


@dataclass(frozen=True)
class Group:
    """A group with the names of its members in alphabetical order."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Assigned:
    """Names of the people and groups who are assigned to a campaign; both empty where it is open to everybody."""

    people: tuple[str, ...]
    groups: tuple[str, ...]


def may_work_on(user_id: Any) -> ColumnElement[bool]:
    """Condition on `Campaign`: nobody is assigned to it, or the user is, alone or in a group.

    Args:
        user_id: number, or an expression in SQL.
    """
    person = select(CampaignPerson.user_id).where(CampaignPerson.campaign_id == Campaign.id)
    group = select(CampaignGroup.group_id).where(CampaignGroup.campaign_id == Campaign.id)
    member = group.join(GroupMember, GroupMember.group_id == CampaignGroup.group_id)
    anybody, any_group, alone, in_group = (
        query.correlate(Campaign).exists()
        for query in (
            person,
            group,
            person.where(CampaignPerson.user_id == user_id),
            member.where(GroupMember.user_id == user_id),
        )
    )
    return or_(alone, in_group, ~anybody & ~any_group)


def groups(store: Store) -> list[Group]:
    """All groups in alphabetical order."""
    members = (
        select(PersonGroup.name, User.name)
        .outerjoin(GroupMember, GroupMember.group_id == PersonGroup.id)
        .outerjoin(User, User.id == GroupMember.user_id)
        .order_by(PersonGroup.name, User.name)
    )
    found: dict[str, list[str]] = {}
    with store.read() as session:
        for group, person in session.execute(members):
            found.setdefault(group, []).extend([person] if person is not None else [])
    return [Group(name, tuple(people)) for name, people in found.items()]


def change_group(
    store: Store, name: str, add: Sequence[str] = (), remove: Sequence[str] = (), make: bool = True
) -> Group:
    """Adds people to a group and takes others out of it.

    Args:
        make: makes the group if it is new.

    Raises:
        InputError: the group's name is not usable or, without `make`, unknown, or one of the people is unknown. Then
            nothing was changed.
    """
    name = usable_name(name, "group")
    with store.write() as session:
        group = _find_group(session, name)
        if group is None:
            if not make:
                raise _unknown_group(session, name)
            group = PersonGroup(name=name, created_at=store.clock())
            session.add(group)
            session.flush()
        added = {require_person(session, each).id for each in add}
        removed = {require_person(session, each).id for each in remove}
        known = set(session.scalars(select(GroupMember.user_id).where(GroupMember.group_id == group.id)))
        session.add_all(GroupMember(group_id=group.id, user_id=each) for each in added - known)
        leaving = (GroupMember.group_id == group.id, GroupMember.user_id.in_(removed - added))
        session.execute(delete(GroupMember).where(*leaving))
    return next(found for found in groups(store) if found.name == group.name)


def delete_group(store: Store, name: str) -> None:
    """Deletes a group; its members stay.

    Raises:
        InputError: there is no such group, or campaigns are assigned to it.
    """
    with store.write() as session:
        group = require_group(session, name)
        assigned = list(
            session.scalars(
                select(Campaign.name)
                .join(CampaignGroup, CampaignGroup.campaign_id == Campaign.id)
                .where(CampaignGroup.group_id == group.id)
                .order_by(Campaign.id)
            )
        )
        if assigned:
            raise InputError(
                f"The group {group.name!r} is assigned to {', '.join(assigned)}: assign others there first."
            )
        session.execute(delete(GroupMember).where(GroupMember.group_id == group.id))
        for row in session.scalars(select(Invitation).where(Invitation.group_id == group.id)):
            row.group_id, row.revoked_at = None, row.revoked_at or store.clock()
        session.flush()
        session.execute(delete(PersonGroup).where(PersonGroup.id == group.id))


def assign_campaign(
    store: Store, campaign: str, people: Sequence[str], group_names: Sequence[str]
) -> Assigned:
    """Assigns exactly these people and groups to a campaign; without any it is open to everybody.

    Tasks in the hands of others may still be answered.

    Raises:
        InputError: there is no such campaign, person or group. Then nothing was changed.
    """
    row = store.campaign(campaign)
    with store.write() as session:
        users = {require_person(session, each).id for each in people}
        chosen = {require_group(session, each).id for each in group_names}
        for table in (CampaignPerson, CampaignGroup):
            session.execute(delete(table).where(table.campaign_id == row.id))
        session.add_all(CampaignPerson(campaign_id=row.id, user_id=each) for each in users)
        session.add_all(CampaignGroup(campaign_id=row.id, group_id=each) for each in chosen)
    return assigned(store)[row.name]


def assigned(store: Store) -> dict[str, Assigned]:
    """The people and groups of every campaign, by its name."""
    people = (
        select(Campaign.name, User.name)
        .join(CampaignPerson, CampaignPerson.campaign_id == Campaign.id)
        .join(User, User.id == CampaignPerson.user_id)
        .order_by(User.name)
    )
    of_groups = (
        select(Campaign.name, PersonGroup.name)
        .join(CampaignGroup, CampaignGroup.campaign_id == Campaign.id)
        .join(PersonGroup, PersonGroup.id == CampaignGroup.group_id)
        .order_by(PersonGroup.name)
    )
    with store.read() as session:
        names = list(session.scalars(select(Campaign.name).order_by(Campaign.id)))
        alone = session.execute(people).all()
        together = session.execute(of_groups).all()
    return {
        name: Assigned(
            tuple(person for campaign, person in alone if campaign == name),
            tuple(group for campaign, group in together if campaign == name),
        )
        for name in names
    }


def require_group(session: Session, name: str) -> PersonGroup:
    """The group of this name.

    Raises:
        InputError: there is none.
    """
    group = _find_group(session, name)
    if group is None:
        raise _unknown_group(session, name)
    return group


def _find_group(session: Session, name: str) -> PersonGroup | None:
    if not is_storable(name):
        return None
    return session.scalar(select(PersonGroup).where(PersonGroup.name == composed(name)))


def _unknown_group(session: Session, name: str) -> InputError:
    known = ", ".join(session.scalars(select(PersonGroup.name).order_by(PersonGroup.name))) or "none yet"
    return InputError(f"There is no group {name[:100]!r} (there is: {known}): name one of these or make it.")
