"""Results that an annotator sees: the known answer after a gold item, and how the trial went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Campaign, Judgement, Task, User
from labeling_app.tasks.hidden_tasks import (
    answered_gold,
    pair_accuracy,
    passes_quiz,
    right_pairs,
    unseen_gold,
)


@dataclass(frozen=True)
class TrialResult:
    """Result of an annotator's trial in a campaign.

    Attributes:
        right, pairs: pairs of the first gold items ordered as known, of those that the known answers decide.
        needed: share of them that opens the campaign.
        passed: True where it is reached.
    """

    campaign: str
    right: int
    pairs: int
    needed: float
    passed: bool


def after_answer(store: Store, user: User, token: str) -> dict[str, Any]:
    """Facts that an annotator is shown after an answer or skip.

    Returns:
        `feedback`, of a gold item whose campaign shows it: `right` of `pairs`, and `known`, the known ranks of each
        dimension in the order shown. `trial`, where this ended the trial: the fields of a `TrialResult`.
    """
    with store.read() as session:
        own = (Assignment.token == token, Assignment.user_id == user.id)
        kind = session.scalar(select(Task.kind).join(Assignment, Assignment.task_id == Task.id).where(*own))
        if kind != "gold":  # nearly all: the whole rows are not needed
            return {}
        found = session.scalars(select(Assignment).where(*own)).one()
        campaign = found.task.campaign
        result = _trial(session, user, campaign)
        answered = answered_gold(session.connection(), user.id, campaign)
        ended = result is not None and len(answered) <= campaign.quiz_size
        shown = {
            "feedback": _feedback(session, found) if campaign.gold_feedback else None,
            "trial": vars(result) if result is not None and ended else None,
        }
    return {name: value for name, value in shown.items() if value is not None}


def trial_results(store: Store, user: User) -> list[TrialResult]:
    """The results of the trials that the user has been through, by the age of the campaigns."""
    with store.read() as session:
        campaigns = session.scalars(
            select(Campaign).where(Campaign.quiz_size > 0).order_by(Campaign.id)
        ).all()
        results = [_trial(session, user, campaign) for campaign in campaigns]
    return [result for result in results if result is not None]


def _trial(session: Session, user: User, campaign: Campaign) -> TrialResult | None:
    """The result of the user's trial; None where there is none, or where it goes on."""
    if not campaign.quiz_size:
        return None
    connection = session.connection()
    answered = answered_gold(connection, user.id, campaign)
    goes_on = len(answered) < campaign.quiz_size and unseen_gold(connection, user.id, campaign) is not None
    if not answered or goes_on:
        return None
    right, pairs = right_pairs(answered, campaign)
    return TrialResult(campaign.name, right, pairs, campaign.quiz_pass, passes_quiz(answered, campaign))


def _feedback(session: Session, assignment: Assignment) -> dict[str, Any] | None:
    """The user's first answer to a gold item beside the known one; None where it was skipped."""
    task: Task = assignment.task
    rows = session.scalars(
        select(Judgement).where(
            Judgement.task_id == task.id, Judgement.user_id == assignment.user_id, Judgement.version == 1
        )
    ).all()
    known = task.gold_ranks or {}
    pairs = [pair_accuracy(row.ranks, known[row.dimension]) for row in rows if row.ranks is not None]
    if not pairs:
        return None
    return {
        "right": sum(right for right, _ in pairs),
        "pairs": sum(decided for _, decided in pairs),
        "known": {
            name: [ranks[position] for position in assignment.permutation] for name, ranks in known.items()
        },
    }
