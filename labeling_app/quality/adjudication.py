"""Disagreements of annotators, and decisions of a lead about them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import select

from generator.output import InputError, is_storable
from labeling_app.quality.agreement import pair_labels
from labeling_app.store.computed import Computation, Report
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.remarks import Remark, named_videos, orders_shown, remarks_of
from labeling_app.store.store import Store
from labeling_app.store.tables import Adjudication, Assignment, Judgement, Task, User
from labeling_app.tasks.answers import dense_ranks, legal_ranks
from labeling_app.tasks.lease import MAXIMUM_ID, MAXIMUM_TEXT
from labeling_app.tasks.marks import checked_marks


@dataclass(frozen=True)
class Disagreement:
    """A task about which annotators differ.

    Attributes:
        task: with its videos.
        share: share of the pairs of annotators and videos that were labelled differently, over all dimensions.
        answers: `{dimension: {annotator: ranks}}` in the task's order.
        remarks: what annotators wrote, and about which videos.
        tags: `{annotator: marks}` of those who gave any, in the task's order.
    """

    task: Task
    share: float
    answers: dict[str, dict[str, list[int]]]
    remarks: list[Remark]
    tags: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class FinalRanking:
    """A ranking that counts: an annotator's, or the lead's decision in place of those of all annotators.

    Attributes:
        tags: reasons given for videos, by their positions in the task's order; None where nobody was asked for any.
    """

    task_id: int
    annotator: str
    dimension: str
    ranks: list[int]
    seconds: float
    created_at: float
    remarks: tuple[Remark, ...] = ()
    tags: list[dict[str, Any]] | None = None


def disagreement_share(rankings: Sequence[Sequence[int]]) -> float:
    """Share of pairs of rankings and of videos whose labels differ; NaN with fewer than two rankings."""
    labels = [pair_labels(ranks) for ranks in rankings]
    if len(labels) < 2:
        return float("nan")
    shares = [sum(x != y for x, y in zip(a, b, strict=True)) / len(a) for a, b in combinations(labels, 2)]
    return sum(shares) / len(shares)


def disagreements(
    store: Store,
    campaign: str,
    limit: int = 50,
    at_least: float = 0.3,
    decided: bool = False,
    patience: float | None = None,
) -> list[Disagreement]:
    """Tasks with the most disagreement first, then flagged ones, without those that are decided already.

    Args:
        at_least: the smallest share of differing labels; flagged tasks are in it whatever their share.
        decided: also those that a lead has decided.
        patience: seconds to wait in a large campaign for what is made for the first time; None waits.

    Raises:
        InputError: there is no such campaign.
        StillComputing: it is being made for the first time.
    """
    done = set() if decided else {task for task, _ in adjudications(store, campaign)}
    how = Computation(
        lambda report: _disputed(store, campaign, at_least, report), _written_disputed, _read_disputed
    )
    found = store.computed(f"disagreements {at_least}", campaign, how, patience)
    # One that was decided a moment ago may still be among them.
    worst = [item for item in found if item[1] not in done][:limit]
    tasks = store.tasks_of({task for _, task, *_ in worst})
    return [Disagreement(tasks[task], share, *said) for share, task, *said in worst if task in tasks]


def _written_disputed(found: list[tuple[Any, ...]]) -> str:
    return json.dumps(
        [
            (share, task, answers, [astuple(remark) for remark in remarks], tags)
            for share, task, answers, remarks, tags in found
        ]
    )


def _read_disputed(text: str) -> list[tuple[Any, ...]]:
    found = []
    for share, task, answers, remarks, tags in json.loads(text):
        read = [
            Remark(name, kind, said, tuple(videos), None if shown is None else tuple(shown))
            for name, kind, said, videos, shown in remarks
        ]
        found.append((share, task, answers, read, tags))
    return found


def _disputed(store: Store, campaign: str, at_least: float, report: Report) -> list[tuple[Any, ...]]:
    """Share of differing labels, task, answers, remarks and tags of the tasks of `disagreements`, decided ones too."""
    by_task: dict[int, list[JudgementRow]] = defaultdict(list)
    for judgement in store.judgements(campaign):
        by_task[judgement.task_id].append(judgement)
    report(0.4)
    orders = orders_shown(store, campaign)
    report(0.6)
    found = []
    for task_id, judgements in by_task.items():
        share, answers, remarks, tags = _said(judgements, orders)
        if share >= at_least or any(remark.kind == "flag" for remark in remarks):
            found.append((share, task_id, answers, remarks, tags))
    return sorted(found, key=lambda item: (-item[0], item[1]))


def _said(
    judgements: Sequence[JudgementRow | Judgement], orders: Mapping[tuple[int, int], list[int]]
) -> tuple[float, dict[str, dict[str, list[int]]], list[Remark], dict[str, list[dict[str, Any]]]]:
    """Share of differing labels of a task's judgements, and answers, remarks and tags."""
    answers: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for judgement in judgements:
        answers[judgement.dimension][judgement.user.name] = list(judgement.ranks or [])
    shares = [disagreement_share(list(ranks.values())) for ranks in answers.values()]
    known = [share for share in shares if not math.isnan(share)]
    share = sum(known) / len(known) if known else 0.0
    tags = {judgement.user.name: list(judgement.tags) for judgement in judgements if judgement.tags}
    return share, dict(answers), remarks_of(judgements, orders), tags


