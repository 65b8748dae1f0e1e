"""The API of the lead's page about people: users, groups, assignments, invitations, messages and hours."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from generator.output import InputError
from labeling_app.people import groups, hours, invitations, messages, status
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.web.access import Lead, NotAllowed

CampaignName = Annotated[str, Query(max_length=200)]
PersonName = Annotated[str, Field(max_length=100)]
People = Annotated[list[PersonName], Field(max_length=1000)]
RoleName = Literal["annotator", "lead", "admin"]


class Strict(BaseModel):
    """A request body that takes no unknown fields."""

    model_config = ConfigDict(extra="forbid")


class NewUser(Strict):
    """Somebody who may log in; the password is made by the server."""

    name: PersonName
    role: RoleName = "annotator"


class Role(Strict):
    """Role of a user."""

    name: PersonName
    role: RoleName


class UserName(Strict):
    """Name of a user."""

    name: PersonName


class Activity(Strict):
    """Says whether a user may log in."""

    name: PersonName
    active: bool


class Removal(Strict):
    """Name of the user to remove for good, typed once more."""

    name: PersonName
    typed: PersonName


class GroupChange(Strict):
    """People to add to a group, which is made if it is new, and people to take out."""

    name: PersonName
    add: People = []
    remove: People = []


class GroupName(Strict):
    """Name of a group."""

    name: PersonName


class Assignees(Strict):
    """People and groups who get the tasks of a campaign; without any, everybody does."""

    people: People = []
    groups: People = []


class NewInvitation(Strict):
    """A link by which people make accounts of their own."""

    role: RoleName = "annotator"
    group: PersonName | None = None
    uses: int = Field(default=1, ge=1, le=invitations.MAXIMUM_USES)
    days: float = Field(default=7.0, gt=0, le=invitations.MAXIMUM_DAYS)


class InvitationNumber(Strict):
    """Number of an invitation."""

    invitation: StrictInt


class NewMessage(Strict):
    """A text to people and groups; without any, to all active annotators."""

    text: str = Field(max_length=messages.MAXIMUM_MESSAGE)
    people: People = []
    groups: People = []


def check_admin(user: User, role: str) -> None:
    """Checks that a user may give this role, or change people who have it.

    Raises:
        NotAllowed: only admins may.
    """
    if role != "annotator" and user.role != "admin":
        raise NotAllowed("Only an admin makes and changes leads and admins: ask one.")


def people_api(store: Store) -> APIRouter:
    """The routes, without the first part of their path."""
    api = APIRouter()
    _add_users(api, store)
    _add_status(api, store)
    _add_groups(api, store)
    _add_invitations(api, store)
    _add_messages(api, store)
    _add_hours(api, store)
    return api


def _check_person(store: Store, user: User, name: str) -> None:
    other = store.user(name)
    if other is not None:
        check_admin(user, other.role)


def _add_users(api: APIRouter, store: Store) -> None:
    @api.get("/users")
    def users(user: Lead) -> dict[str, Any]:
        """Everybody, with role, state and groups."""
        known = groups.groups(store)
        return {
            "users": [
                {
                    "name": u.name,
                    "role": u.role,
                    "simulated": u.simulated,
                    "imported": u.imported,
                    "state": u.state,
                    "groups": [group.name for group in known if u.name in group.members],
                    "created_at": u.created_at,
                }
                for u in store.users()
            ]
        }

    @api.post("/users")
    def add_user(user: Lead, body: Annotated[NewUser, Body()]) -> dict[str, Any]:
        """Adds somebody and returns the password, which is shown only now."""
        check_admin(user, body.role)
        password = secrets.token_urlsafe(9)
        made = store.add_user(body.name, password, role=body.role)
        store.record(user.name, "add user", user=made.name, role=made.role)
        return {"name": made.name, "role": made.role, "password": password}

    @api.post("/users/role")
    def set_role(user: Lead, body: Annotated[Role, Body()]) -> dict[str, Any]:
        """Changes what somebody may do; admins only."""
        check_admin(user, "admin")
        store.set_role(body.name, body.role)
        store.record(user.name, "set role", user=body.name, role=body.role)
        return {"name": body.name, "role": body.role}

    @api.post("/users/password")
    def set_password(user: Lead, body: Annotated[UserName, Body()]) -> dict[str, Any]:
        """Gives somebody a new password, which is shown only now."""
        _check_person(store, user, body.name)
        password = secrets.token_urlsafe(9)
        store.set_password(body.name, password)
        store.record(user.name, "set password", user=body.name)
        return {"name": body.name, "password": password}


def _add_status(api: APIRouter, store: Store) -> None:
    def check_other(user: User, name: str) -> None:
        _check_person(store, user, name)
        found = store.user(name)
        if found is not None and found.id == user.id:
            raise InputError("You cannot shut yourself out: ask another lead or admin.")

    @api.post("/users/state")
    def set_state(user: Lead, body: Annotated[Activity, Body()]) -> dict[str, Any]:
        """Deactivates somebody, whose logins end at once and whose tasks go to others, or lets them in again."""
        check_other(user, body.name)
        changed = (status.reactivate if body.active else status.deactivate)(store, body.name)
        action = "reactivate user" if body.active else "deactivate user"
        store.record(user.name, action, user=changed.name)
        return {"name": changed.name, "state": changed.state}

    @api.post("/users/remove")
    def remove(user: Lead, body: Annotated[Removal, Body()]) -> dict[str, Any]:
        """Removes somebody for good; answers stay under the pseudonym that is returned."""
        check_other(user, body.name)
        if body.typed.strip() != body.name:
            raise InputError(
                f"The user is called {body.name!r}, but {body.typed[:60]!r} was typed: nothing was changed."
            )
        pseudonym = status.remove(store, body.name)
        store.record(user.name, "remove user", user=pseudonym)
        return {"pseudonym": pseudonym}


def _add_groups(api: APIRouter, store: Store) -> None:
    @api.get("/groups")
    def all_groups(user: Lead) -> dict[str, Any]:
        """Groups with their members, and the people and groups of each campaign."""
        return {
            "groups": [{"name": group.name, "members": group.members} for group in groups.groups(store)],
            "campaigns": [
                {"name": name, "people": who.people, "groups": who.groups}
                for name, who in groups.assigned(store).items()
            ],
        }

    @api.post("/groups")
    def change_group(user: Lead, body: Annotated[GroupChange, Body()]) -> dict[str, Any]:
        """Makes a group, or adds people to it and takes others out."""
        made = groups.change_group(store, body.name, body.add, body.remove)
        people = [*body.add, *body.remove]
        store.record(user.name, "change group", group=made.name, people=people, added=len(body.add))
        return {"name": made.name, "members": made.members}

    @api.post("/groups/delete")
    def delete_group(user: Lead, body: Annotated[GroupName, Body()]) -> dict[str, Any]:
        """Deletes a group; its members stay."""
        groups.delete_group(store, body.name)
        store.record(user.name, "delete group", group=body.name)
        return {}

    @api.post("/assignees")
    def assign(user: Lead, campaign: CampaignName, body: Annotated[Assignees, Body()]) -> dict[str, Any]:
        """Says who gets the tasks of a campaign, in place of those before."""
        who = groups.assign_campaign(store, campaign, body.people, body.groups)
        store.record(user.name, "assign campaign", campaign=campaign, people=body.people, groups=body.groups)
        return {"people": who.people, "groups": who.groups}


def _add_invitations(api: APIRouter, store: Store) -> None:
    @api.get("/invitations")
    def all_invitations(user: Lead) -> dict[str, Any]:
        """Invitations, the newest first, without their tokens, which are kept nowhere."""
        return {
            "invitations": [
                {
                    "id": row.id,
                    "role": row.role,
                    "group": row.group.name if row.group else None,
                    "uses": row.uses,
                    "used": row.used,
                    "by": row.user.name if row.user else "",
                    "expires_at": row.expires_at,
                    "state": invitations.invitation_state(store, row),
                }
                for row in invitations.invitations(store)
            ]
        }

    @api.post("/invitations")
    def invite(user: Lead, body: Annotated[NewInvitation, Body()]) -> dict[str, Any]:
        """Makes an invitation and returns its path below the address of the app, which is shown only now."""
        check_admin(user, body.role)
        token, made = invitations.invite(store, body.role, body.group, body.uses, body.days, user)
        store.record(
            user.name, "invite", invitation=made.id, role=made.role, group=body.group, uses=made.uses
        )
        return {"id": made.id, "path": f"invitation?token={token}", "expires_at": made.expires_at}

    @api.post("/invitations/revoke")
    def revoke(user: Lead, body: Annotated[InvitationNumber, Body()]) -> dict[str, Any]:
        """Withdraws an invitation; accounts that were made with it stay."""
        found = invitations.revoke(store, body.invitation)
        store.record(user.name, "revoke invitation", invitation=found.id)
        return {"id": found.id, "state": invitations.invitation_state(store, found)}


def _add_messages(api: APIRouter, store: Store) -> None:
    @api.get("/messages")
    def all_messages(user: Lead) -> dict[str, Any]:
        """The latest messages, the newest first, with their readers."""
        return {
            "messages": [
                {
                    "id": row.id,
                    "by": row.user.name if row.user else "",
                    "at": row.created_at,
                    "text": row.text,
                    "to": len(row.recipients),
                    "read": sum(each.read_at is not None for each in row.recipients),
                    "unread_by": sorted(each.user.name for each in row.recipients if each.read_at is None)[
                        :50
                    ],
                }
                for row in messages.messages(store)
            ]
        }

    @api.post("/messages")
    def write(user: Lead, body: Annotated[NewMessage, Body()]) -> dict[str, Any]:
        """Writes to people and groups; each reader is shown the message until it is confirmed."""
        readers = messages.write_message(store, body.text, body.people, body.groups, user)
        store.record(user.name, "write message", people=body.people, groups=body.groups, readers=readers)
        return {"to": readers}


def _add_hours(api: APIRouter, store: Store) -> None:
    @api.get("/hours")
    def people_hours(
        user: Lead,
        campaign: Annotated[str | None, Query(max_length=200)] = None,
        since: Annotated[float | None, Query(ge=0, le=1e11)] = None,
        until: Annotated[float | None, Query(ge=0, le=1e11)] = None,
    ) -> dict[str, Any]:
        """Answers and active seconds of each person, of one campaign and time or of all."""
        found = hours.people_hours(store, campaign, since, until)
        return {"people": [asdict(person) for person in found], "break_seconds": hours.BREAK_SECONDS}
