"""Findings of hidden gold items and repeats about each annotator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from labeling_app.quality.agreement import pair_labels
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.store import Store
from labeling_app.store.tables import Task
from labeling_app.tasks.hidden_tasks import pair_accuracy


@dataclass(frozen=True)
class HiddenChecks:
    """One annotator's answers to gold items and repeats.

    Attributes:
        gold_right, gold_pairs: pairs of gold items labelled as known, of those that the known answer decides.
        repeat_same, repeat_pairs: pairs of repeated tasks labelled the same both times, of all their pairs.
    """

    gold_right: int = 0
    gold_pairs: int = 0
    repeat_same: int = 0
    repeat_pairs: int = 0

    @property
    def gold_accuracy(self) -> float:
        """Share of right pairs of gold items; NaN without any."""
        return self.gold_right / self.gold_pairs if self.gold_pairs else float("nan")

    @property
    def self_consistency(self) -> float:
        """Share of pairs with the same label both times; NaN without any."""
        return self.repeat_same / self.repeat_pairs if self.repeat_pairs else float("nan")


def hidden_checks(
    store: Store, campaign: str, judgements: Sequence[JudgementRow] | None = None
) -> dict[str, HiddenChecks]:
    """For each annotator who answered gold items or repeats; the first version of gold answers counts.

    Args:
        judgements: the newest ones of the campaign's normal tasks, where they were read already; skips among them do
            not count.

    Raises:
        InputError: there is no such campaign.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    checks = select(Task.id, Task.kind, Task.gold_ranks, Task.copy_of).where(
        Task.campaign_id == store.campaign(campaign).id, Task.kind != "normal"
    )
    with store.read() as session:
        found = session.execute(checks).all()
    gold = {task: known or {} for task, kind, known, _ in found if kind == "gold"}
    for judgement in store.judgements(campaign, all_versions=True, kind="gold") if gold else ():
        known = gold[judgement.task_id].get(judgement.dimension)
        if judgement.version == 1 and judgement.ranks is not None and known is not None:
            right, pairs = pair_accuracy(judgement.ranks, known)
            counts[judgement.user.name][0] += right
            counts[judgement.user.name][1] += pairs
    original = {task: copied for task, kind, _, copied in found if kind == "repeat"}
    repeats = store.judgements(campaign, kind="repeat") if original else []
    if repeats and judgements is None:
        judgements = store.judgements(campaign)
    first = {(j.task_id, j.user_id, j.dimension): j.ranks for j in judgements or () if j.ranks is not None}
    for judgement in repeats:
        before = first.get((original[judgement.task_id] or 0, judgement.user_id, judgement.dimension))
        if before is not None and judgement.ranks is not None:
            same = [a == b for a, b in zip(pair_labels(before), pair_labels(judgement.ranks), strict=True)]
            counts[judgement.user.name][2] += sum(same)
            counts[judgement.user.name][3] += len(same)
    return {name: HiddenChecks(*numbers) for name, numbers in counts.items()}
