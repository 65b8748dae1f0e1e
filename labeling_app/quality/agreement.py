"""Agreement of annotators, and the work of each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from generator.output import InputError
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.remarks import Remark, orders_shown, remarks_of
from labeling_app.store.store import Store
from reward.statistics import LEAST_CLUSTERS

Level = Literal["nominal", "ordinal", "interval"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class AnnotatorQuality:
    """One annotator's work.

    Attributes:
        imported: an external annotator, whose rankings came from a file.
        judgements, skips: answers given and tasks skipped.
        median_seconds: seconds a task; NaN without judgements.
        tie_rate: share of this annotator's pairs that are ties.
        agreement: share of pair labels that are the same as another annotator's label of that pair; NaN where
            nobody else judged the same pairs.
    """

    name: str
    simulated: bool
    imported: bool
    judgements: int
    skips: int
    median_seconds: float
    tie_rate: float
    agreement: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of a campaign's annotators on pairs of videos of a task.

    A pair's label is which of the two videos is better, or a tie. Numbers that need two annotators for the
    same pair are NaN where there are none.

    Attributes:
        alpha: Krippendorff's alpha of the labels (worse < tie < better, ordinal), both directions of
            each pair counted: 1 is perfect agreement, 0
            is chance.
        alpha_low, alpha_high: 95 % interval of alpha, bootstrap over tasks; NaN where fewer than
            `LEAST_CLUSTERS` tasks were judged by several.
        pairwise: share of pairs of annotators that give the same pair the same label.
        pairwise_without_ties: the same among labels of which neither is a tie.
        tie_rate: share of labels that are ties.
        num_tasks, num_judgements, num_labels: tasks with a judgement, rankings, and pair labels.
    """

    alpha: float
    alpha_low: float
    alpha_high: float
    pairwise: float
    pairwise_without_ties: float
    tie_rate: float
    num_tasks: int
    num_judgements: int
    num_labels: int
    annotators: tuple[AnnotatorQuality, ...]


@dataclass(frozen=True)
class Skip:
    """A task that an annotator skipped, and why.

    Attributes:
        remark: the reason, with the videos that it is about.
        media: ids of the task's videos, in the task's order.
    """

    annotator: str
    prompt: str
    reason: str
    remark: Remark
    media: tuple[str, ...]


def skips(store: Store, campaign: str, judgements: Sequence[JudgementRow] | None = None) -> list[Skip]:
    """Skips of annotators, by task; several dimensions of a task are one skip.

    Args:
        judgements: the newest ones of the campaign with skips, where they were read already.

    Raises:
        InputError: there is no such campaign.
    """
    found = {
        (judgement.task_id, judgement.user_id): judgement
        for judgement in _newest(store, campaign, judgements)
        if judgement.ranks is None
    }
    orders = orders_shown(store, campaign) if found else {}
    tasks = store.tasks_of({judgement.task_id for judgement in found.values()})
    return [
        Skip(
            j.user.name,
            tasks[j.task_id].prompt,
            j.skip_reason,
            remark,
            tuple(video.media_id for video in tasks[j.task_id].videos),
        )
        for j in found.values()
        for remark in remarks_of([j], orders)
        if remark.kind == "skip_reason"
    ]


def _newest(store: Store, campaign: str, judgements: Sequence[JudgementRow] | None) -> Sequence[JudgementRow]:
    return store.judgements(campaign, include_skips=True) if judgements is None else judgements


def pair_labels(ranks: Sequence[int]) -> list[int]:
    """The label of each pair (i, j), i < j: 1 if video i is better, -1 if video j is, 0 for a tie."""
    return [(first < second) - (first > second) for first, second in combinations(ranks, 2)]


