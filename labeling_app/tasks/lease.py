"""A task in the hands of an annotator: what is seen of it, who may answer it, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Connection, Table, bindparam, func, select, update

from generator.output import is_storable
from labeling_app.store.integration_tables import Webhook
from labeling_app.store.prepared import Prepared
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
    """An assignment as far as an answer needs it.

    Attributes:
        webhooks: True where any program is told of events.
    """

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
    webhooks: bool


_ASSIGNMENTS, _TASKS = cast(Table, Assignment.__table__), cast(Table, Task.__table__)
HELD = Prepared(
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
        select(Webhook.id).exists(),
    )
    .join(Task, Task.id == Assignment.task_id)
    .join(Campaign, Campaign.id == Task.campaign_id)
    .where(Assignment.token == bindparam("assignment"), Assignment.user_id == bindparam("user"))
    # SQLite has the whole file locked. Elsewhere the task's row is the lock of everything about the task; of locked
    # rows what is read is the newest, also after a wait.
    .with_for_update(of=[Task, Assignment])
)


_SET_LEASE = Prepared(
    update(_ASSIGNMENTS)
    .where(_ASSIGNMENTS.c.id == bindparam("assignment"))
    .values(expires_at=bindparam("lease_end"))
)
_CLOSING = (
    update(_ASSIGNMENTS)
    .where(_ASSIGNMENTS.c.id == bindparam("assignment"))
    .values(state=bindparam("new_state"))
)
_COUNTING = (
    update(_TASKS)
    .where(_TASKS.c.id == bindparam("task"))
    .values(completed=bindparam("number"), filled=bindparam("full"))
)
_CLOSE, _COUNT = Prepared(_CLOSING), Prepared(_COUNTING)
_CLOSE_AND_COUNT = Prepared(_COUNTING.add_cte(_CLOSING.returning(_ASSIGNMENTS.c.id).cte("closed")))
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


def require_own(connection: Connection, user: User, token: str) -> HeldAssignment:
    if is_storable(token):
        found = HELD.first(connection, {"assignment": token, "user": user.id})
        if found is not None:
            return HeldAssignment(*found)
    raise Refused("This task is not assigned to you.")


def require_open(connection: Connection, user: User, token: str, store: Store) -> HeldAssignment:
    assignment = require_own(connection, user, token)
    if assignment.state != "open":
        raise AlreadyAnswered("You have answered this task already.")
    # Read after the lock was got: while it was waited for, the task may have gone to somebody else.
    if assignment.expires_at <= store.clock():
        raise LeaseExpired(LEASE_EXPIRED)
    return assignment


def set_lease(connection: Connection, assignment_id: int, expires_at: float) -> None:
    _SET_LEASE.all(connection, {"assignment": assignment_id, "lease_end": expires_at})


def close_assignment(connection: Connection, assignment: HeldAssignment, state: str) -> None:
    """Ends an assignment; one that is done counts for its task."""
    closing = {"assignment": assignment.id, "new_state": state}
    if state != "done":
        _CLOSE.all(connection, closing)
        return
    completed = assignment.completed + 1
    filled = assignment.kind == "normal" and completed >= assignment.overlap
    counting = {"task": assignment.task_id, "number": completed, "full": filled}
    if connection.dialect.name == "sqlite":
        _CLOSE.all(connection, closing)
        _COUNT.all(connection, counting)
    else:
        _CLOSE_AND_COUNT.all(connection, {**closing, **counting})
