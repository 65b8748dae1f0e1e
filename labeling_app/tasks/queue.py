"""The queue of tasks with room: the first one for a user, and the assignment of it, in two statements.

Everything here runs inside the caller's writing transaction. On PostgreSQL each statement is a round trip, during
which other annotators wait for rows and connections; so one statement finds, locks and shows a task, and one more
assigns it if there is still room under the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    JSON,
    Connection,
    Float,
    Integer,
    Select,
    String,
    Table,
    bindparam,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql import false

from labeling_app.store.prepared import Prepared
from labeling_app.store.tables import Assignment, Campaign, Media, Task, TaskVideo, new_token


class GivenCampaign(NamedTuple):
    """A campaign as far as giving out its tasks needs it; the rules are those of `Campaign`.

    Attributes:
        is_assigned: the user may work on it (`labeling_app.people.groups.may_work_on`).
        guidelines, read: versions of its guidelines, the newest and the one that the user has acknowledged last.
    """

    id: int
    name: str
    state: str
    overlap: int
    gold_share: float
    repeat_share: float
    daily_cap: int
    quiz_size: int
    quiz_pass: float
    is_assigned: bool
    guidelines: int | None
    read: int | None

    @property
    def is_unread(self) -> bool:
        """True where it has guidelines whose newest version the user has not acknowledged."""
        return self.guidelines is not None and self.guidelines != self.read

    @property
    def mixes_checks(self) -> bool:
        """True where it mixes in gold items or repeats."""
        return self.gold_share > 0 or self.repeat_share > 0 or self.quiz_size > 0


def tasks_sharing_videos(kind: str, campaign: Any, user: Any) -> Select[Any]:
    """Ids of tasks that have a video, by its contents, of one of a kind that the user was given in a campaign."""
    other, given = aliased(Task), aliased(Assignment)
    here, there = aliased(TaskVideo), aliased(TaskVideo)
    shown, same = aliased(Media), aliased(Media)
    return (
        select(here.task_id)
        .select_from(given)
        .join(other, other.id == given.task_id)
        .join(there, there.task_id == other.id)
        .join(same, same.id == there.media_id)
        .join(shown, shown.sha256 == same.sha256)
        .join(here, here.media_id == shown.id)
        .where(other.campaign_id == campaign, other.kind == kind, given.user_id == user)
    )


def _free_tasks() -> Select[Any]:
    """Ids of tasks with room for one more, not answered or skipped by this user, oldest first; none with a video that
    this user saw in a gold item.

    Parameters: campaign, overlap, user, now. The index of the queue gives them in order, so that the search ends
    at the first.
    """
    others, own = aliased(Assignment), aliased(Assignment)
    held = (
        select(func.count())
        .select_from(others)
        .where(
            others.task_id == Task.id,
            others.state == "open",
            others.expires_at > bindparam("now"),
            others.user_id != bindparam("user"),
        )
        .correlate(Task)
        .scalar_subquery()
    )
    finished = (
        select(own.id)
        .where(own.task_id == Task.id, own.user_id == bindparam("user"), own.state != "open")
        .correlate(Task)
        .exists()
    )
    return (
        select(Task.id)
        .where(
            Task.campaign_id == bindparam("campaign"),
            Task.kind == "normal",
            Task.filled == false(),
            Task.completed + held < bindparam("overlap"),
            ~finished,
            # Found once a query: few gold items are given, and to most people none.
            Task.id.not_in(tasks_sharing_videos("gold", bindparam("campaign"), bindparam("user"))),
        )
        .order_by(Task.id)
        .limit(1)
    )


def _shown(task: Any) -> Any:
    """Selects what a user sees of a task, a row for each of its videos, and the user's lapsed assignment to it."""
    lapsed = aliased(Assignment)
    return (
        select(
            Task.id,
            Task.prompt,
            Campaign.name,
            Campaign.dimensions,
            Campaign.tags,
            Task.copy_of,
            Task.image_id,
            Task.last_image_id,
            lapsed.id,
            lapsed.permutation,
            Media.id,
            Media.fps,
            Media.width,
            Media.height,
        )
        .join(Campaign, Campaign.id == Task.campaign_id)
        .join(TaskVideo, TaskVideo.task_id == Task.id)
        .join(Media, Media.id == TaskVideo.media_id)
        .outerjoin(lapsed, (lapsed.task_id == Task.id) & (lapsed.user_id == bindparam("user")))
        .where(Task.id == task)
        .order_by(TaskVideo.position)
    )


