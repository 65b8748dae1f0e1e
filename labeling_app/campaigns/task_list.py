"""The tasks of a campaign as leads look through them: filtered, page by page, each with what is known about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import false, true

from generator.output import InputError, is_storable
from labeling_app.quality.adjudication import disagreement_share
from labeling_app.store.judgement_rows import has_newer_version
from labeling_app.store.store import Store
from labeling_app.store.tables import Adjudication, Assignment, Judgement, Task, TaskMetadata

STATUSES = ("waiting", "started", "done", "held", "skipped", "decided", "undecided")
"""Statuses to filter by: without an answer; with some, but not all; with all; in somebody's hands; skipped by somebody;
decided by a lead, or answered by several and not decided."""
PAGE_SIZE = 25
MAXIMUM_PAGE = 1_000_000


@dataclass(frozen=True)
class TaskFilter:
    """Tasks that are looked for; an empty value asks for nothing.

    Attributes:
        prompt: a part of the prompt, whatever the case.
        status: one of `STATUSES`.
        flagged: only tasks that somebody flagged; False asks for nothing.
        metadata: `NAME=VALUE` for a value of the imported file that holds VALUE; without `=` any such value.
        max_agreement: largest share of equal pair labels of the task's annotators, in [0, 1]; tasks with fewer than two
            answers have none and are left out.
        kind: `normal` or `gold`.

    Raises:
        InputError: a value is illegal.
    """

    prompt: str = ""
    status: str = ""
    flagged: bool = False
    metadata: str = ""
    max_agreement: float | None = None
    kind: str = "normal"

    def __post_init__(self) -> None:
        if self.status and self.status not in STATUSES:
            raise InputError(f"The status {self.status[:60]!r} is unknown: use one of {', '.join(STATUSES)}.")
        if self.kind not in ("normal", "gold"):
            raise InputError(f"The kind {self.kind[:60]!r} is unknown: use normal or gold.")
        if self.max_agreement is not None and not 0 <= self.max_agreement <= 1:
            raise InputError(f"max_agreement is {self.max_agreement}, but a share lies in [0, 1].")
        if not is_storable(self.prompt) or not is_storable(self.metadata):
            raise InputError("A filter holds a NUL or half a character: write it as plain UTF-8.")


def find_tasks(
    store: Store, campaign: str, wanted: TaskFilter, page: int = 1, page_size: int = PAGE_SIZE
) -> dict[str, Any]:
    """A page of the tasks of a campaign, the oldest first.

    Args:
        page: from 1; one after the last is the last.

    Returns:
        `total`, `page`, `pages`, and `tasks`, each with `task` (its id), `prompt`, `videos` (how many), `completed` of
        `overlap` answers, `held` now, `skips`, `flags`, `decided`, `agreement` (share of equal pair labels; None with
        fewer than two answers) and `metadata`.

    Raises:
        InputError: there is no such campaign.
    """
    row = store.campaign(campaign)
    conditions = [Task.campaign_id == row.id, *_conditions(wanted, store.clock())]
    with store.read() as session:
        if wanted.max_agreement is None:
            total = session.scalar(select(func.count(Task.id)).where(*conditions)) or 0
            page = _page_within(page, total, page_size)
            here = session.scalars(
                select(Task.id)
                .where(*conditions)
                .order_by(Task.id)
                .limit(page_size)
                .offset((page - 1) * page_size)
            ).all()
            agreements = _agreements(session, Task.id.in_(here))
        else:
            agreements = _agreements(session, and_(*conditions))
            found = sorted(task for task, share in agreements.items() if share <= wanted.max_agreement)
            total = len(found)
            page = _page_within(page, total, page_size)
            here = found[(page - 1) * page_size : page * page_size]
        tasks = session.scalars(select(Task).where(Task.id.in_(here)).order_by(Task.id)).all()
        facts = _facts(session, here, store.clock())
    return {
        "total": total,
        "page": page,
        "pages": _pages(total, page_size),
        "tasks": [
            {
                "task": task.id,
                "prompt": task.prompt,
                "videos": len(task.videos),
                "completed": task.completed,
                "overlap": row.overlap,
                "agreement": agreements.get(task.id),
                **facts[task.id],
            }
            for task in tasks
        ],
    }


def _pages(total: int, page_size: int) -> int:
    return max(1, -(-total // page_size))


def _page_within(page: int, total: int, page_size: int) -> int:
    return min(max(1, page), _pages(total, page_size))


def _conditions(wanted: TaskFilter, now: float) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Task.kind == wanted.kind]
    if wanted.prompt.strip():
        conditions.append(Task.prompt.icontains(wanted.prompt.strip(), autoescape=True))
    if wanted.status:
        conditions.append(_has_status(wanted.status, now))
    if wanted.flagged:
        conditions.append(_flags().exists())
    if wanted.metadata.strip():
        name, equals, value = wanted.metadata.partition("=")
        if not equals:
            name, value = "", name
        named = select(TaskMetadata.task_id).where(
            TaskMetadata.task_id == Task.id, TaskMetadata.value.icontains(value.strip(), autoescape=True)
        )
        if equals:
            named = named.where(TaskMetadata.name == name.strip())
        conditions.append(named.correlate(Task).exists())
    return conditions


def _has_status(status: str, now: float) -> ColumnElement[bool]:
    decided = select(Adjudication.id).where(Adjudication.task_id == Task.id).correlate(Task).exists()
    given = select(Assignment.id).where(Assignment.task_id == Task.id).correlate(Task)
    return {
        "waiting": Task.completed == 0,
        "started": and_(Task.completed > 0, Task.filled == false()),
        "done": Task.filled == true(),
        "held": given.where(Assignment.state == "open", Assignment.expires_at > now).exists(),
        "skipped": given.where(Assignment.state == "skipped").exists(),
        "decided": decided,
        "undecided": and_(Task.completed > 1, ~decided),
    }[status]


def _flags() -> Any:
    """Newest answers to a task that flag it."""
    return (
        select(Judgement.id)
        .where(Judgement.task_id == Task.id, Judgement.flag != "", ~has_newer_version())
        .correlate(Task)
    )


def _agreements(session: Session, condition: ColumnElement[bool]) -> dict[int, float]:
    """Share of equal pair labels of each task with two or more answers, the mean over its dimensions."""
    rows = session.execute(
        select(Judgement.task_id, Judgement.dimension, Judgement.user_id, Judgement.ranks)
        .join(Task, Task.id == Judgement.task_id)
        .where(condition, Judgement.skip_reason == "")
        .order_by(Judgement.version)
    )
    newest: dict[int, dict[str, dict[int, Sequence[int]]]] = defaultdict(lambda: defaultdict(dict))
    for task, dimension, user, ranks in rows:
        newest[task][dimension][user] = ranks or []
    shares = {
        task: [disagreement_share(list(answers.values())) for answers in dimensions.values()]
        for task, dimensions in newest.items()
    }
    return {
        task: 1.0 - float(np.nanmean(different))
        for task, different in shares.items()
        if not np.isnan(different).all()
    }


def _facts(session: Session, tasks: Sequence[int], now: float) -> dict[int, dict[str, Any]]:
    facts: dict[int, dict[str, Any]] = {
        task: {"held": 0, "skips": 0, "flags": 0, "decided": False, "metadata": {}} for task in tasks
    }
    counted = (
        select(Assignment.task_id, Assignment.state, func.count())
        .where(Assignment.task_id.in_(tasks))
        .where(
            or_(Assignment.state == "skipped", and_(Assignment.state == "open", Assignment.expires_at > now))
        )
        .group_by(Assignment.task_id, Assignment.state)
    )
    for task, state, count in session.execute(counted):
        facts[task]["held" if state == "open" else "skips"] = count
    flagged = select(Judgement.task_id, Judgement.user_id).join(Task, Task.id == Judgement.task_id)
    flagged = flagged.where(Task.id.in_(tasks), Judgement.id.in_(_flags().where(Task.id.in_(tasks))))
    for task, _ in session.execute(flagged.distinct()):
        facts[task]["flags"] += 1
    for task in session.scalars(select(Adjudication.task_id).where(Adjudication.task_id.in_(tasks))):
        facts[task]["decided"] = True
    named = select(TaskMetadata).where(TaskMetadata.task_id.in_(tasks)).order_by(TaskMetadata.value)
    for each in session.scalars(named):
        facts[each.task_id]["metadata"].setdefault(each.name, []).append(each.value)
    return facts
