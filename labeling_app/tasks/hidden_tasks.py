"""Choice of the task that an annotator gets next: hidden gold items and repeats among the tasks that have room.

A task has room while those who judged it and those who hold it are fewer than the campaign's overlap. Gold items and
repeats do not count towards it. Everything here runs inside the caller's writing transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

import numpy as np
from sqlalchemy import Connection, Float, Table, bindparam, func, insert, literal, select
from sqlalchemy.orm import aliased
from sqlalchemy.sql import false

from labeling_app.store.tables import Assignment, Campaign, Judgement, Task, TaskVideo
from labeling_app.tasks.queue import (
    Candidate,
    GivenCampaign,
    first_free,
    tasks_sharing_videos,
    this_task,
)

REPEAT_DISTANCE = 5
"""Minimum number of answers between a task and its repeat."""

DAY = 86400.0

GoldAnswer = list[tuple[list[int] | None, list[int]]]
"""For each dimension of a gold item the ranks given (None where it was skipped) and the known ones."""
Rules = Campaign | GivenCampaign
"""A campaign with the rules of its hidden checks."""


_TASKS, _VIDEOS = cast(Table, Task.__table__), cast(Table, TaskVideo.__table__)
LAPSED = (
    select(Task.id)
    .join(Assignment, Assignment.task_id == Task.id)
    .where(
        Task.campaign_id == bindparam("campaign"),
        Task.kind != "normal",
        Assignment.user_id == bindparam("user"),
        Assignment.state == "open",
    )
    .limit(1)
)


def choose_task(
    connection: Connection, user_id: int, campaign: GivenCampaign, now: float, draw: Callable[[], float]
) -> Candidate | None:
    """The user's next task in a campaign, or None; on PostgreSQL the row of one from the queue is locked.

    Args:
        draw: a number in [0, 1) that decides whether it is a gold item, a repeat or a normal task.
    """
    if not (campaign.gold_share or campaign.repeat_share or campaign.daily_cap or campaign.quiz_size):
        return first_free(connection, user_id, campaign, now)
    if (lapsed := connection.scalar(LAPSED, {"campaign": campaign.id, "user": user_id})) is not None:
        return this_task(connection, user_id, lapsed)
    if cap_reached(connection, user_id, campaign, now):
        return None
    if campaign.quiz_size:
        answered = answered_gold(connection, user_id, campaign)
        if len(answered) < campaign.quiz_size and (gold := unseen_gold(connection, user_id, campaign)):
            return this_task(connection, user_id, gold)
        if not passes_quiz(answered, campaign):
            return None
    drawn = draw()
    if drawn < campaign.gold_share:
        if (gold := unseen_gold(connection, user_id, campaign)) is not None:
            return this_task(connection, user_id, gold)
    elif (
        drawn < campaign.gold_share + campaign.repeat_share
        and (task := _repeatable(connection, user_id, campaign)) is not None
    ):
        return this_task(connection, user_id, _copy_for_repeat(connection, task, user_id, now))
    return first_free(connection, user_id, campaign, now)


def why_nothing(connection: Connection, user_id: int, campaign: Rules, now: float) -> str:
    """One sentence for an annotator who gets no task although there may be some; empty otherwise."""
    if campaign.state != "open":
        waiting = select(Task.id).where(
            Task.campaign_id == campaign.id, Task.kind == "normal", Task.filled == false()
        )
        if campaign.state == "closed" or connection.scalar(waiting.limit(1)) is None:
            return ""
        return f"The campaign {campaign.name} is paused: come back later, or ask the lead when it goes on."
    if cap_reached(connection, user_id, campaign, now):
        return f"You have given {campaign.daily_cap} answers within 24 hours, which is the limit: come back later."
    answered = answered_gold(connection, user_id, campaign) if campaign.quiz_size else []
    if not passes_quiz(answered, campaign):
        right, decided = right_pairs(answered, campaign)
        return (
            f"The first tasks were a trial, and {right} of {decided} pairs were as in the known answers, which is less "
            f"than the {100 * campaign.quiz_pass:.0f} % needed: ask the lead."
        )
    return ""


def cap_reached(connection: Connection, user_id: int, campaign: Rules, now: float) -> bool:
    """Returns whether the user has given as many answers in the last 24 hours as the campaign allows."""
    if not campaign.daily_cap:
        return False
    given = (
        select(func.count(func.distinct(Judgement.task_id)))
        .join(Task, Task.id == Judgement.task_id)
        .where(
            Judgement.user_id == user_id,
            Judgement.version == 1,
            Judgement.skip_reason == "",
            Judgement.created_at > now - DAY,
            Task.campaign_id == campaign.id,
        )
    )
    return (connection.scalar(given) or 0) >= campaign.daily_cap


def pair_accuracy(ranks: Sequence[int], gold: Sequence[int]) -> tuple[int, int]:
    """Pairs that `gold` decides and that `ranks` decides in the same way, and pairs that `gold` decides."""
    decided = [(i, j) for i, j in combinations(range(len(gold)), 2) if gold[i] != gold[j]]
    right = sum(np.sign(ranks[j] - ranks[i]) == np.sign(gold[j] - gold[i]) for i, j in decided)
    return int(right), len(decided)


def right_pairs(answered: Sequence[GoldAnswer], campaign: Rules) -> tuple[int, int]:
    """Pairs of the first `quiz_size` gold items that were right, and those that the known answers decide; a skipped one
    is wrong."""
    right = decided = 0
    for item in answered[: campaign.quiz_size]:
        for ranks, gold in item:
            agreed, pairs = pair_accuracy(ranks or [1] * len(gold), gold)
            right, decided = right + agreed, decided + pairs
    return right, decided


def passes_quiz(answered: Sequence[GoldAnswer], campaign: Rules) -> bool:
    """Returns whether enough pairs of the first `quiz_size` gold items were right."""
    right, decided = right_pairs(answered, campaign)
    return decided == 0 or right >= campaign.quiz_pass * decided


def answered_gold(connection: Connection, user_id: int, campaign: Rules) -> list[GoldAnswer]:
    """The user's first answers to gold items, and the known answers, in the order in which they were given."""
    rows = connection.execute(
        select(Task.id, Judgement.ranks, Judgement.dimension, Task.gold_ranks)
        .join(Task, Task.id == Judgement.task_id)
        .where(
            Task.campaign_id == campaign.id,
            Task.kind == "gold",
            Judgement.user_id == user_id,
            Judgement.version == 1,
        )
        .order_by(Judgement.id)
    )
    items: dict[int, GoldAnswer] = {}
    for task, ranks, dimension, gold in rows:
        if gold and dimension in gold:
            items.setdefault(task, []).append((ranks, gold[dimension]))
    return list(items.values())