def task_to_decide(store: Store, task_id: int) -> Disagreement:
    """A normal task with all that annotators said about it, whether they differ or not.

    Raises:
        InputError: there is no such task.
    """
    with store.read() as session:
        task = session.get(Task, task_id) if 0 < task_id <= MAXIMUM_ID else None
        if task is None or task.kind != "normal":
            raise InputError(f"There is no task {task_id} to decide: name another.")
        judged = select(Judgement).where(Judgement.task_id == task_id, Judgement.skip_reason == "")
        newest = {
            (judgement.user_id, judgement.dimension): judgement
            for judgement in session.scalars(judged.order_by(Judgement.version, Judgement.id))
        }
        shown = select(Assignment.user_id, Assignment.permutation).where(Assignment.task_id == task_id)
        orders = {(task_id, user): order for user, order in session.execute(shown)}
    return Disagreement(task, *_said(list(newest.values()), orders))


def decision(store: Store, task: Task) -> dict[str, Any] | None:
    """The newest decision about a task: `by`, `ranks` for each dimension, `comment` and `tags`; None without one."""
    with store.read() as session:
        rows = session.scalars(
            select(Adjudication).where(Adjudication.task_id == task.id).order_by(Adjudication.id)
        ).all()
    if not rows:
        return None
    return {
        "by": rows[-1].user.name,
        "ranks": {row.dimension: row.ranks for row in rows},
        "comment": rows[-1].comment,
        "tags": rows[-1].tags,
    }


def adjudicate(
    store: Store,
    user: User,
    task_id: int,
    ranks: Mapping[str, Sequence[int]],
    comment: str = "",
    tags: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Stores a lead's decision about a task; a later one takes its place, and all stay in the table.

    Args:
        ranks: for each of the campaign's dimensions, in the task's order; 1 is best, equal ranks are ties.
        tags: reasons for videos, in the task's order (see `labeling_app.tasks.marks.checked_marks`).

    Raises:
        InputError: there is no such normal task, or dimensions are missing or unknown.
        Refused: the ranks or tags are not legal.
    """
    if len(comment) > MAXIMUM_TEXT or not is_storable(comment):
        raise InputError(f"The comment is longer than {MAXIMUM_TEXT} characters or holds a NUL: shorten it.")
    with store.write() as session:
        task = session.get(Task, task_id) if 0 < task_id <= MAXIMUM_ID else None
        if task is None or task.kind != "normal":
            raise InputError(f"There is no task {task_id} to decide: name another.")
        if set(ranks) != set(task.campaign.dimensions):
            raise InputError(f"Ranks are needed for: {', '.join(task.campaign.dimensions)}.")
        marks = checked_marks(tags, task.campaign.tags, range(len(task.videos)))
        for dimension in task.campaign.dimensions:
            dense = dense_ranks(legal_ranks(ranks[dimension], len(task.videos)))
            session.add(
                Adjudication(
                    task_id=task.id,
                    user_id=user.id,
                    dimension=dimension,
                    ranks=dense,
                    tags=marks,
                    comment=comment,
                    created_at=store.clock(),
                )
            )


def adjudications(store: Store, campaign: str) -> dict[tuple[int, str], Adjudication]:
    """The newest decision of each task and dimension that has one.

    Raises:
        InputError: there is no such campaign.
    """
    row = store.campaign(campaign)
    query = (
        select(Adjudication)
        .join(Task, Task.id == Adjudication.task_id)
        .where(Task.campaign_id == row.id)
        .order_by(Adjudication.id)
    )
    with store.read() as session:
        return {(found.task_id, found.dimension): found for found in session.scalars(query)}


def final_rankings(store: Store, campaign: str, raw: bool = False) -> list[FinalRanking]:
    """The rankings that count, by task; where a lead has decided, only the decision.

    Args:
        raw: those of annotators instead, as if nothing had been decided.

    Raises:
        InputError: there is no such campaign.
    """
    decided = {} if raw else adjudications(store, campaign)
    orders = orders_shown(store, campaign)
    own = [
        FinalRanking(
            j.task_id,
            j.user.name,
            j.dimension,
            list(j.ranks or []),
            j.seconds,
            j.created_at,
            tuple(remarks_of([j], orders)),
            j.tags,
        )
        for j in store.judgements(campaign)
        if (j.task_id, j.dimension) not in decided
    ]
    leads = [
        FinalRanking(task, name, dimension, d.ranks, 0.0, d.created_at, _comment_of_lead(d, name), d.tags)
        for (task, dimension), d in decided.items()
        for name in [f"adjudicated by {d.user.name}"]
    ]
    return sorted([*own, *leads], key=lambda ranking: ranking.task_id)


def _comment_of_lead(decision: Adjudication, name: str) -> tuple[Remark, ...]:
    if not decision.comment:
        return ()
    order = tuple(range(len(decision.ranks)))
    named = tuple(named_videos(decision.comment, len(order)))
    return (Remark(name, "comment", decision.comment, named, order),)
