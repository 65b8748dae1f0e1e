"""Judgements as rows: what pages and exports read by the thousand, without the cost of objects of the tables."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from labeling_app.store.tables import Judgement, Task, User


class JudgementRow(NamedTuple):
    """A judgement, with the columns of `labeling_app.store.tables.Judgement`, and the user who gave it."""

    id: int
    task_id: int
    user_id: int
    dimension: str
    version: int
    ranks: list[int] | None
    seconds: float
    comment: str
    skip_reason: str
    flag: str
    remark_videos: dict[str, list[int]] | None
    tags: list[dict[str, Any]] | None
    guidelines_version: int
    created_at: float
    user: User


def has_newer_version() -> ColumnElement[bool]:
    """Condition on `Judgement` in a query: the same person has given a newer version of this answer."""
    newer = aliased(Judgement)
    return (
        select(newer.id)
        .where(newer.task_id == Judgement.task_id, newer.user_id == Judgement.user_id)
        .where(newer.version > Judgement.version)
        .correlate(Judgement)
        .exists()
    )


_COLUMNS = [getattr(Judgement, name) for name in JudgementRow._fields[:-1]]


def judgement_rows(
    session: Session,
    campaign_id: int,
    all_versions: bool = False,
    include_skips: bool = False,
    kind: str = "normal",
) -> list[JudgementRow]:
    """Judgements of a campaign's tasks of one kind, by task, annotator, version, dimension.

    Args:
        all_versions: not only the newest version of each answer.
    """
    of_campaign = (Task.campaign_id == campaign_id, Task.kind == kind)
    query = select(*_COLUMNS).join(Task, Task.id == Judgement.task_id).where(*of_campaign)
    query = query.order_by(Judgement.task_id, Judgement.user_id, Judgement.version, Judgement.id)
    given = select(Judgement.user_id).join(Task, Task.id == Judgement.task_id).where(*of_campaign)
    users = {user.id: user for user in session.scalars(select(User).where(User.id.in_(given)))}
    rows = session.execute(query).all()
    # A judgement that came after the users were read waits for the next time.
    found = [JudgementRow._make([*row, users[row[2]]]) for row in rows if row[2] in users]
    if not all_versions:
        newest = {(each.task_id, each.user_id): each.version for each in found}
        found = [each for each in found if each.version == newest[each.task_id, each.user_id]]
    return found if include_skips else [each for each in found if not each.skip_reason]