def unseen_gold(connection: Connection, user_id: int, campaign: Rules) -> int | None:
    """The oldest gold item that this user has not seen, with no video of the user's other tasks."""
    seen = select(Assignment.id).where(Assignment.task_id == Task.id, Assignment.user_id == user_id).exists()
    sharing = tasks_sharing_videos("normal", campaign.id, user_id)
    known = sharing.where(sharing.selected_columns[0] == Task.id).correlate(Task).exists()
    return connection.scalar(
        select(Task.id)
        .where(Task.campaign_id == campaign.id, Task.kind == "gold", ~seen, ~known)
        .order_by(Task.id)
        .limit(1)
    )


def _repeatable(connection: Connection, user_id: int, campaign: Rules) -> int | None:
    """The oldest task that this user has ranked, long enough ago, and not yet again."""
    again = aliased(Task)
    own = aliased(Assignment)
    repeated = (
        select(again.id)
        .join(own, own.task_id == again.id)
        .where(again.copy_of == Task.id, again.kind == "repeat", own.user_id == user_id)
        .exists()
    )
    ranked = list(
        connection.scalars(
            select(Assignment.task_id)
            .join(Task, Task.id == Assignment.task_id)
            .where(Assignment.user_id == user_id, Assignment.state == "done")
            .where(Task.campaign_id == campaign.id, Task.kind == "normal", ~repeated)
            .order_by(Assignment.id)
            .limit(REPEAT_DISTANCE + 1)
        )
    )
    return ranked[0] if len(ranked) > REPEAT_DISTANCE else None


def _copy_for_repeat(connection: Connection, task_id: int, user_id: int, now: float) -> int:
    """Makes a copy of a task for the one who repeats it; returns its id."""
    same = ("campaign_id", "prompt", "image_id", "last_image_id")
    copied = [_TASKS.c[name] for name in same]
    other = {
        # A task is imported once for each fingerprint; a repeat is no import.
        "fingerprint": literal(f"repeat-{task_id}-{user_id}"),
        "kind": literal("repeat"),
        "completed": literal(0),
        "filled": false(),
        "copy_of": literal(task_id),
        "created_at": literal(now, Float),
    }
    copy = select(*copied, *other.values()).where(_TASKS.c.id == task_id)
    new = connection.scalar(insert(_TASKS).from_select([*same, *other], copy).returning(_TASKS.c.id))
    assert new is not None
    shown = ("position", "media_id", "model")
    videos = select(literal(new), *(_VIDEOS.c[name] for name in shown)).where(_VIDEOS.c.task_id == task_id)
    connection.execute(insert(_VIDEOS).from_select(["task_id", *shown], videos))
    return int(new)
