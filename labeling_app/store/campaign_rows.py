"""The row of a campaign: made when it is named for the first time, changed until the first answer."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from generator.one_or_several import as_list
from generator.output import InputError, is_storable
from labeling_app.store.names import composed, is_name
from labeling_app.store.tables import Campaign, Judgement, Task
from labeling_app.store.tags import checked_tags

DIMENSIONS = ("overall", "visual", "motion", "alignment")
MAXIMUM_OVERLAP = 1000


def campaign_row(
    session: Session,
    name: str,
    overlap: int | None,
    dimensions: Sequence[str] | None,
    now: float,
    change: bool = False,
) -> Campaign:
    """The campaign of this name for what is added to it, which is made if it is new.

    Args:
        overlap, dimensions: of a new campaign; one that is there must have the same, or have no task yet.
        change: gives them also to a campaign that has tasks, as long as nothing was answered.

    Raises:
        InputError: name, overlap or dimensions are illegal or differ, or the campaign is closed.
    """
    dimensions = None if dimensions is None else as_list(dimensions)
    check_setup(overlap, dimensions)
    row = find_campaign(session, name)
    if row is None:
        row = Campaign(
            name=campaign_name(name),
            overlap=overlap or 1,
            dimensions=list(dimensions or ("overall",)),
            created_at=now,
        )
        session.add(row)
        session.flush()
        return row
    if row.state == "closed":
        raise InputError(f"The campaign {row.name!r} is closed: reopen it first, or name another one.")
    given = overlap or row.overlap, list(dimensions or row.dimensions)
    if given == (row.overlap, row.dimensions):
        return row
    is_empty = session.scalar(select(Task.id).where(Task.campaign_id == row.id).limit(1)) is None
    if has_answers(session, row) or not (change or is_empty):
        raise InputError(
            f"The campaign {row.name!r} has overlap {row.overlap} and dimensions {', '.join(row.dimensions)}: leave "
            "them out, name a new campaign, or change what may still change with `vidalign label campaign`."
        )
    change_setup(session, row, overlap, dimensions)
    return row


def find_campaign(session: Session, name: str) -> Campaign | None:
    """The campaign of this name, or None."""
    if not is_storable(name):
        return None
    found = session.scalar(select(Campaign).where(Campaign.name == composed(name)))
    return found or session.scalar(select(Campaign).where(Campaign.name == name))


def campaign_name(name: str) -> str:
    """The name as it is kept.

    Raises:
        InputError: it is no name.
    """
    name = composed(name) if is_storable(name) else name
    if not is_name(name, 200) or not is_storable(name):
        raise InputError(
            f"The campaign's name {name[:60]!r} is not usable: give one of 1 to 200 printable characters."
        )
    return name


def check_setup(overlap: int | None, dimensions: Sequence[str] | None) -> None:
    """Raises `InputError` unless both can be those of a campaign; None always can."""
    if overlap is not None and not 1 <= overlap <= MAXIMUM_OVERLAP:
        raise InputError(
            f"overlap is {overlap}: give the number of annotators a task, from 1 to {MAXIMUM_OVERLAP}."
        )
    unknown = [d for d in dimensions or () if d not in DIMENSIONS]
    if unknown or (dimensions is not None and (not dimensions or len(set(dimensions)) < len(dimensions))):
        raise InputError(
            f"dimensions are {list(dimensions or ())}: give one or more of {', '.join(DIMENSIONS)}, each once."
        )


def has_answers(session: Session, campaign: Campaign) -> bool:
    """Returns whether anybody has ranked or skipped a task of the campaign."""
    found = (
        select(Judgement.id)
        .join(Task, Task.id == Judgement.task_id)
        .where(Task.campaign_id == campaign.id)
        .limit(1)
    )
    return session.scalar(found) is not None


def change_tags(session: Session, row: Campaign, tags: Sequence[str]) -> None:
    """Changes the tags: freely until the first answer; after it only where there were none.

    Raises:
        InputError: the tags are illegal, or it is too late for the change.
    """
    tags = checked_tags(tags)
    if tags != row.tags and row.tags and has_answers(session, row):
        raise InputError(
            f"The campaign {row.name!r} has answers that chose among the tags {', '.join(row.tags)}, so these do not "
            "change any more: clone it for others."
        )
    row.tags = tags


def change_setup(
    session: Session, row: Campaign, overlap: int | None, dimensions: Sequence[str] | None
) -> None:
    """Changes overlap and dimensions: freely until the first answer; after it the overlap may only grow.

    Raises:
        InputError: a value is illegal, or it is too late for the change.
    """
    check_setup(overlap, dimensions)
    answered = has_answers(session, row)
    if dimensions is not None and list(dimensions) != row.dimensions:
        if answered:
            raise InputError(
                f"The campaign {row.name!r} has answers about {', '.join(row.dimensions)}, so its dimensions do not "
                "change any more: make a new campaign."
            )
        gold = select(func.count(Task.id)).where(Task.campaign_id == row.id, Task.kind == "gold")
        if session.scalar(gold):
            raise InputError(
                f"The campaign {row.name!r} has gold items whose known answers are about "
                f"{', '.join(row.dimensions)}: make a new campaign for other dimensions."
            )
        row.dimensions = list(dimensions)
    if overlap is not None and overlap != row.overlap:
        if answered and overlap < row.overlap:
            raise InputError(
                f"The campaign {row.name!r} has answers, so its overlap of {row.overlap} may only grow: give "
                f"{row.overlap} or more."
            )
        row.overlap = overlap
        session.flush()
        session.execute(
            update(Task)
            .where(Task.campaign_id == row.id, Task.kind == "normal")
            .values(filled=Task.completed >= overlap)
        )