_FREE = _free_tasks()
_STILL_FREE = _FREE.where(Task.id == bindparam("task")).limit(None).order_by(None)
_UNLOCKED = _FREE.with_for_update(of=Task, skip_locked=True).cte("unlocked")
_FIRST_UNLOCKED = Prepared(_shown(select(_UNLOCKED.c.id).scalar_subquery()))
_FIRST = Prepared(_shown(_FREE.scalar_subquery()))
_THIS = Prepared(_shown(bindparam("task")))
_LOCK = Prepared(select(Task.id).where(Task.id == bindparam("task")).with_for_update())
_NEW: dict[str, Any] = {
    "task_id": bindparam("task", type_=Integer),
    "user_id": bindparam("user", type_=Integer),
    "token": bindparam("token", type_=String),
    "permutation": bindparam("permutation", type_=JSON),
    "state": literal("open", String),
    "assigned_at": bindparam("now", type_=Float),
    "expires_at": bindparam("lease_end", type_=Float),
}
_ASSIGNMENTS = cast(Table, Assignment.__table__)
_ASSIGN = Prepared(
    insert(_ASSIGNMENTS).from_select(list(_NEW), select(*_NEW.values())).returning(_ASSIGNMENTS.c.token)
)
_ASSIGN_IF_FREE = Prepared(
    insert(_ASSIGNMENTS)
    .from_select(list(_NEW), select(*_NEW.values()).where(_STILL_FREE.exists()))
    .returning(_ASSIGNMENTS.c.token)
)
_ASSIGN_AGAIN = (
    update(_ASSIGNMENTS)
    .where(_ASSIGNMENTS.c.task_id == bindparam("task"), _ASSIGNMENTS.c.user_id == bindparam("user"))
    .values(assigned_at=bindparam("now"), expires_at=bindparam("lease_end"))
    .returning(_ASSIGNMENTS.c.token)
)
_AGAIN = Prepared(_ASSIGN_AGAIN)
_AGAIN_IF_FREE = Prepared(_ASSIGN_AGAIN.where(_STILL_FREE.exists()))


@dataclass(frozen=True)
class ShownVideo:
    """A video as far as a ranking page needs it."""

    id: str
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Candidate:
    """A task that a user may get.

    Attributes:
        free: a task of the queue, which must still have room when it is assigned; hidden checks always have.
        tags: reasons that may be given for each video.
        copy_of: the task that it repeats, if any.
        lapsed: the order in which the user saw its videos before the lease ran out, if so.
        videos: in the task's order.
        image, last_image: True where the task says what videos begin and end with.
    """

    task: int
    free: bool
    prompt: str
    campaign: str
    dimensions: tuple[str, ...]
    tags: tuple[str, ...]
    copy_of: int | None
    lapsed: list[int] | None
    videos: tuple[ShownVideo, ...]
    image: bool = False
    last_image: bool = False


def first_free(connection: Connection, user_id: int, campaign: GivenCampaign, now: float) -> Candidate | None:
    """The first task with room, locked, so that no answer or renewal can fill it before this transaction ends."""
    known = {"campaign": campaign.id, "overlap": campaign.overlap, "user": user_id, "now": now}
    if connection.dialect.name == "sqlite":
        return _candidate(_FIRST.all(connection, known), free=True)
    # Tasks that others are just taking are passed over; only if there are no others they are waited for.
    found = _candidate(_FIRST_UNLOCKED.all(connection, known), free=True)
    if found is None:
        found = _candidate(_FIRST.all(connection, known), free=True)
        if found is not None:
            _LOCK.all(connection, {"task": found.task})
    return found


def this_task(connection: Connection, user_id: int, task_id: int) -> Candidate:
    """A task that this user gets whether or not it has room."""
    found = _candidate(_THIS.all(connection, {"task": task_id, "user": user_id}), free=False)
    assert found is not None
    return found


def assign(
    connection: Connection,
    user_id: int,
    campaign: GivenCampaign,
    candidate: Candidate,
    permutation: Sequence[int],
    now: float,
    expires_at: float,
) -> str | None:
    """The token of the user's assignment to the task; None where it lost its room before it was locked."""
    known: dict[str, Any] = {"task": candidate.task, "user": user_id, "now": now, "lease_end": expires_at}
    if candidate.free:
        known |= {"campaign": campaign.id, "overlap": campaign.overlap}
    token: str | None
    if candidate.lapsed is not None:
        token = (_AGAIN_IF_FREE if candidate.free else _AGAIN).scalar(connection, known)
    else:
        known |= {"permutation": list(permutation), "token": new_token()}
        token = (_ASSIGN_IF_FREE if candidate.free else _ASSIGN).scalar(connection, known)
    return token


def _candidate(rows: Sequence[Any], free: bool) -> Candidate | None:
    if not rows:
        return None
    task, prompt, campaign, dimensions, tags, copy_of, image, last_image, lapsed, permutation = rows[0][:10]
    return Candidate(
        task=task,
        free=free,
        prompt=prompt,
        campaign=campaign,
        dimensions=tuple(dimensions),
        tags=tuple(tags),
        copy_of=copy_of,
        lapsed=permutation if lapsed is not None else None,
        videos=tuple(ShownVideo(*row[10:]) for row in rows),
        image=image is not None,
        last_image=last_image is not None,
    )
