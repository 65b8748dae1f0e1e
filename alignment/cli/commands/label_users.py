"""`vidalign label users`: people who may log in, added, listed, deactivated and removed."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass, field

from alignment.cli.commands.label_campaign import DB_HELP, asked, command_line_user
from generator.output import InputError, is_storable
from labeling_app.people import status
from labeling_app.people.groups import groups
from labeling_app.store.database import existing_database
from labeling_app.store.names import composed
from labeling_app.store.store import Store, require_person


@dataclass
class UsersArguments:
    """People who may log in. With --db alone, all users are listed."""

    db: str = field(metadata={"help": DB_HELP})
    add: str | None = field(
        default=None, metadata={"help": "Add a user of this name; prints the password once."}
    )
    role: str = field(
        default="annotator", metadata={"help": "Role of the new user: annotator, lead or admin."}
    )
    set_role: str | None = field(
        default=None, metadata={"help": "Give the user of this name the role that --role says."}
    )
    set_password: str | None = field(
        default=None, metadata={"help": "Give the user of this name a new password; prints it once."}
    )
    deactivate: str | None = field(
        default=None,
        metadata={
            "help": "End the logins of the user of this name, give back the tasks in hand and revoke the invitations."
        },
    )
    reactivate: str | None = field(
        default=None, metadata={"help": "Let the user of this name in again, with the same password."}
    )
    remove: str | None = field(
        default=None,
        metadata={
            "help": "Remove the user of this name for good, after the name was typed once more; answers stay under a "
            "pseudonym."
        },
    )
    yes: bool = field(default=False, metadata={"help": "Remove without asking for the name."})


CHANGES = ("add", "set_role", "set_password", "deactivate", "reactivate", "remove")


def run_users(arguments: UsersArguments) -> None:
    """Adds or changes a user, or lists all users."""
    given = [name for name in CHANGES if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise InputError(f"More than one of --{' and --'.join(given)} was given: give one at a time.")
    with Store(arguments.db if arguments.add is not None else existing_database(arguments.db)) as store:
        if not given:
            _list(store)
        else:
            _RUN[given[0]](store, arguments, getattr(arguments, given[0]))


def _list(store: Store) -> None:
    members = groups(store)
    for user in store.users():
        kind = "simulated" if user.simulated else user.role
        in_groups = ", ".join(group.name for group in members if user.name in group.members)
        columns = [
            user.name,
            kind if user.state == "active" else f"{kind} ({user.state})",
            *([in_groups] if in_groups else []),
        ]
        print("\t".join(columns))


def _add(store: Store, arguments: UsersArguments, name: str) -> None:
    password = secrets.token_urlsafe(9)
    user = store.add_user(name, password, role=arguments.role)
    store.record(command_line_user(), "add user", user=user.name, role=user.role)
    print(f"{user.role} {user.name}, password {password} (shown only now)")


def _set_role(store: Store, arguments: UsersArguments, name: str) -> None:
    store.set_role(name, arguments.role)
    store.record(command_line_user(), "set role", user=name, role=arguments.role)
    print(f"{name} is {arguments.role} now")


def _set_password(store: Store, arguments: UsersArguments, name: str) -> None:
    password = secrets.token_urlsafe(9)
    store.set_password(name, password)
    store.record(command_line_user(), "set password", user=name)
    print(f"{name}, new password {password} (shown only now)")


def _deactivate(store: Store, arguments: UsersArguments, name: str) -> None:
    user = status.deactivate(store, name)
    store.record(command_line_user(), "deactivate user", user=user.name)
    print(f"{user.name} is inactive now: logins have ended, and tasks in hand go to others.")


def _reactivate(store: Store, arguments: UsersArguments, name: str) -> None:
    user = status.reactivate(store, name)
    store.record(command_line_user(), "reactivate user", user=user.name)
    print(f"{user.name} is active again")


def _remove(store: Store, arguments: UsersArguments, name: str) -> None:
    with store.read() as session:
        user = require_person(session, name)
    if not arguments.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError(
                f"Removing {user.name!r} cannot be undone: pass --yes where nobody can be asked."
            )
        print(f"{user.name} is removed for good; the answers stay under a pseudonym.")
        typed = asked("Type the name to go on: ")
        if not is_storable(typed) or composed(typed) != user.name:
            raise InputError(
                f"The user is called {user.name!r}, but {typed[:60]!r} was typed: nothing was changed."
            )
    pseudonym = status.remove(store, user.name)
    store.record(command_line_user(), "remove user", user=pseudonym)
    print(f"Removed: the answers are those of {pseudonym} now.")


_RUN = {
    "add": _add,
    "set_role": _set_role,
    "set_password": _set_password,
    "deactivate": _deactivate,
    "reactivate": _reactivate,
    "remove": _remove,
}
