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

from sqlalchemy import Select, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import Session

from labeling_app.dispatch import choose_task, why_nothing
from labeling_app.models import (
    Assignment,
    Campaign,
    Guidelines,
    Judgement,
    LibraryVideo,
    Media,
    Task,
    TaskVideo,
    Upload,
    User,
)
from labeling_app.progress import Progress as Progress
from labeling_app.progress import progress as progress
from labeling_app.store import Store, is_storable

MAXIMUM_TEXT = 10_000
MAXIMUM_FLAG = 200
MAXIMUM_ID = 2**31 - 1

UNFORESEEN = random.SystemRandom()

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
class _Held:
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
    guidelines_version: int


def next_task(
    store: Store,
    user: User,
    campaign: str | None = None,
    order: Callable[[Task], Sequence[int]] | None = None,
    draw: Callable[[], float] = UNFORESEEN.random,
) -> AssignedTask | None:
    """The task that the user works on, or a new one, or None when nothing is left for this user.

    Args:
        campaign: only tasks of this campaign; by default of all campaigns, oldest first.
        order: gives the permutation in which a task's videos are shown; by default a random one.
        draw: gives the number in [0, 1) that decides on gold items and repeats; by default a random one.
    """
    now = store.clock()
    only = store.campaign(campaign).id if campaign is not None else None
    with store.write() as session:
        # One window of a person at a time. SQLite ignores FOR UPDATE; there BEGIN IMMEDIATE does it for all.
        if session.get_bind().dialect.name != "sqlite":
            session.scalar(select(User.id).where(User.id == user.id).with_for_update(key_share=True))
        campaigns = {row.id: row for row in session.scalars(_campaigns(only))}
        found = session.execute(OPEN, {"user": user.id, "now": now, "campaigns": list(campaigns)}).first()
        expires_at = now + store.lease_seconds
        if found is not None:
            assignment_id, task_id, permutation, before = found
            expires_at = max(before, expires_at)
            _set_lease(session, assignment_id, now, expires_at)
            return _assigned(session, assignment_id, task_id, permutation, expires_at)
        for row in campaigns.values():
            task = choose_task(session, user.id, row, now, draw)
            if task is not None:
                return _assign(session, user, task, now, expires_at, order)
        return None


def reason_for_nothing(store: Store, user: User, campaign: str | None = None) -> str:
    """One sentence for an annotator to whom tasks are closed (daily limit, trial not passed), or empty."""
    only = store.campaign(campaign).id if campaign is not None else None
    with store.read() as session:
        reasons = [
            why_nothing(session, user.id, row, store.clock()) for row in session.scalars(_campaigns(only))
        ]
    return next((reason for reason in reasons if reason), "")


def renew(store: Store, user: User, assignment_id: int) -> float:
    """Extends the lease; returns when it ends.

    Raises:
        Refused: the assignment is not this user's.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    with store.write() as session:
        assignment = _require_open(session, user, assignment_id, store)
        expires_at = store.clock() + store.lease_seconds
        _set_lease(session, assignment.id, store.clock(), expires_at)
        return expires_at


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
        _store_ranks(session, assignment, ranks, seconds, (comment, flag), store.clock(), version=1)
        _close(session, assignment, "done")
        completed = assignment.completed + 1
        session.execute(
            update(Task)
            .where(Task.id == assignment.task_id)
            .values(
                completed=completed, filled=assignment.kind == "normal" and completed >= assignment.overlap
            )
        )
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
        versions = _versions(session, assignment)
        if versions[0].created_at + store.edit_seconds < store.clock():
            raise Refused("This answer is too old to be changed: tell the lead instead.")
        version = versions[-1].version + 1
        _store_ranks(session, assignment, ranks, seconds, (comment, flag), store.clock(), version)
        return version


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


def _versions(session: Session, assignment: Assignment | _Held) -> list[Judgement]:
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
    task = _assigned(
        session, assignment.id, assignment.task_id, assignment.permutation, assignment.expires_at
    )
    return Answered(task, ranks, newest[0].comment, newest[0].flag, answered_at=versions[0].created_at)


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
        given = {"seconds": seconds, "comment": comment, "flag": "", "skip_reason": reason}
        _add_judgements(session, assignment, dict.fromkeys(assignment.dimensions), given, store.clock(), 1)
        _close(session, assignment, "skipped")


def visible_media(store: Store, user: User, media_id: str) -> Media | None:
    """The video of this id if the user may see it: of a task that this person was ever given, an upload of the
    person's own, one to choose as a demonstration, or any for a lead."""
    if user.role != "annotator":
        with store.read() as session:
            return session.get(Media, media_id)
    given = (
        select(TaskVideo.media_id)
        .join(Assignment, Assignment.task_id == TaskVideo.task_id)
        .where(TaskVideo.media_id == media_id, Assignment.user_id == user.id)
    )
    own = select(Upload.media_id).where(Upload.media_id == media_id, Upload.user_id == user.id)
    library = select(LibraryVideo.media_id).where(LibraryVideo.media_id == media_id)
    with store.read() as session:
        return session.scalar(
            select(Media).where(Media.id == media_id, or_(given.exists(), own.exists(), library.exists()))
        )


