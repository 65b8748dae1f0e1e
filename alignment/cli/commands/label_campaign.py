"""`vidalign label campaign`: campaigns listed, made, changed, paused, closed, renamed and deleted."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError, is_storable, read_text
from labeling_app.campaigns.campaigns import RULES, Rules, set_rules
from labeling_app.campaigns.cloning import clone_campaign
from labeling_app.campaigns.guideline_videos import read_example_videos, with_example_videos
from labeling_app.campaigns.lifecycle import delete_campaign, rename_campaign, set_state
from labeling_app.campaigns.overview import campaign_overview
from labeling_app.store.database import existing_database
from labeling_app.store.guidelines import check_guidelines, set_guidelines
from labeling_app.store.names import composed
from labeling_app.store.new_tasks import VideoFile
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign

DB_HELP = "Database: a path such as labels.db, or a SQLAlchemy URL such as sqlite:///labels.db."
CAMPAIGN_HELP = "Name of the campaign."
DEFAULT = "default"


@dataclass
class CampaignArguments:
    """A campaign to make or change, or, with --db alone, all campaigns to list.

    Rules hold from the next task on, and those not given stay.
    """

    db: str = field(metadata={"help": DB_HELP})
    campaign: str | None = field(
        default=None,
        metadata={"help": "Name of the campaign; with rules it is made if it is new, alone it is shown."},
    )
    overlap: int | None = field(
        default=None,
        metadata={"help": "Different annotators a task; after the first answer it may only grow."},
    )
    dimensions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Dimensions that are judged: overall, visual, motion, alignment; fixed from the first answer on."
        },
    )
    project: str | None = field(default=None, metadata={"help": "Project it belongs to; made if it is new."})
    gold_share: float | None = field(
        default=None, metadata={"help": "Share of hidden gold items among an annotator's tasks, 0 to 0.5."}
    )
    repeat_share: float | None = field(
        default=None, metadata={"help": "Share of tasks that an annotator ranks again, 0 to 0.5."}
    )
    daily_cap: int | None = field(
        default=None, metadata={"help": "Answers a person in 24 hours; 0: no limit."}
    )
    quiz_size: int | None = field(
        default=None, metadata={"help": "Gold items that a person ranks first; 0: none."}
    )
    quiz_pass: float | None = field(
        default=None, metadata={"help": "Share of their pairs that must be right to go on."}
    )
    guidelines: str | None = field(
        default=None,
        metadata={
            "help": "Markdown file with the guidelines; adds a version. Videos shown as pictures, as in "
            "![good](good.mp4), become examples."
        },
    )
    tags: list[str] | None = field(
        default=None,
        metadata={
            "help": 'Reasons that annotators may give for a video, such as artefact "wrong motion"; fixed from the '
            "first answer on."
        },
    )
    gold_feedback: bool | None = field(
        default=None, metadata={"help": "Show an annotator the known answer after a hidden gold item."}
    )
    rename: str | None = field(default=None, metadata={"help": "Another name for the campaign."})
    clone: str | None = field(
        default=None,
        metadata={
            "help": "Name of a new campaign with the rules and guidelines of this one, without answers."
        },
    )
    clone_tasks: bool = field(
        default=False, metadata={"help": "Give the clone the tasks and gold items too."}
    )
    pause: bool = field(default=False, metadata={"help": "Give out no tasks for now."})
    close: bool = field(
        default=False,
        metadata={"help": "Give out no tasks any more, add none, and leave answers as they are."},
    )
    reopen: bool = field(default=False, metadata={"help": "Go on with a paused or closed campaign."})
    delete: bool = field(
        default=False,
        metadata={
            "help": "Delete the campaign with its tasks and answers, after its name was typed once more."
        },
    )
    yes: bool = field(default=False, metadata={"help": "Delete without asking for the name."})


STATES = {"pause": "paused", "close": "closed", "reopen": "open"}


def command_line_user() -> str:
    """Name in the audit table for a change by command: that of the account on this machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name if is_storable(name) else 'somebody'} (command line)"[-100:]


