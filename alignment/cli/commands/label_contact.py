"""`vidalign label invite, message and hours`: invitations, messages to annotators, and their work."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from alignment.cli.commands.label_campaign import DB_HELP, command_line_user
from generator.output import InputError, atomic_path, check_output_file
from labeling_app.files.ranking_tables import harmless
from labeling_app.people import invitations
from labeling_app.people.hours import PersonHours, people_hours
from labeling_app.people.messages import write_message
from labeling_app.store.database import existing_database
from labeling_app.store.store import Store

HEADER = ["day", "name", "hours"]


@dataclass
class InviteArguments:
    """A link by which people choose their own name and password, or, with --db alone, all invitations to list."""

    db: str = field(metadata={"help": DB_HELP})
    address: str | None = field(
        default=None,
        metadata={
            "help": "Address of the app as annotators know it, such as https://host/label/; makes a link."
        },
    )
    role: str = field(default="annotator", metadata={"help": "Role that they get: annotator, lead or admin."})
    group: str | None = field(default=None, metadata={"help": "Group that they join."})
    uses: int = field(default=1, metadata={"help": "Accounts that may be made with the link."})
    days: float = field(default=7.0, metadata={"help": "Days until the link expires."})
    revoke: int | None = field(default=None, metadata={"help": "Withdraw the invitation of this number."})


@dataclass
class MessageArguments:
    """A message that annotators are shown until they confirm it; to all active annotators if nobody is named."""

    db: str = field(metadata={"help": DB_HELP})
    text: str = field(metadata={"help": "Text of the message."})
    people: list[str] | None = field(default=None, metadata={"help": "People to write to."})
    groups: list[str] | None = field(default=None, metadata={"help": "Groups to write to."})


@dataclass
class HoursArguments:
    """Answers and active time of each person."""

    db: str = field(metadata={"help": DB_HELP})
    campaign: str | None = field(default=None, metadata={"help": "Only this campaign; all if not given."})
    since: str | None = field(default=None, metadata={"help": "First day (UTC), such as 2026-01-01."})
    until: str | None = field(default=None, metadata={"help": "Last day (UTC), such as 2026-01-31."})
    output_file: str | None = field(
        default=None, metadata={"help": "CSV file to write, with the hours of each person and day."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the file if it exists."})


def run_invite(arguments: InviteArguments) -> None:
    """Makes, lists or withdraws invitations."""
    if arguments.address is not None and not arguments.address.startswith(("http://", "https://")):
        raise InputError(
            f"The address {arguments.address!r} is no URL: give one such as https://host/label/."
        )
    asked = InviteArguments(arguments.db, arguments.address, revoke=arguments.revoke)
    if arguments != asked and (arguments.address is None or arguments.revoke is not None):
        raise InputError(
            "An invitation was described without --address: give the address of the app for its link."
        )
    with Store(existing_database(arguments.db)) as store:
        if arguments.revoke is not None:
            found = invitations.revoke(store, arguments.revoke)
            store.record(command_line_user(), "revoke invitation", invitation=found.id)
            print(f"Invitation {found.id} is withdrawn; {found.used} account(s) were made with it.")
        elif arguments.address is not None:
            _invite(store, arguments, arguments.address)
        else:
            for row in invitations.invitations(store):
                group = f", group {row.group.name}" if row.group else ""
                state = invitations.invitation_state(store, row)
                print(
                    f"{row.id}\t{state}\t{row.role}{group}\t{row.used} of {row.uses}\t{_time(row.expires_at)}"
                )


def _invite(store: Store, arguments: InviteArguments, address: str) -> None:
    token, made = invitations.invite(store, arguments.role, arguments.group, arguments.uses, arguments.days)
    store.record(
        command_line_user(),
        "invite",
        invitation=made.id,
        role=made.role,
        group=arguments.group,
        uses=made.uses,
    )
    print(f"{address.rstrip('/')}/invitation?token={token}")
    print(f"Invitation {made.id} for {made.uses} account(s), until {_time(made.expires_at)} (shown only now)")


def run_message(arguments: MessageArguments) -> None:
    """Writes to annotators."""
    people, groups = arguments.people or [], arguments.groups or []
    with Store(existing_database(arguments.db)) as store:
        readers = write_message(store, arguments.text, people, groups)
        store.record(command_line_user(), "write message", people=people, groups=groups, readers=readers)
    print(f"{readers} person(s) will read it.")


def run_hours(arguments: HoursArguments) -> None:
    """Prints the work of people, and writes it day by day."""
    since, until = _day(arguments.since, "since"), _day(arguments.until, "until")
    end = until + timedelta(days=1) if until else None
    if since is not None and end is not None and end <= since:
        raise InputError(f"--since {arguments.since} is after --until {arguments.until}: exchange them.")
    output = Path(arguments.output_file) if arguments.output_file else None
    if output is not None:
        check_output_file(output, arguments.overwrite, _is_ours, "a file of hours")
    with Store(existing_database(arguments.db)) as store:
        found = people_hours(
            store,
            arguments.campaign,
            since.timestamp() if since else None,
            end.timestamp() if end else None,
        )
    print("name                  answers changes skips  demos   hours  last answer (UTC)")
    for person in found:
        last = _time(person.last_at) if person.last_at is not None else "–"
        print(
            f"{person.name[:20]:20}  {person.answers:7} {person.changes:7} {person.skips:5} {person.demonstrations:6} "
            f"{person.seconds / 3600:7.2f}  {last}"
        )
    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(_as_csv(found), encoding="utf-8")
        print(f"Hours of each day in {output}")


def _as_csv(people: list[PersonHours]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for person in people:
        name = harmless(person.name)
        writer.writerows([day, name, f"{person.by_day[day] / 3600:.4f}"] for day in sorted(person.by_day))
    return text.getvalue()


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == ",".join(HEADER)


def _day(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        raise InputError(f"--{name} {text!r} is no day: give one such as 2026-01-31.") from None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