def krippendorff_alpha(values: Array, level: Level = "nominal") -> float:
    """Krippendorff's alpha, 1 − observed / expected disagreement.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), with coincidence matrices.

    Args:
        values: `[annotators, units]`, NaN where an annotator gave no value.
        level: which differences count: any (nominal), in ranks (ordinal) or in values (interval).

    Returns:
        alpha in (−1, 1]; 1 where all values are the same; NaN where no unit has two values.
    """
    coincidences, domain = _coincidences(values)
    return _alpha(coincidences.sum(axis=0), domain, level)


def _coincidences(values: Array) -> tuple[Array, Array]:
    """Coincidence matrices `[units, values, values]` of units with two or more values, and the values."""
    domain = np.unique(values[~np.isnan(values)])
    counts = (values[:, :, None] == domain).sum(axis=0).astype(float)
    totals = counts.sum(axis=1)
    counts, totals = counts[totals >= 2], totals[totals >= 2]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(domain))
    return pairs / (totals - 1)[:, None, None], domain


def _alpha(observed: Array, domain: Array, level: Level) -> float:
    """Alpha of the sum `[values, values]` of coincidence matrices."""
    marginal = observed.sum(axis=1)
    total = marginal.sum()
    if total == 0:
        return float("nan")
    expected = (np.outer(marginal, marginal) - np.diag(marginal)) / (total - 1)
    difference = _squared_differences(domain, marginal, level)
    expected_disagreement = float((expected * difference).sum())
    if expected_disagreement == 0:
        return 1.0
    return 1.0 - float((observed * difference).sum()) / expected_disagreement


def _squared_differences(domain: Array, marginal: Array, level: Level) -> Array:
    if level == "nominal":
        return 1.0 - np.eye(len(domain))
    if level == "interval":
        return (domain[:, None] - domain[None, :]) ** 2
    middle = np.cumsum(marginal) - marginal / 2
    return (middle[:, None] - middle[None, :]) ** 2


def agreement(
    store: Store,
    campaign: str,
    dimension: str | None = None,
    num_samples: int = 500,
    seed: int = 0,
    judgements: Sequence[JudgementRow] | None = None,
) -> Agreement:
    """Agreement of a campaign's annotators.

    Args:
        dimension: only this dimension; all by default.
        num_samples: bootstrap samples of the tasks for alpha's interval.
        seed: of the bootstrap.
        judgements: the newest ones of the campaign with skips, where they were read already.

    Raises:
        InputError: there is no such campaign, or it does not ask for this dimension.
    """
    asked = store.campaign(campaign).dimensions
    if dimension is not None and dimension not in asked:
        raise InputError(
            f"The campaign {campaign!r} has no dimension {dimension!r}: choose one of {', '.join(asked)}."
        )
    everything = [
        judgement
        for judgement in _newest(store, campaign, judgements)
        if dimension is None or judgement.dimension == dimension
    ]
    rankings = [judgement for judgement in everything if judgement.ranks is not None]
    by_name: dict[str, list[JudgementRow]] = defaultdict(list)
    for judgement in everything:
        by_name[judgement.user.name].append(judgement)
    names = sorted(by_name)
    values, task_of_unit, _ = label_table(rankings, {name: row for row, name in enumerate(names)})
    alpha, low, high = _alpha_with_interval(values, task_of_unit, num_samples, seed)
    same, compared, same_decided, decided = _label_comparisons(values)
    labelled = ~np.isnan(values)
    return Agreement(
        alpha=alpha,
        alpha_low=low,
        alpha_high=high,
        pairwise=_ratio(same.sum(), compared.sum()),
        pairwise_without_ties=_ratio(same_decided.sum(), decided.sum()),
        tie_rate=_ratio((values == 0).sum(), labelled.sum()),
        num_tasks=len({judgement.task_id for judgement in rankings}),
        num_judgements=len(rankings),
        num_labels=int(labelled.sum()),
        annotators=tuple(
            _annotator(name, by_name[name], values[row], same[row].sum(), compared[row].sum())
            for row, name in enumerate(names)
        ),
    )