def run_campaign(arguments: CampaignArguments) -> None:
    """Lists campaigns, or makes, changes or ends one."""
    rules = {name: getattr(arguments, name) for name in RULES if getattr(arguments, name) is not None}
    states = [state for name, state in STATES.items() if getattr(arguments, name)]
    ends = [*states, *(["deleted"] if arguments.delete else [])]
    makes = bool(rules) or arguments.project is not None or arguments.guidelines is not None
    if len(ends) > 1:
        raise InputError("More than one of --pause, --close, --reopen and --delete was given: give one.")
    if arguments.clone_tasks and arguments.clone is None:
        raise InputError("--clone_tasks was given without --clone: name the new campaign with --clone.")
    if arguments.clone is not None and (makes or ends or arguments.rename is not None):
        raise InputError("--clone was given together with changes: clone first, then change the clone.")
    if arguments.delete and (makes or arguments.rename is not None):
        raise InputError("--delete was given together with changes: give it alone.")
    text = check_guidelines(read_text(arguments.guidelines)) if arguments.guidelines else None
    videos = read_example_videos(text, Path(arguments.guidelines or "").parent) if text else {}
    if not makes and not ends and arguments.rename is None and arguments.clone is None:
        _show(arguments)
        return
    if not makes:
        existing_database(arguments.db)
    with Store(arguments.db) as store:
        name = _name(store, arguments.campaign, makes)
        if arguments.delete:
            _delete(store, name, arguments.yes)
            return
        if arguments.clone is not None:
            name = _clone(store, name, arguments.clone, arguments.clone_tasks)
        if makes:
            _change(store, name, rules, arguments.project, text, videos)
        if states:
            set_state(store, name, states[0])
            store.record(command_line_user(), "set campaign state", campaign=name, state=states[0])
        if arguments.rename is not None:
            new = rename_campaign(store, name, arguments.rename)
            store.record(command_line_user(), "rename campaign", campaign=name, name=new)
            name = new
        _print(store, store.campaign(name))


def _name(store: Store, given: str | None, may_be_new: bool) -> str:
    """The campaign that is meant: `default` where none is named and it, or no campaign at all, is there."""
    known = [row.name for row in store.campaigns()]
    if given is not None:
        return store.campaign(given).name if composed(given) in known or not may_be_new else given
    if DEFAULT in known or (may_be_new and not known):
        return DEFAULT
    raise InputError(
        f"No campaign was named, and there is no {DEFAULT!r} (there is: {', '.join(known) or 'none yet'}): name one "
        "with --campaign."
    )


def _change(
    store: Store,
    name: str,
    rules: dict[str, Any],
    project: str | None,
    guidelines: str | None,
    videos: dict[str, VideoFile],
) -> None:
    is_new = composed(name) not in {row.name for row in store.campaigns()}
    row = set_rules(store, name, Rules(**rules), project, make=True)
    given = {**rules, **({"project": project} if project is not None else {})}
    if is_new:
        print(f"Made the campaign {row.name}.")
        store.record(command_line_user(), "add campaign", campaign=row.name, **given)
    elif given:
        store.record(command_line_user(), "set rules", campaign=row.name, **given)
    if guidelines is not None:
        version = set_guidelines(store, name, with_example_videos(store, guidelines, videos))
        store.record(command_line_user(), "set guidelines", campaign=row.name, version=version)
        print(f"Guidelines, version {version}")


def _clone(store: Store, name: str, new: str, with_tasks: bool) -> str:
    made, tasks = clone_campaign(store, name, new, with_tasks)
    store.record(command_line_user(), "clone campaign", campaign=name, name=made, tasks=tasks)
    print(f"Made the campaign {made} like {name}, with {tasks} task(s) and gold item(s).")
    return made


def _delete(store: Store, name: str, sure: bool) -> None:
    counts = campaign_overview(store, store.campaign(name))
    if sure:
        typed = name
    elif sys.stdin is None or not sys.stdin.isatty():
        raise InputError(
            f"The campaign {name!r} has {counts['tasks']} task(s) and {counts['answers']} answer(s): pass --yes to "
            "delete it where nobody can be asked."
        )
    else:
        print(f"The campaign {name} has {counts['tasks']} task(s) and {counts['answers']} answer(s).")
        typed = asked("Type its name to delete it (video files stay): ")
    deleted = delete_campaign(store, name, typed)
    store.record(command_line_user(), "delete campaign", campaign=name, **deleted)
    print(f"Deleted the campaign {name}: {deleted['tasks']} task(s), {deleted['judgements']} judgement(s).")


def asked(question: str) -> str:
    """An answer typed at the terminal; empty where there is none."""
    try:
        return input(question)
    except EOFError:
        return ""


def _show(arguments: CampaignArguments) -> None:
    with Store(existing_database(arguments.db)) as store:
        rows = store.campaigns() if arguments.campaign is None else [_known(store, arguments.campaign)]
        for row in rows:
            _print(store, row)
    if not rows:
        print("There is no campaign yet: vidalign label import adds videos to one.")


def _known(store: Store, name: str) -> Campaign:
    try:
        return store.campaign(name)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')}, or make it with --overlap 1.") from error


def _print(store: Store, row: Campaign) -> None:
    counts = campaign_overview(store, row)
    state = "" if row.state == "open" else f" ({row.state})"
    tags = f", tags {', '.join(row.tags)}" if row.tags else ""
    print(
        f"Campaign {row.name}{state}: {', '.join(row.dimensions)}, overlap {row.overlap}, gold {row.gold_share:.0%}, "
        f"repeats {row.repeat_share:.0%}, {row.daily_cap or 'any number of'} answers a day, trial of {row.quiz_size} "
        f"({row.quiz_pass:.0%} right){tags}; {counts['answers']} of {counts['answers_wanted']} answers"
    )
