"""Taking answers: rankings, changed rankings and skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.orm import Session

from generator.output import is_storable
from labeling_app.store.prepared import Prepared
from labeling_app.store.remarks import named_videos
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Campaign, Judgement, Task, User
from labeling_app.store.tags import in_order_shown
from labeling_app.store.webhooks import tell_of_answer
from labeling_app.tasks.lease import (
    MAXIMUM_FLAG,
    MAXIMUM_TEXT,
    AssignedTask,
    HeldAssignment,
    Refused,
    assigned_task,
    close_assignment,
    require_open,
    require_own,
)
from labeling_app.tasks.marks import checked_marks
from labeling_app.tasks.queue import this_task

_JUDGEMENTS = cast(Table, Judgement.__table__)
_INSERT = Prepared(
    insert(_JUDGEMENTS).inline(), [column.name for column in _JUDGEMENTS.columns if column.name != "id"]
)


@dataclass(frozen=True)
class Answered:
    """An answer that may still be changed.

    Attributes:
        ranks: for each dimension the newest ranks, in the order in which the videos were shown.
        remark_videos: for each remark the slots of the videos that it is about.
        tags: reasons given for videos, which are named by their slots.
        seconds: how long the annotator has worked on it so far.
        answered_at: when the first version was given, seconds since the epoch.
    """

    task: AssignedTask
    ranks: dict[str, list[int]]
    seconds: float
    comment: str
    flag: str
    remark_videos: dict[str, list[int]]
    tags: list[dict[str, Any]]
    answered_at: float


def submit(
    store: Store,
    user: User,
    token: str,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    comment: str = "",
    flag: str = "",
    remark_videos: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[Mapping[str, Any]] | None = None,
) -> HeldAssignment:
    """Stores an answer, whose version is 1, and returns the assignment as it was before.

    Args:
        ranks: for each of the campaign's dimensions the ranks of the videos in the order shown, 1 is best,
            equal ranks are ties. They are stored in the task's order and without gaps.
        seconds: how long the annotator worked.
        flag: why a lead should look at the task, or empty.
        remark_videos: slots of the videos that the `flag` and the `comment` are about; by default those that
            they name by letter ("Video B looks broken").
        tags: reasons for videos, with videos by slots (see `labeling_app.tasks.marks.checked_marks`); None where the
            annotator was not asked.

    Raises:
        Refused: the assignment is not this user's, or the ranks, the seconds, a text or a tag are illegal.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    with store.writing() as connection:
        assignment = require_open(connection, user, token, store)
        given = _checked(assignment, seconds, {"comment": comment, "flag": flag}, remark_videos)
        given["tags"] = checked_marks(tags, assignment.tags, assignment.permutation)
        _store_ranks(connection, assignment, ranks, given, store.clock(), version=1)
        if assignment.webhooks:
            tell_of_answer(connection, assignment.task_id, token, user.name, 1, flag, store.clock())
        close_assignment(connection, assignment, "done")
        return assignment


def revise(
    store: Store,
    user: User,
    token: str,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    comment: str = "",
    flag: str = "",
    remark_videos: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[Mapping[str, Any]] | None = None,
) -> int:
    """Stores a changed answer as the next version, which it returns; the earlier ones stay.

    Raises:
        Refused: the assignment is not this user's or has no answer yet, the first answer is older than
            `store.edit_seconds`, or the new answer is illegal.
    """
    with store.write() as session:
        connection = session.connection()
        assignment = require_own(connection, user, token)
        if assignment.state != "done":
            raise Refused("Only a task that you have ranked can be changed.")
        if assignment.campaign_state == "closed":
            raise Refused("The campaign is closed, so answers do not change any more: tell the lead instead.")
        versions = _versions(session, assignment)
        if versions[0].created_at + store.edit_seconds < store.clock():
            raise Refused("This answer is too old to be changed: tell the lead instead.")
        version = versions[-1].version + 1
        given = _checked(assignment, seconds, {"comment": comment, "flag": flag}, remark_videos)
        given["tags"] = checked_marks(tags, assignment.tags, assignment.permutation)
        _store_ranks(connection, assignment, ranks, given, store.clock(), version)
        tell_of_answer(connection, assignment.task_id, token, user.name, version, flag, store.clock())
        return version


def recent_answers(store: Store, user: User, limit: int = 20) -> list[Answered]:
    """The user's answers that may still be changed, the latest first."""
    since = store.clock() - store.edit_seconds
    with store.read() as session:
        latest = (
            select(Judgement.task_id)
            .join(Task, Task.id == Judgement.task_id)
            .join(Campaign, Campaign.id == Task.campaign_id)
            .where(
                Campaign.state != "closed",
                Judgement.user_id == user.id,
                Judgement.version == 1,
                Judgement.skip_reason == "",
                Judgement.created_at >= since,
            )
            .group_by(Judgement.task_id)
            .order_by(func.max(Judgement.id).desc())
            .limit(limit)
        )
        found = [
            session.scalars(
                select(Assignment).where(Assignment.task_id == task_id, Assignment.user_id == user.id)
            ).one()
            for task_id in session.scalars(latest).all()
        ]
        return [_answered(session, assignment) for assignment in found]