def label_table(
    rankings: list[JudgementRow], row_of: dict[str, int]
) -> tuple[Array, NDArray[np.int64], list[tuple[int, str]]]:
    """Labels `[annotators, units]`, the task of each unit, and its task and dimension.

    A unit is a pair of a task in one dimension; the pairs of a task stand together, as in `pair_labels`.
    """
    by_task: dict[tuple[int, str], list[JudgementRow]] = defaultdict(list)
    for judgement in rankings:
        by_task[judgement.task_id, judgement.dimension].append(judgement)
    keys: list[tuple[int, str]] = []
    for key, judgements in by_task.items():
        count = len(judgements[0].ranks or [])
        keys += [key] * (count * (count - 1) // 2)
    table = np.full((len(row_of), len(keys)), np.nan)
    begin = 0
    for judgements in by_task.values():
        labels = [pair_labels(j.ranks or []) for j in judgements]
        for judgement, values in zip(judgements, labels):
            table[row_of[judgement.user.name], begin : begin + len(values)] = values
        begin += len(labels[0])
    return table, np.array([task for task, _ in keys], dtype=np.int64), keys


def _alpha_with_interval(
    values: Array, task_of_unit: NDArray[np.int64], num_samples: int, seed: int
) -> tuple[float, float, float]:
    compared = (~np.isnan(values)).sum(axis=0) >= 2
    if not compared.any():
        return float("nan"), float("nan"), float("nan")
    # Which video of a pair is named first is arbitrary; with both directions alpha does not depend on it.
    both_directions = np.concatenate([values[:, compared], -values[:, compared]], axis=1)
    coincidences, domain = _coincidences(both_directions)
    _, task = np.unique(np.tile(task_of_unit[compared], 2), return_inverse=True)
    by_task = np.zeros((task.max() + 1, len(domain), len(domain)))
    np.add.at(by_task, task, coincidences)
    alpha = _alpha(by_task.sum(axis=0), domain, "ordinal")
    if len(by_task) < LEAST_CLUSTERS:
        return alpha, float("nan"), float("nan")
    random, count = np.random.default_rng(seed), len(by_task)
    flat = by_task.reshape(count, -1)
    samples = []
    for _ in range(num_samples):
        # How often each task was drawn: its coincidences are added once, not once a draw.
        drawn = np.bincount(random.integers(count, size=count), minlength=count)
        samples.append(_alpha((drawn @ flat).reshape(by_task.shape[1:]), domain, "ordinal"))
    low, high = np.percentile(samples, [2.5, 97.5])
    return alpha, float(low), float(high)


def _label_comparisons(values: Array) -> tuple[Array, Array, Array, Array]:
    """For each two annotators `[annotators, annotators]`: labels that are the same and labels compared, first
    of all labels, then of those where both decided; zeros on the diagonals."""
    second, tie, first = (np.equal(values, label).astype(np.float64) for label in (-1.0, 0.0, 1.0))
    decided = first + second
    same_decided = first @ first.T + second @ second.T
    tables = same_decided + tie @ tie.T, (decided + tie) @ (decided + tie).T
    found = (*tables, same_decided, decided @ decided.T)
    for table in found:
        np.fill_diagonal(table, 0.0)
    return found


def _annotator(
    name: str, own: list[JudgementRow], labels: Array, same: float, compared: float
) -> AnnotatorQuality:
    ranked = {j.task_id: j.seconds for j in own if j.ranks is not None}
    # An imported judgement of 0 seconds is one whose time is not known.
    timed = [seconds for seconds in ranked.values() if seconds or not own[0].user.imported]
    return AnnotatorQuality(
        name=name,
        simulated=own[0].user.simulated,
        imported=own[0].user.imported,
        judgements=len(ranked),
        skips=len({j.task_id for j in own if j.ranks is None}),
        median_seconds=median(timed) if timed else float("nan"),
        tie_rate=_ratio((labels == 0).sum(), (~np.isnan(labels)).sum()),
        agreement=_ratio(same, compared),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
