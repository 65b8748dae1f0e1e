"""Answers of a campaign about videos of different models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import aliased

from generator.output import InputError
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.store import Store
from labeling_app.store.tables import Media, Task, TaskVideo
from reward.human.comparisons import PairResult
from reward.human.evaluation import JudgedPair, pair_results

ALL_BAD = "All videos are bad"
"""Beginning of the flag that the page's *All bad* and *Both bad* set."""


def compared_dimension(store: Store, campaign: str, dimension: str | None = None) -> str:
    """The dimension that models are compared in: the one asked for, else `overall`, else the campaign's first.

    Raises:
        InputError: there is no such campaign, or it does not ask for the dimension.
    """
    asked = store.campaign(campaign).dimensions
    if dimension is not None and dimension not in asked:
        raise InputError(
            f"The campaign {campaign!r} has no dimension {dimension!r}: choose one of {', '.join(asked)}."
        )
    return dimension or ("overall" if "overall" in asked else asked[0])


class _Shown(NamedTuple):
    """A video of a task that compares models."""

    task: int
    prompt: str
    model: str | None
    path: str
    sha256: str


def judged_pairs(
    store: Store,
    campaign: str,
    dimension: str | None = None,
    judgements: Sequence[JudgementRow] | None = None,
) -> list[JudgedPair]:
    """The newest answer of each annotator about each two videos of different models.

    Decisions of leads do not count, as nobody drew them from the annotators; neither do hidden checks. A ranking of
    more than two videos counts as all its pairs. Two models always stand in the order in which they were imported.

    Args:
        judgements: the newest ones of the campaign, where they were read already; skips among them do not count.

    Raises:
        InputError: there is no such campaign or dimension.
    """
    dimension = compared_dimension(store, campaign, dimension)
    tasks = _compared(store, campaign)
    if not tasks:
        return []
    place: dict[str, int] = {}
    for videos in tasks.values():
        for video in videos:
            place.setdefault(video.model or "", len(place))
    found = []
    for judgement in store.judgements(campaign) if judgements is None else judgements:
        if judgement.task_id not in tasks or judgement.ranks is None or judgement.dimension != dimension:
            continue
        ranked = zip(tasks[judgement.task_id], judgement.ranks, strict=True)
        ordered = sorted(ranked, key=lambda each: place[each[0].model or ""])
        for (a, rank_a), (b, rank_b) in combinations(ordered, 2):
            if not a.model or not b.model or a.model == b.model:
                continue
            found.append(
                JudgedPair(
                    task=a.task,
                    prompt=a.prompt,
                    annotator=judgement.user.name,
                    first=a.model,
                    second=b.model,
                    outcome=1.0 if rank_a < rank_b else 0.5 if rank_a == rank_b else 0.0,
                    all_bad=rank_a == rank_b and judgement.flag.startswith(ALL_BAD),
                    videos=(a.path, b.path),
                    contents=(a.sha256, b.sha256),
                    simulated=judgement.user.simulated,
                )
            )
    return found


def _compared(store: Store, campaign: str) -> dict[int, list[_Shown]]:
    """The videos of each normal task that names a model, by the task's id, in its order."""
    named = aliased(TaskVideo)
    names_one = select(named.task_id).where(named.task_id == Task.id, named.model.is_not(None))
    query = (
        select(Task.id, Task.prompt, TaskVideo.model, Media.path, Media.sha256)
        .join(TaskVideo, TaskVideo.task_id == Task.id)
        .join(Media, Media.id == TaskVideo.media_id)
        .where(Task.campaign_id == store.campaign(campaign).id, Task.kind == "normal")
        .where(names_one.correlate(Task).exists())
        .order_by(Task.id, TaskVideo.position)
    )
    found: dict[int, list[_Shown]] = {}
    with store.read() as session:
        for row in session.execute(query).tuples():
            found.setdefault(row[0], []).append(_Shown(*row))
    return {task: videos for task, videos in found.items() if any(video.model for video in videos)}


def win_rates(
    store: Store, campaign: str, judgements: Sequence[JudgementRow] | None = None
) -> dict[tuple[str, str], PairResult]:
    """Win rates of the models of a campaign; empty where it compares none or nobody has answered.

    Args:
        judgements: as for `judged_pairs`.

    Raises:
        InputError: there is no such campaign.
    """
    return pair_results(judged_pairs(store, campaign, judgements=judgements))
