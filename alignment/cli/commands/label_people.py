"""`vidalign label users, groups, assign, invite, message and hours`: the verbs about people."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.cli import Verb
from alignment.cli.commands.label_campaign import CAMPAIGN_HELP, DB_HELP, command_line_user
from alignment.cli.commands.label_contact import (
    HoursArguments,
    InviteArguments,
    MessageArguments,
    run_hours,
    run_invite,
    run_message,
)
from alignment.cli.commands.label_users import UsersArguments, run_users
from generator.output import InputError
from labeling_app.people import groups as people_groups
from labeling_app.people.groups import Assigned
from labeling_app.store.database import existing_database
from labeling_app.store.store import Store


@dataclass
class GroupsArguments:
    """Groups of people, who are assigned and written to together. With --db alone, all groups are listed."""

    db: str = field(metadata={"help": DB_HELP})
    group: str | None = field(default=None, metadata={"help": "Name of the group; made if it is new."})
    add: list[str] | None = field(default=None, metadata={"help": "People to add."})
    remove: list[str] | None = field(default=None, metadata={"help": "People to take out."})
    delete: bool = field(default=False, metadata={"help": "Delete the group; its members stay."})


@dataclass
class AssignArguments:
    """People and groups who get the tasks of a campaign, in place of those before; --db alone lists all."""

    db: str = field(metadata={"help": DB_HELP})
    campaign: str | None = field(default=None, metadata={"help": CAMPAIGN_HELP})
    people: list[str] | None = field(default=None, metadata={"help": "People to assign."})
    groups: list[str] | None = field(default=None, metadata={"help": "Groups to assign."})
    everybody: bool = field(default=False, metadata={"help": "Open the campaign to everybody."})


def run_groups(arguments: GroupsArguments) -> None:
    """Makes, changes, deletes or lists groups."""
    changes = arguments.add is not None or arguments.remove is not None
    if arguments.group is None and (changes or arguments.delete):
        raise InputError("No group was named: name one with --group.")
    if arguments.delete and changes:
        raise InputError("--delete was given together with changes: give it alone.")
    with Store(existing_database(arguments.db)) as store:
        if arguments.group is None:
            for group in people_groups.groups(store):
                print(f"{group.name}\t{', '.join(group.members) or '–'}")
        elif arguments.delete:
            people_groups.delete_group(store, arguments.group)
            store.record(command_line_user(), "delete group", group=arguments.group)
            print(f"Deleted the group {arguments.group}")
        else:
            add, remove = arguments.add or [], arguments.remove or []
            made = people_groups.change_group(store, arguments.group, add, remove)
            store.record(
                command_line_user(), "change group", group=made.name, people=[*add, *remove], added=len(add)
            )
            print(f"{made.name}: {', '.join(made.members) or 'nobody yet'}")


def run_assign(arguments: AssignArguments) -> None:
    """Assigns people and groups to a campaign, or lists who is assigned."""
    given = arguments.people is not None or arguments.groups is not None
    if arguments.campaign is None and (given or arguments.everybody):
        raise InputError("No campaign was named: name one with --campaign.")
    if given and arguments.everybody:
        raise InputError("--everybody was given together with --people or --groups: give one of them.")
    with Store(existing_database(arguments.db)) as store:
        if given or arguments.everybody:
            people, chosen = arguments.people or [], arguments.groups or []
            people_groups.assign_campaign(store, arguments.campaign or "", people, chosen)
            store.record(
                command_line_user(),
                "assign campaign",
                campaign=arguments.campaign,
                people=people,
                groups=chosen,
            )
        name = store.campaign(arguments.campaign).name if arguments.campaign is not None else None
        for campaign, who in people_groups.assigned(store).items():
            if name in (None, campaign):
                print(f"{campaign}\t{_shown(who)}")


def _shown(who: Assigned) -> str:
    parts = [*who.people, *(f"group {name}" for name in who.groups)]
    return ", ".join(parts) or "everybody"


PEOPLE_VERBS = {
    "users": Verb("Add, list, deactivate or remove users.", (UsersArguments,), run_users),
    "groups": Verb("Make, change or list groups of people.", (GroupsArguments,), run_groups),
    "assign": Verb("Say who works on a campaign.", (AssignArguments,), run_assign),
    "invite": Verb("Make links by which people join.", (InviteArguments,), run_invite),
    "message": Verb("Write to annotators.", (MessageArguments,), run_message),
    "hours": Verb("Print answers and active time of each person.", (HoursArguments,), run_hours),
}
