"""Answers of a campaign about videos of different models."""

from __future__ import annotations

from itertools import combinations

from generator.output import InputError
from labeling_app.store.store import Store
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


def judged_pairs(store: Store, campaign: str, dimension: str | None = None) -> list[JudgedPair]:
    """The newest answer of each annotator about each two videos of different models.

    Decisions of leads do not count, as nobody drew them from the annotators; neither do hidden checks. A ranking of
    more than two videos counts as all its pairs. Two models always stand in the order in which they were imported.

    Raises:
        InputError: there is no such campaign or dimension.
    """
    dimension = compared_dimension(store, campaign, dimension)
    tasks = {task.id: task for task in store.tasks(campaign) if any(v.model for v in task.videos)}
    place: dict[str, int] = {}
    for task in tasks.values():
        for video in task.videos:
            place.setdefault(video.model or "", len(place))
    found = []
    for judgement in store.judgements(campaign):
        if judgement.task_id not in tasks or judgement.ranks is None or judgement.dimension != dimension:
            continue
        task = tasks[judgement.task_id]
        ranked = zip(task.videos, judgement.ranks, strict=True)
        ordered = sorted(ranked, key=lambda each: place[each[0].model or ""])
        for (a, rank_a), (b, rank_b) in combinations(ordered, 2):
            if not a.model or not b.model or a.model == b.model:
                continue
            found.append(
                JudgedPair(
                    task=task.id,
                    prompt=task.prompt,
                    annotator=judgement.user.name,
                    first=a.model,
                    second=b.model,
                    outcome=1.0 if rank_a < rank_b else 0.5 if rank_a == rank_b else 0.0,
                    all_bad=rank_a == rank_b and judgement.flag.startswith(ALL_BAD),
                    videos=(a.media.path, b.media.path),
                    contents=(a.media.sha256, b.media.sha256),
                    simulated=judgement.user.simulated,
                )
            )
    return found


def win_rates(store: Store, campaign: str) -> dict[tuple[str, str], PairResult]:
    """Win rates of the models of a campaign; empty where it compares none or nobody has answered.

    Raises:
        InputError: there is no such campaign.
    """
    return pair_results(judged_pairs(store, campaign))
