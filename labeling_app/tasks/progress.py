"""Progress of an annotator, in one query that indexes answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.sql import false

from labeling_app.people.groups import may_work_on
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


def _given_out(one_campaign: bool) -> Select[int, bool]:
    """Ids of the campaigns that the user gets tasks of, and whether each mixes in gold items or repeats."""
    mixes = (Campaign.gold_share > 0) | (Campaign.repeat_share > 0) | (Campaign.quiz_size > 0)
    query = select(Campaign.id, mixes).where(Campaign.state == "open", may_work_on(bindparam("user")))
    return query.where(Campaign.id == bindparam("campaign")) if one_campaign else query


def _progress_query(one_campaign: bool) -> Select[Any]:
    """Counts that indexes answer: what this user has finished; tasks with room; those of them that this user has
    finished, and those that others hold so that there is no room."""
    of_campaign = [Task.campaign_id == bindparam("campaign")] if one_campaign else []
    has_room = [
        Task.kind == "normal",
        Task.filled == false(),
        Task.campaign_id.in_(bindparam("campaigns", expanding=True)),
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
    return select(
        finished.where(*of_campaign).scalar_subquery(),
        select(func.count(Task.id)).where(*has_room).scalar_subquery(),
        finished.where(*has_room).scalar_subquery(),
        full.scalar_subquery(),
    )


# Asked first: as a part of the counts PostgreSQL asks it for every task.
_GIVEN_OUT = {one: _given_out(one) for one in (False, True)}
_PROGRESS = {one: _progress_query(one) for one in (False, True)}


def progress(store: Store, user: User, campaign: str | None = None) -> Progress:
    """Number of tasks that the user has answered or skipped, and of those that are left for this user."""
    only = store.campaign(campaign).id if campaign is not None else None
    known: dict[str, Any] = {"user": user.id, "now": store.clock(), "campaign": only}
    with store.read() as session:
        given_out = session.execute(_GIVEN_OUT[only is not None], known).all()
        counted = known | {"campaigns": [campaign for campaign, _ in given_out]}
        done, open_tasks, own, full = session.execute(_PROGRESS[only is not None], counted).one()
    mixed = any(mixes for _, mixes in given_out)
    return Progress(done=done, left=None if mixed else open_tasks - own - full)