def random_order(count: int) -> list[int]:
    """A permutation that nobody can foresee."""
    return UNFORESEEN.sample(range(count), count)


def dense_ranks(ranks: Sequence[int]) -> list[int]:
    """Ranks without gaps: 1, 3, 3, 4 becomes 1, 2, 2, 3."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return [places[rank] for rank in ranks]


OPEN = (
    select(Assignment.id, Assignment.task_id, Assignment.permutation, Assignment.expires_at)
    .join(Task, Task.id == Assignment.task_id)
    .where(
        Assignment.user_id == bindparam("user"),
        Assignment.state == "open",
        Assignment.expires_at > bindparam("now"),
        Task.campaign_id.in_(bindparam("campaigns", expanding=True)),
    )
    .order_by(Assignment.id)
    .limit(1)
)
HELD = (
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
        func.coalesce(
            select(func.max(Guidelines.version))
            .where(Guidelines.campaign_id == Task.campaign_id)
            .correlate(Task)
            .scalar_subquery(),
            0,
        ),
    )
    .join(Task, Task.id == Assignment.task_id)
    .join(Campaign, Campaign.id == Task.campaign_id)
    .where(Assignment.id == bindparam("assignment"), Assignment.user_id == bindparam("user"))
)
SHOWN = (
    select(Task.prompt, Campaign.name, Campaign.dimensions, Media)
    .join(Campaign, Campaign.id == Task.campaign_id)
    .join(TaskVideo, TaskVideo.task_id == Task.id)
    .join(Media, Media.id == TaskVideo.media_id)
    .where(Task.id == bindparam("task"))
    .order_by(TaskVideo.position)
)


def _campaigns(only: int | None) -> Select[Any]:
    query = select(Campaign).order_by(Campaign.id)
    return query if only is None else query.where(Campaign.id == only)


def _set_lease(
    session: Session, assignment_id: int, now: float, expires_at: float, new: bool = False
) -> None:
    values = {"expires_at": expires_at, **({"assigned_at": now} if new else {})}
    session.execute(update(Assignment).where(Assignment.id == assignment_id).values(**values))


def _close(session: Session, assignment: _Held, state: str) -> None:
    session.execute(update(Assignment).where(Assignment.id == assignment.id).values(state=state))


def _assign(
    session: Session,
    user: User,
    task_id: int,
    now: float,
    expires_at: float,
    order: Callable[[Task], Sequence[int]] | None,
) -> AssignedTask:
    lapsed = session.execute(
        select(Assignment.id, Assignment.permutation).where(
            Assignment.task_id == task_id, Assignment.user_id == user.id
        )
    ).first()
    if lapsed is not None:
        _set_lease(session, lapsed[0], now, expires_at, new=True)
        return _assigned(session, lapsed[0], task_id, lapsed[1], expires_at)
    rows = session.execute(SHOWN, {"task": task_id}).all()
    permutation = list(order(session.get_one(Task, task_id))) if order else random_order(len(rows))
    while permutation == _order_before(session, user, task_id) and len(permutation) > 1:
        permutation = random_order(len(rows))
    made = {
        "task_id": task_id,
        "user_id": user.id,
        "permutation": permutation,
        "state": "open",
        "assigned_at": now,
        "expires_at": expires_at,
    }
    assignment_id = session.scalar(insert(Assignment).values(**made).returning(Assignment.id))
    assert assignment_id is not None
    return _assigned(session, assignment_id, task_id, permutation, expires_at, rows)


def _order_before(session: Session, user: User, task_id: int) -> list[int] | None:
    """The order in which the user saw the videos of a task that this one repeats."""
    return session.scalar(
        select(Assignment.permutation)
        .join(Task, Task.copy_of == Assignment.task_id)
        .where(Task.id == task_id, Assignment.user_id == user.id)
    )


def _assigned(
    session: Session,
    assignment_id: int,
    task_id: int,
    permutation: Sequence[int],
    expires_at: float,
    rows: Sequence[Any] | None = None,
) -> AssignedTask:
    rows = rows or session.execute(SHOWN, {"task": task_id}).all()
    prompt, campaign, dimensions, _ = rows[0]
    return AssignedTask(
        assignment=assignment_id,
        task=task_id,
        campaign=campaign,
        prompt=prompt,
        dimensions=tuple(dimensions),
        videos=tuple(rows[position][3] for position in permutation),
        permutation=tuple(permutation),
        expires_at=expires_at,
    )


def _require_own(session: Session, user: User, assignment_id: int) -> _Held:
    known = {"assignment": assignment_id, "user": user.id}
    if assignment_id <= MAXIMUM_ID:
        if session.get_bind().dialect.name != "sqlite":
            # SQLite has the whole file locked. Elsewhere the task's row is the lock of everything about the task.
            task = select(Assignment.task_id).where(
                Assignment.id == assignment_id, Assignment.user_id == user.id
            )
            session.scalar(select(Task.id).where(Task.id == task.scalar_subquery()).with_for_update())
        found = session.execute(HELD, known).first()
        if found is not None:
            return _Held(*found)
    raise Refused("This task is not assigned to you.")


def _require_open(session: Session, user: User, assignment_id: int, store: Store) -> _Held:
    assignment = _require_own(session, user, assignment_id)
    if assignment.state != "open":
        raise AlreadyAnswered("You have answered this task already.")
    # Read after the lock was got: while it was waited for, the task may have gone to somebody else.
    if assignment.expires_at <= store.clock():
        raise LeaseExpired(LEASE_EXPIRED)
    return assignment


def _store_ranks(
    session: Session,
    assignment: _Held,
    ranks: Mapping[str, Sequence[int]],
    seconds: float,
    texts: tuple[str, str],
    now: float,
    version: int,
) -> None:
    comment, flag = texts
    _check_seconds_and_texts(seconds, comment, flag)
    if set(ranks) != set(assignment.dimensions):
        raise Refused(f"Ranks are needed for: {', '.join(assignment.dimensions)}.")
    stored: dict[str, list[int] | None] = {}
    for dimension in assignment.dimensions:
        shown = dense_ranks(legal_ranks(ranks[dimension], len(assignment.permutation)))
        in_task_order = [0] * len(shown)
        for place, position in enumerate(assignment.permutation):
            in_task_order[position] = shown[place]
        stored[dimension] = in_task_order
    given = {"seconds": seconds, "comment": comment, "flag": flag, "skip_reason": ""}
    _add_judgements(session, assignment, stored, given, now, version)


def _add_judgements(
    session: Session,
    assignment: _Held,
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
    session.execute(
        insert(Judgement),
        [{**same, "dimension": dimension, "ranks": value} for dimension, value in ranks.items()],
    )


def legal_ranks(ranks: Sequence[int], count: int) -> Sequence[int]:
    """The ranks, if they are `count` places from 1 to `count`.

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


def _check_seconds_and_texts(seconds: float, comment: str, flag: str) -> None:
    if not 0 <= seconds < 1e7:
        raise Refused("The time spent on the task is not a sensible number of seconds.")
    for name, given, longest in (("comment", comment, MAXIMUM_TEXT), ("flag", flag, MAXIMUM_FLAG)):
        if len(given) > longest or not is_storable(given):
            raise Refused(f"The {name} is longer than {longest} characters or holds a NUL character.")
