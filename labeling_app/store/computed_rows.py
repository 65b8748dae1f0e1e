"""Results over whole campaigns in the database, and the state of the data by which they are known to be of now."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from labeling_app.store.computed import Kept
from labeling_app.store.tables import Adjudication, Campaign, ComputedResult, Judgement, Task, User

_REMOVED = select(func.count(User.id)).where(User.state == "removed")


@dataclass(frozen=True)
class CampaignState:
    """State of the data that results of a campaign are made of.

    Attributes:
        size: tasks and answers.
        revision: changes whenever the results do: answers, changed answers, skips and decisions are rows that are only
            added; tasks, gold items and repeats too.
        removed_people: how many people were removed.
    """

    size: int
    revision: str
    removed_people: int


def campaign_state(session: Session, campaign: Campaign) -> CampaignState:
    """The state of a campaign now."""
    tasks = select(func.count(Task.id), func.max(Task.id), func.coalesce(func.sum(Task.completed), 0))
    others = [select(func.max(table.id)).scalar_subquery() for table in (Judgement, Adjudication, User)]
    query = tasks.add_columns(*others, _REMOVED.scalar_subquery()).where(Task.campaign_id == campaign.id)
    count, newest, completed, *rest = session.execute(query).one()
    # Sums are decimal numbers on PostgreSQL.
    state = [count, newest, int(completed), *rest, campaign.dimensions, campaign.tags]
    revision = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return CampaignState(count + int(completed), revision, rest[-1])


def kept_result(session: Session, campaign_id: int, name: str, removed: int, now: float) -> Kept | None:
    """The result of this name; None where there is none, or where somebody was removed since it was made."""
    row = session.get(ComputedResult, (campaign_id, name))
    if row is None or row.removed_people != removed:
        return None
    return Kept(row.revision, row.value, max(0.0, now - row.made_at))


def keep_result(
    session: Session, campaign_id: int, name: str, revision: str, removed: int, text: str, now: float
) -> None:
    """Stores a result in place of the one before; not where the campaign is gone or somebody was removed meanwhile."""
    there = session.scalar(select(Campaign.id).where(Campaign.id == campaign_id).with_for_update())
    if there is None or session.scalar(_REMOVED) != removed:
        return
    values = {"revision": revision, "removed_people": removed, "value": text, "made_at": now}
    same = (ComputedResult.campaign_id == campaign_id, ComputedResult.name == name)
    found = session.scalar(
        update(ComputedResult).where(*same).values(**values).returning(ComputedResult.name)
    )
    if found is None:
        session.add(ComputedResult(campaign_id=campaign_id, name=name, **values))


def forget_results(session: Session, campaign_id: int | None = None) -> None:
    """Deletes the results of a campaign; by default of all."""
    query = delete(ComputedResult)
    session.execute(query if campaign_id is None else query.where(ComputedResult.campaign_id == campaign_id))
