"""A task in the hands of an annotator: what is seen of it, who may answer it, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Select, Table, bindparam, func, select, update
from sqlalchemy.orm import Session

from generator.output import is_storable
from labeling_app.store.store import Store
from labeling_app.store.tables import Acknowledgement, Assignment, Campaign, Guidelines, Task, User
from labeling_app.tasks.queue import Candidate, ShownVideo

MAXIMUM_TEXT = 10_000
MAXIMUM_FLAG = 200
MAXIMUM_ID = 2**31 - 1
LEASE_EXPIRED = "Your time for this task ran out, so it was given back and your answer was not saved."


class Refused(Exception):
    """An answer or request that the rules do not allow. The message is one sentence for the annotator."""


class LeaseExpired(Refused):
    """The task was given back because nothing was heard for longer than the lease."""


class AlreadyAnswered(Refused):
    """This task has this annotator's answer already."""


@dataclass(frozen=True)
class AssignedTask:
    """Task as an annotator sees it.

    Attributes:
        assignment: token of the assignment, which answers name.
        task: id of the task.
        tags: reasons that may be given for each video.
        videos: the videos in the order shown.
        permutation: `permutation[i]` is the task's position of the video in slot i.
        expires_at: when the lease ends, seconds since the epoch.
        image, last_image: True where the task says what videos begin and end with.
    """

    assignment: str
    task: int
    campaign: str
    prompt: str
    dimensions: tuple[str, ...]
    tags: tuple[str, ...]
    videos: tuple[ShownVideo, ...]
    permutation: tuple[int, ...]
    expires_at: float
    image: bool = False
    last_image: bool = False


@dataclass(frozen=True)
class HeldAssignment:
    """An assignment as far as an answer needs it."""

    id: int
    task_id: int
    user_id: int
    permutation: list[int]
    state: str
    expires_at: float
    kind: str
    completed: int
    overlap: int
    dimensions: list[str]
    tags: list[str]
    campaign_state: str
    guidelines_version: int


_ASSIGNMENTS, _TASKS = cast(Table, Assignment.__table__), cast(Table, Task.__table__)
HELD: Select[*tuple[Any, ...]] = (
    select(
        Assignment.id,
        Assignment.task_id,
        Assignment.user_id,
        Assignment.permutation,
        Assignment.state,
        Assignment.expires_at,
        Task.kind,
        Task.completed,
        Campaign.overlap,
        Campaign.dimensions,
        Campaign.tags,
        Campaign.state,
        func.coalesce(
            select(func.max(Acknowledgement.version))
            .where(
                Acknowledgement.campaign_id == Task.campaign_id,
                Acknowledgement.user_id == Assignment.user_id,
            )
            .correlate(Task, Assignment)
            .scalar_subquery(),
            select(func.max(Guidelines.version))
            .where(Guidelines.campaign_id == Task.campaign_id)
            .correlate(Task)
            .scalar_subquery(),
            0,
        ),
    )
    .join(Task, Task.id == Assignment.task_id)
    .join(Campaign, Campaign.id == Task.campaign_id)
    .where(Assignment.token == bindparam("assignment"), Assignment.user_id == bindparam("user"))
    # SQLite has the whole file locked. Elsewhere the task's row is the lock of everything about the task; of locked
    # rows what is read is the newest, also after a wait.
    .with_for_update(of=[Task, Assignment])
)


_CLOSE = (
    update(_ASSIGNMENTS)
    .where(_ASSIGNMENTS.c.id == bindparam("assignment"))
    .values(state=bindparam("new_state"))
)
_COUNT = (
    update(_TASKS)
    .where(_TASKS.c.id == bindparam("task"))
    .values(completed=bindparam("number"), filled=bindparam("full"))
)
_CLOSE_AND_COUNT = _COUNT.add_cte(_CLOSE.returning(_ASSIGNMENTS.c.id).cte("closed"))
"""Both in one statement, which SQLite does not know."""


def assigned_task(
    token: str, candidate: Candidate, permutation: Sequence[int], expires_at: float
) -> AssignedTask:
    return AssignedTask(
        assignment=token,
        task=candidate.task,
        campaign=candidate.campaign,
        prompt=candidate.prompt,
        dimensions=candidate.dimensions,
        tags=candidate.tags,
        videos=tuple(candidate.videos[position] for position in permutation),
        permutation=tuple(permutation),
        expires_at=expires_at,
        image=candidate.image,
        last_image=candidate.last_image,
    )


def require_own(session: Session, user: User, token: str) -> HeldAssignment:
    if is_storable(token):
        found = session.execute(HELD, {"assignment": token, "user": user.id}).first()
        if found is not None:
            return HeldAssignment(*found)
    raise Refused("This task is not assigned to you.")


def require_open(session: Session, user: User, token: str, store: Store) -> HeldAssignment:
    assignment = require_own(session, user, token)
    if assignment.state != "open":
        raise AlreadyAnswered("You have answered this task already.")
    # Read after the lock was got: while it was waited for, the task may have gone to somebody else.
    if assignment.expires_at <= store.clock():
        raise LeaseExpired(LEASE_EXPIRED)
    return assignment


def set_lease(session: Session, assignment_id: int, now: float, expires_at: float, new: bool = False) -> None:
    values = {"expires_at": expires_at, **({"assigned_at": now} if new else {})}
    session.execute(update(Assignment).where(Assignment.id == assignment_id).values(**values))


def close_assignment(session: Session, assignment: HeldAssignment, state: str) -> None:
    """Ends an assignment; one that is done counts for its task."""
    closing = {"assignment": assignment.id, "new_state": state}
    if state != "done":
        session.execute(_CLOSE, closing)
        return
    completed = assignment.completed + 1
    filled = assignment.kind == "normal" and completed >= assignment.overlap
    counting = {"task": assignment.task_id, "number": completed, "full": filled}
    if session.get_bind().dialect.name == "sqlite":
        session.execute(_CLOSE, closing)
        session.execute(_COUNT, counting)
    else:
        session.execute(_CLOSE_AND_COUNT, {**closing, **counting})
