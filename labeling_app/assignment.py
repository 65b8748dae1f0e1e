"""Who judges what: giving out tasks, keeping leases, taking answers.

Each task is judged by at most `campaign.overlap` different annotators. A task that is given out holds a place
until it is answered, skipped or its lease runs out. A skipped task frees its place, but never returns to the
same person.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from labeling_app.models import Assignment, Campaign, Judgement, Media, Task, TaskVideo, User
from labeling_app.store import Store, is_storable

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
    """What an annotator sees of a task.

    Attributes:
        assignment: id of the assignment, which answers name.
        task: id of the task.
        videos: the videos in the order shown.
        permutation: `permutation[i]` is the task's position of the video shown at place i.
        expires_at: when the lease ends, seconds since the epoch.
    """

    assignment: int
    task: int
    campaign: str
    prompt: str
    dimensions: tuple[str, ...]
    videos: tuple[Media, ...]
    permutation: tuple[int, ...]
    expires_at: float


@dataclass(frozen=True)
class Answered:
    """An answer that may still be changed.

    Attributes:
        ranks: for each dimension the newest ranks, in the order in which the videos were shown.
        answered_at: when the first version was given, seconds since the epoch.
    """

    task: AssignedTask
    ranks: dict[str, list[int]]
    comment: str
    flag: str
    answered_at: float


@dataclass(frozen=True)
class Progress:
    """How far an annotator is: tasks judged or skipped, and tasks that are still there for this person."""

    done: int
    left: int


def next_task(
    store: Store,
    user: User,
    campaign: str | None = None,
    order: Callable[[Task], Sequence[int]] | None = None,
) -> AssignedTask | None:
    """The task that the user works on, or a new one, or None when nothing is left for this user.

    Args:
        campaign: only tasks of this campaign; by default of all campaigns, oldest first.
        order: gives the permutation in which a task's videos are shown; by default a random one.
    """
    now = store.clock()
    only = store.campaign(campaign).id if campaign is not None else None
    with store.write() as session:
        campaigns = _lock_campaigns(session, only)
        assignment = _open_assignment(session, user, [row.id for row in campaigns], now)
        for row in campaigns:
            if assignment is None:
                assignment = _claim(session, user, row, now, store.lease_seconds, order or random_order)
        if assignment is None:
            return None
        assignment.expires_at = max(assignment.expires_at, now + store.lease_seconds)
        session.flush()
        return _assigned(assignment)


def renew(store: Store, user: User, assignment_id: int) -> float:
    """Extends the lease; returns when it ends.

    Raises:
        Refused: the assignment is not this user's.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    with store.write() as session:
        assignment = _require_open(session, user, assignment_id, store)
        assignment.expires_at = store.clock() + store.lease_seconds
        return assignment.expires_at


