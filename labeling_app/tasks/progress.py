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


def _progress_query(one_campaign: bool) -> Select[Any]:
    """Counts that indexes answer: what this user has finished; tasks with room; those of them that this user has
    finished, and those that others hold so that there is no room; campaigns that mix in other tasks."""
    of_campaign = [Task.campaign_id == bindparam("campaign")] if one_campaign else []
    given_out = select(Campaign.id).where(Campaign.state == "open", may_work_on(bindparam("user")))
    has_room = [
        Task.kind == "normal",
        Task.filled == false(),
        Task.campaign_id.in_(given_out),
        *of_campaign,
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
    held = (
        select(Task.id)
        .join(Assignment, Assignment.task_id == Task.id)
        .join(Campaign, Campaign.id == Task.campaign_id)
        .where(
            Assignment.state == "open",
            Assignment.expires_at > bindparam("now"),
            Assignment.user_id != bindparam("user"),
            Task.id.not_in(own),
            *has_room,
        )
        .group_by(Task.id, Task.completed, Campaign.overlap)
        .having(Task.completed + func.count() >= Campaign.overlap)
        .subquery()
    )
    mixed = select(func.count(Campaign.id)).where(
        Campaign.state == "open",
        may_work_on(bindparam("user")),
        (Campaign.gold_share > 0) | (Campaign.repeat_share > 0) | (Campaign.quiz_size > 0),
    )
    if one_campaign:
        mixed = mixed.where(Campaign.id == bindparam("campaign"))
    return select(
        finished.where(*of_campaign).scalar_subquery(),
        select(func.count(Task.id)).where(*has_room).scalar_subquery(),
        finished.where(*has_room).scalar_subquery(),
        select(func.count()).select_from(held).scalar_subquery(),
        mixed.scalar_subquery(),
    )


PROGRESS, PROGRESS_OF_CAMPAIGN = _progress_query(False), _progress_query(True)


def progress(store: Store, user: User, campaign: str | None = None) -> Progress:
    """Number of tasks that the user has answered or skipped, and of those that are left for this user."""
    only = store.campaign(campaign).id if campaign is not None else None
    known = {"user": user.id, "now": store.clock(), "campaign": only}
    with store.read() as session:
        done, open_tasks, own, full, mixed = session.execute(
            PROGRESS if only is None else PROGRESS_OF_CAMPAIGN, known
        ).one()
    return Progress(done=done, left=None if mixed else open_tasks - own - full)
