"""Campaigns made of others: the same rules and guidelines, with or without the tasks, and no answers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from generator.output import InputError
from labeling_app.campaigns.campaigns import RULES
from labeling_app.store.campaign_rows import campaign_name, find_campaign
from labeling_app.store.store import Store
from labeling_app.store.tables import (
    Campaign,
    Guidelines,
    GuidelineVideo,
    Task,
    TaskMetadata,
    TaskVideo,
)

COPIED = ("project_id", *RULES)
"""Columns of a campaign that its clone has too; the clone is open."""


def clone_campaign(store: Store, campaign: str, name: str, with_tasks: bool = False) -> tuple[str, int]:
    """Makes a campaign with the rules and the newest guidelines of another, and without any answer.

    Args:
        with_tasks: also its tasks and gold items.

    Returns:
        the name as it is kept, and how many tasks and gold items were copied.

    Raises:
        InputError: there is no such campaign, or the new name is taken or no name. Then nothing was made.
    """
    row, name, now = store.campaign(campaign), campaign_name(name), store.clock()
    with store.write() as session:
        if find_campaign(session, name) is not None:
            raise InputError(f"The campaign {name!r} exists already: choose another name.")
        made = Campaign(name=name, created_at=now, **{column: getattr(row, column) for column in COPIED})
        session.add(made)
        session.flush()
        _copy_guidelines(session, row.id, made.id, now)
        return name, _copy_tasks(session, row.id, made.id, now) if with_tasks else 0


def _copy_guidelines(session: Session, source: int, target: int, now: float) -> None:
    newest = (
        select(Guidelines.text).where(Guidelines.campaign_id == source).order_by(Guidelines.version.desc())
    )
    if (text := session.scalar(newest.limit(1))) is not None:
        session.add(Guidelines(campaign_id=target, version=1, text=text, created_at=now))
    videos = session.scalars(select(GuidelineVideo.media_id).where(GuidelineVideo.campaign_id == source))
    session.add_all([GuidelineVideo(campaign_id=target, media_id=video) for video in videos.all()])


def _copy_tasks(session: Session, source: int, target: int, now: float) -> int:
    tasks = session.scalars(
        select(Task).where(Task.campaign_id == source, Task.kind != "repeat").order_by(Task.id)
    ).all()
    copies: dict[int, int] = {}
    for task in tasks:
        copy = Task(
            campaign_id=target,
            prompt=task.prompt,
            fingerprint=task.fingerprint,
            kind=task.kind,
            gold_ranks=task.gold_ranks,
            # A gold item comes after the task that it was made of.
            copy_of=copies.get(task.copy_of or 0),
            image_id=task.image_id,
            last_image_id=task.last_image_id,
            created_at=now,
        )
        copy.videos = [TaskVideo(position=each.position, media_id=each.media_id) for each in task.videos]
        session.add(copy)
        session.flush()
        copies[task.id] = copy.id
    _copy_metadata(session, copies)
    return len(copies)


def _copy_metadata(session: Session, copies: dict[int, int]) -> None:
    numbers: Sequence[int] = list(copies)
    for begin in range(0, len(numbers), 500):
        here = TaskMetadata.task_id.in_(numbers[begin : begin + 500])
        rows = [
            {"task_id": copies[each.task_id], "name": each.name, "value": each.value}
            for each in session.scalars(select(TaskMetadata).where(here))
        ]
        if rows:
            session.execute(insert(TaskMetadata), rows)