def _versions(session: Session, assignment: Assignment | HeldAssignment) -> list[Judgement]:
    return list(
        session.scalars(
            select(Judgement)
            .where(Judgement.task_id == assignment.task_id, Judgement.user_id == assignment.user_id)
            .order_by(Judgement.version, Judgement.id)
        )
    )


def _answered(session: Session, assignment: Assignment) -> Answered:
    versions = _versions(session, assignment)
    newest = [judgement for judgement in versions if judgement.version == versions[-1].version]
    ranks = {
        judgement.dimension: [judgement.ranks[position] for position in assignment.permutation]
        for judgement in newest
        if judgement.ranks is not None
    }
    shown = this_task(session.connection(), assignment.user_id, assignment.task_id)
    task = assigned_task(assignment.token, shown, assignment.permutation, assignment.expires_at)
    last = newest[0]
    slots = {
        kind: sorted(assignment.permutation.index(position) for position in positions)
        for kind, positions in (last.remark_videos or {}).items()
    }
    tags = in_order_shown(last.tags, assignment.permutation)
    return Answered(task, ranks, last.seconds, last.comment, last.flag, slots, tags, versions[0].created_at)


def skip(
    store: Store,
    user: User,
    token: str,
    reason: str,
    seconds: float,
    comment: str = "",
    remark_videos: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Gives a task back for good, with a reason.

    Args:
        remark_videos: slots of the videos that the `skip_reason` and the `comment` are about; by default those
            that they name by letter.

    Raises:
        Refused: the assignment is not this user's or the reason is empty or too long.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    reason = reason.strip()
    if not reason or len(reason) > MAXIMUM_TEXT or not is_storable(reason):
        raise Refused(f"A skipped task needs a reason of 1 to {MAXIMUM_TEXT} characters.")
    with store.writing() as connection:
        assignment = require_open(connection, user, token, store)
        given = _checked(assignment, seconds, {"comment": comment, "skip_reason": reason}, remark_videos)
        _add_judgements(connection, assignment, dict.fromkeys(assignment.dimensions), given, store.clock(), 1)
        close_assignment(connection, assignment, "skipped")


def dense_ranks(ranks: Sequence[int]) -> list[int]:
    """Ranks without gaps: 1, 3, 3, 4 becomes 1, 2, 2, 3."""
    dense = {rank: number for number, rank in enumerate(sorted(set(ranks)), start=1)}
    return [dense[rank] for rank in ranks]


def _store_ranks(
    connection: Connection,
    assignment: HeldAssignment,
    ranks: Mapping[str, Sequence[int]],
    given: dict[str, Any],
    now: float,
    version: int,
) -> None:
    if set(ranks) != set(assignment.dimensions):
        raise Refused(f"Ranks are needed for: {', '.join(assignment.dimensions)}.")
    stored: dict[str, list[int] | None] = {}
    for dimension in assignment.dimensions:
        shown = dense_ranks(legal_ranks(ranks[dimension], len(assignment.permutation)))
        in_task_order = [0] * len(shown)
        for slot, position in enumerate(assignment.permutation):
            in_task_order[position] = shown[slot]
        stored[dimension] = in_task_order
    _add_judgements(connection, assignment, stored, given, now, version)


def _add_judgements(
    connection: Connection,
    assignment: HeldAssignment,
    ranks: Mapping[str, list[int] | None],
    given: dict[str, Any],
    now: float,
    version: int,
) -> None:
    same = {
        "task_id": assignment.task_id,
        "user_id": assignment.user_id,
        "version": version,
        "guidelines_version": assignment.guidelines_version,
        "created_at": now,
        **given,
    }
    for dimension, value in ranks.items():
        _INSERT.all(connection, {**same, "dimension": dimension, "ranks": value})


def legal_ranks(ranks: Sequence[int], count: int) -> Sequence[int]:
    """The ranks, if they are `count` whole numbers from 1 to `count`.

    Raises:
        Refused: they are not.
    """
    legal = (
        isinstance(ranks, (list, tuple))
        and len(ranks) == count
        and all(isinstance(rank, int) and not isinstance(rank, bool) and 1 <= rank <= count for rank in ranks)
    )
    if not legal:
        raise Refused(f"Every one of the {count} videos needs a place from 1 to {count}.")
    return ranks


def _checked(
    assignment: HeldAssignment,
    seconds: float,
    texts: Mapping[str, str],
    remark_videos: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    """Remarks of an answer beside its ranks, with the videos of remarks by their positions in the task."""
    if not 0 <= seconds < 1e7:
        raise Refused("The time spent on the task is not a sensible number of seconds.")
    for name, longest in (("comment", MAXIMUM_TEXT), ("flag", MAXIMUM_FLAG)):
        text = texts.get(name, "")
        if len(text) > longest or not is_storable(text):
            raise Refused(f"The {name} is longer than {longest} characters or holds a NUL character.")
    count, about = len(assignment.permutation), {}
    for kind, text in texts.items():
        chosen = (remark_videos or {}).get(kind)
        slots = named_videos(text, count) if chosen is None else chosen
        if not all(0 <= slot < count for slot in slots):
            raise Refused(f"A remark is about a video that is not there: the task has {count}.")
        if text and slots:
            about[kind] = sorted({assignment.permutation[slot] for slot in slots})
    return {
        "flag": "",
        "skip_reason": "",
        "tags": None,
        "seconds": seconds,
        **texts,
        "remark_videos": about or None,
    }
