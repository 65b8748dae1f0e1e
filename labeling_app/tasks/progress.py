"""Progress of an annotator, in one query that indexes answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from sqlalchemy import Connection, Integer, bindparam, func, select
from sqlalchemy.sql import false

from labeling_app.people.groups import may_work_on
from labeling_app.store.prepared import Direct, Prepared
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Campaign, Task, User


@dataclass(frozen=True)
class Progress:
    """Progress of an annotator.

    Attributes:
        done: tasks judged or skipped, gold items and repeats among them.
        left: tasks that are still there for this person; None where a campaign mixes in gold items or repeats,
            which the number would give away.
    """

    done: int
    left: int | None


def _given_out(one_campaign: bool) -> Prepared:
    """Ids of the campaigns that the user gets tasks of, and whether each mixes in gold items or repeats."""
    mixes = (Campaign.gold_share > 0) | (Campaign.repeat_share > 0) | (Campaign.quiz_size > 0)
    query = select(Campaign.id, mixes).where(Campaign.state == "open", may_work_on(bindparam("user")))
    return Prepared(query.where(Campaign.id == bindparam("campaign")) if one_campaign else query)


@cache
def _progress_query(one_campaign: bool, given_out: int) -> Prepared:
    """Counts that indexes answer: what this user has finished; tasks with room; those of them that this user has
    finished, and those that others hold so that there is no room.

    Args:
        given_out: number of campaigns with tasks for the user: parameters `given_0`, `given_1`, …
    """
    given = [bindparam(f"given_{number}", type_=Integer) for number in range(given_out)]
    of_campaign = [Task.campaign_id == bindparam("campaign")] if one_campaign else []
    has_room = [
        Task.kind == "normal",
        Task.filled == false(),
        Task.campaign_id.in_(given) if given else false(),
    ]
    finished = (
        select(func.count(Assignment.id))
        .join(Task, Task.id == Assignment.task_id)
        .where(Assignment.user_id == bindparam("user"), Assignment.state != "open")
    )
    own = (
        select(Assignment.task_id)
        .where(Assignment.user_id == bindparam("user"), Assignment.state != "open")
        .scalar_subquery()
    )
    of_others = (
        select(Assignment.task_id, func.count().label("held"))
        .where(
            Assignment.state == "open",
            Assignment.expires_at > bindparam("now"),
            Assignment.user_id != bindparam("user"),
        )
        .group_by(Assignment.task_id)
        .subquery()
    )
    # A number and no join: with statistics of a minute ago PostgreSQL would go through them for every task.
    is_full = (
        select(func.count(Task.id))
        .join(Campaign, Campaign.id == Task.campaign_id)
        .where(
            Task.id == of_others.c.task_id,
            Task.completed + of_others.c.held >= Campaign.overlap,
            Task.id.not_in(own),
            *has_room,
        )
        .correlate(of_others)
        .scalar_subquery()
    )
    full = select(func.count()).select_from(of_others).where(is_full > 0)
    counts = select(
        finished.where(*of_campaign).scalar_subquery(),
        select(func.count(Task.id)).where(*has_room).scalar_subquery(),
        finished.where(*has_room).scalar_subquery(),
        full.scalar_subquery(),
    )
    return Prepared(counts)


# Asked first: as a part of the counts PostgreSQL asks it for every task.
_GIVEN_OUT = {one: _given_out(one) for one in (False, True)}


def progress(store: Store, user: User, campaign: str | None = None) -> Progress:
    """Number of tasks that the user has answered or skipped, and of those that are left for this user."""
    only = store.campaign(campaign).id if campaign is not None else None
    with store.single() as connection:
        given_out = _GIVEN_OUT[only is not None].all(connection, {"user": user.id, "campaign": only})
        mixes = dict(cast(list[tuple[int, bool]], given_out))
        return progress_among(connection, user.id, mixes, store.clock(), only)


def progress_among(
    connection: Connection | Direct,
    user_id: int,
    mixes: Mapping[int, bool],
    now: float,
    only: int | None = None,
) -> Progress:
    """As `progress`, where it is known which campaigns the user gets tasks of.

    Args:
        mixes: of each of these campaigns, by its id, whether it mixes in gold items or repeats.
        only: id of the only campaign that counts.
    """
    known: dict[str, Any] = {"user": user_id, "now": now, "campaign": only}
    known |= {f"given_{place}": number for place, number in enumerate(mixes)}
    query = _progress_query(only is not None, len(mixes))
    ((done, open_tasks, own, full),) = query.all(connection, known)
    return Progress(done=done, left=None if any(mixes.values()) else open_tasks - own - full)