def submit(
    store: Store,
    user: User,
    assignment_id: int,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    comment: str = "",
    flag: str = "",
) -> int:
    """Stores an answer and returns its version, which is 1.

    Args:
        ranks: for each of the campaign's dimensions the ranks of the videos in the order shown, 1 is best,
            equal ranks are ties. They are stored in the task's order and without gaps.
        seconds: how long the annotator worked.
        flag: why a lead should look at the task, or empty.

    Raises:
        Refused: the assignment is not this user's, or the ranks, the seconds or a text are illegal.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    with store.write() as session:
        assignment = _require_open(session, user, assignment_id, store)
        _store_ranks(session, assignment, ranks, seconds, (comment, flag), store.clock())
        assignment.state = "done"
        assignment.task.completed += 1
        return 1


def revise(
    store: Store,
    user: User,
    assignment_id: int,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    comment: str = "",
    flag: str = "",
) -> int:
    """Stores a changed answer as the next version, which it returns; the earlier ones stay.

    Raises:
        Refused: the assignment is not this user's or has no answer yet, the first answer is older than
            `store.edit_seconds`, or the new answer is illegal.
    """
    with store.write() as session:
        assignment = _require_own(session, user, assignment_id)
        if assignment.state != "done":
            raise Refused("Only a task that you have ranked can be changed.")
        first = _versions(session, assignment)[0]
        if first.created_at + store.edit_seconds < store.clock():
            raise Refused("This answer is too old to be changed: tell the lead instead.")
        return _store_ranks(session, assignment, ranks, seconds, (comment, flag), store.clock())


def recent_answers(store: Store, user: User, limit: int = 20) -> list[Answered]:
    """The user's answers that may still be changed, the latest first."""
    since = store.clock() - store.edit_seconds
    with store.read() as session:
        latest = (
            select(Judgement.task_id)
            .where(
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


def _versions(session: Session, assignment: Assignment) -> list[Judgement]:
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
    return Answered(
        _assigned(assignment), ranks, newest[0].comment, newest[0].flag, answered_at=versions[0].created_at
    )


def skip(
    store: Store, user: User, assignment_id: int, reason: str, seconds: float, comment: str = ""
) -> None:
    """Gives a task back for good, with a reason.

    Raises:
        Refused: the assignment is not this user's or the reason is empty or too long.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    reason = reason.strip()
    if not reason or len(reason) > MAXIMUM_TEXT or not is_storable(reason):
        raise Refused(f"A skipped task needs a reason of 1 to {MAXIMUM_TEXT} characters.")
    with store.write() as session:
        assignment = _require_open(session, user, assignment_id, store)
        _check_seconds_and_texts(seconds, comment, "")
        for dimension in assignment.task.campaign.dimensions:
            session.add(
                Judgement(
                    task_id=assignment.task_id,
                    user_id=user.id,
                    dimension=dimension,
                    version=1,
                    ranks=None,
                    seconds=seconds,
                    comment=comment,
                    skip_reason=reason,
                    created_at=store.clock(),
                )
            )
        assignment.state = "skipped"


def progress(store: Store, user: User, campaign: str | None = None) -> Progress:
    """How many tasks the user has answered or skipped, and how many are left for this user."""
    now = store.clock()
    only = store.campaign(campaign).id if campaign is not None else None
    with store.read() as session:
        finished = (
            select(func.count())
            .select_from(Assignment)
            .join(Task, Task.id == Assignment.task_id)
            .where(Assignment.user_id == user.id, Assignment.state != "open")
        )
        if only is not None:
            finished = finished.where(Task.campaign_id == only)
        done = session.scalar(finished) or 0
        left = 0
        for row in session.scalars(_campaigns(only)):
            free = select(func.count()).select_from(Task).where(*_free_for(user, row, now))
            left += session.scalar(free) or 0
    return Progress(done=done, left=left)


def visible_media(store: Store, user: User, media_id: str) -> Media | None:
    """The video of this id if it belongs to a task that the user was ever given."""
    with store.read() as session:
        return session.scalar(
            select(Media)
            .join(TaskVideo, TaskVideo.media_id == Media.id)
            .join(Assignment, Assignment.task_id == TaskVideo.task_id)
            .where(Media.id == media_id, Assignment.user_id == user.id)
            .limit(1)
        )


def random_order(task: Task) -> list[int]:
    """A permutation that nobody can foresee."""
    return random.SystemRandom().sample(range(len(task.videos)), len(task.videos))


def dense_ranks(ranks: Sequence[int]) -> list[int]:
    """Ranks without gaps: 1, 3, 3, 4 becomes 1, 2, 2, 3."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return [places[rank] for rank in ranks]


def _campaigns(only: int | None) -> Select[Any]:
    query = select(Campaign).order_by(Campaign.id)
    return query if only is None else query.where(Campaign.id == only)


def _lock_campaigns(session: Session, only: int | None) -> list[Campaign]:
    # SQLite ignores FOR UPDATE; there BEGIN IMMEDIATE does the same for the whole file.
    return list(session.scalars(_campaigns(only).with_for_update()))


def _open_assignment(session: Session, user: User, campaign_ids: list[int], now: float) -> Assignment | None:
    return session.scalar(
        select(Assignment)
        .join(Task, Task.id == Assignment.task_id)
        .where(
            Assignment.user_id == user.id,
            Assignment.state == "open",
            Assignment.expires_at > now,
            Task.campaign_id.in_(campaign_ids),
        )
        .order_by(Assignment.id)
        .limit(1)
    )


def _free_for(user: User, campaign: Campaign, now: float) -> list[ColumnElement[bool]]:
    """Conditions on `Task`: room for one more annotator, and not answered or skipped by this user."""
    others, own = aliased(Assignment), aliased(Assignment)
    held = (
        select(func.count())
        .select_from(others)
        .where(
            others.task_id == Task.id,
            others.state == "open",
            others.expires_at > now,
            others.user_id != user.id,
        )
        .correlate(Task)
        .scalar_subquery()
    )
    finished = (
        select(own.id)
        .where(own.task_id == Task.id, own.user_id == user.id, own.state != "open")
        .correlate(Task)
        .exists()
    )
    return [
        Task.campaign_id == campaign.id,
        Task.completed < campaign.overlap,
        Task.completed + held < campaign.overlap,
        ~finished,
    ]


def _lock_free_task(session: Session, user: User, campaign: Campaign, now: float) -> Task | None:
    """A task with room, locked, so that no answer or renewal can fill it before this transaction ends."""
    while True:
        free = select(Task).where(*_free_for(user, campaign, now)).order_by(Task.id).limit(1)
        task = session.scalar(free)
        if task is None or session.get_bind().dialect.name == "sqlite":
            return task
        session.refresh(task, with_for_update={"of": Task})
        # What was waited for may have filled it: only what is seen under the lock counts.
        if session.scalar(select(Task.id).where(Task.id == task.id, *_free_for(user, campaign, now))):
            return task


def _claim(
    session: Session,
    user: User,
    campaign: Campaign,
    now: float,
    lease_seconds: float,
    order: Callable[[Task], Sequence[int]],
) -> Assignment | None:
    task = _lock_free_task(session, user, campaign, now)
    if task is None:
        return None
    lapsed = session.scalar(
        select(Assignment).where(Assignment.task_id == task.id, Assignment.user_id == user.id)
    )
    if lapsed is not None:
        lapsed.assigned_at, lapsed.expires_at = now, now + lease_seconds
        return lapsed
    assignment = Assignment(
        task_id=task.id,
        user_id=user.id,
        permutation=list(order(task)),
        state="open",
        assigned_at=now,
        expires_at=now + lease_seconds,
    )
    assignment.task = task
    session.add(assignment)
    return assignment


def _assigned(assignment: Assignment) -> AssignedTask:
    task = assignment.task
    return AssignedTask(
        assignment=assignment.id,
        task=task.id,
        campaign=task.campaign.name,
        prompt=task.prompt,
        dimensions=tuple(task.campaign.dimensions),
        videos=tuple(task.videos[position].media for position in assignment.permutation),
        permutation=tuple(assignment.permutation),
        expires_at=assignment.expires_at,
    )


def _require_own(session: Session, user: User, assignment_id: int) -> Assignment:
    own = (Assignment.id == assignment_id, Assignment.user_id == user.id)
    if (
        assignment_id > MAXIMUM_ID
        or (task_id := session.scalar(select(Assignment.task_id).where(*own))) is None
    ):
        raise Refused("This task is not assigned to you.")
    # SQLite has the whole file locked. Elsewhere the task's row is the lock of everything about the task.
    session.scalar(select(Task.id).where(Task.id == task_id).with_for_update())
    return (
        session.scalars(select(Assignment).where(*own).execution_options(populate_existing=True))
        .unique()
        .one()
    )


def _require_open(session: Session, user: User, assignment_id: int, store: Store) -> Assignment:
    assignment = _require_own(session, user, assignment_id)
    if assignment.state != "open":
        raise AlreadyAnswered("You have answered this task already.")
    # Read after the lock was got: while it was waited for, the task may have gone to somebody else.
    if assignment.expires_at <= store.clock():
        raise LeaseExpired(LEASE_EXPIRED)
    return assignment


def _store_ranks(
    session: Session,
    assignment: Assignment,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    texts: tuple[str, str],
    now: float,
) -> int:
    task = assignment.task
    comment, flag = texts
    _check_seconds_and_texts(seconds, comment, flag)
    if set(ranks) != set(task.campaign.dimensions):
        raise Refused(f"Ranks are needed for: {', '.join(task.campaign.dimensions)}.")
    version = 1 + (
        session.scalar(
            select(func.max(Judgement.version)).where(
                Judgement.task_id == task.id, Judgement.user_id == assignment.user_id
            )
        )
        or 0
    )
    for dimension in task.campaign.dimensions:
        shown = dense_ranks(_legal_ranks(ranks[dimension], len(task.videos)))
        in_task_order = [0] * len(shown)
        for place, position in enumerate(assignment.permutation):
            in_task_order[position] = shown[place]
        session.add(
            Judgement(
                task_id=task.id,
                user_id=assignment.user_id,
                dimension=dimension,
                version=version,
                ranks=in_task_order,
                seconds=seconds,
                comment=comment,
                flag=flag,
                created_at=now,
            )
        )
    return version


def _legal_ranks(ranks: Sequence[int], count: int) -> Sequence[int]:
    legal = (
        isinstance(ranks, (list, tuple))
        and len(ranks) == count
        and all(isinstance(rank, int) and not isinstance(rank, bool) and 1 <= rank <= count for rank in ranks)
    )
    if not legal:
        raise Refused(f"Every one of the {count} videos needs a place from 1 to {count}.")
    return ranks


def _check_seconds_and_texts(seconds: float, comment: str, flag: str) -> None:
    if not 0 <= seconds < 1e7:
        raise Refused("The time spent on the task is not a sensible number of seconds.")
    for name, given, longest in (("comment", comment, MAXIMUM_TEXT), ("flag", flag, MAXIMUM_FLAG)):
        if len(given) > longest or not is_storable(given):
            raise Refused(f"The {name} is longer than {longest} characters or holds a NUL character.")
