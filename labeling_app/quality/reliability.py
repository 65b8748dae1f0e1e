"""Reliability of each annotator, found from the labels alone, and rankings that weigh annotators by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from generator.output import InputError
from labeling_app.quality.adjudication import adjudications, final_rankings
from labeling_app.quality.agreement import label_table
from labeling_app.store.contents import image_files, require_unchanged, task_media
from labeling_app.store.database import existing_database, shown_source, split_source
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.remarks import orders_shown
from labeling_app.store.store import Store
from labeling_app.store.tags import tags_by_video
from reward.preferences import Ranking

Array = NDArray[np.float64]
CLASSES = np.array([-1.0, 0.0, 1.0])
"""Labels of a pair: the second video is better, a tie, the first is better."""
NO_LABEL = 2


@dataclass(frozen=True)
class DawidSkene:
    """Maximum a posteriori estimate of the model of Dawid and Skene.

    Attributes:
        posterior: `[units, classes]` probability of each true label.
        confusion: `[annotators, classes, classes]` probability of a label (last) given the true one.
        prior: `[classes]` shares of the true labels.
        log_posterior: objective after each iteration, without constants; it never falls.
    """

    posterior: Array
    confusion: Array
    prior: Array
    log_posterior: tuple[float, ...]

    @property
    def accuracy(self) -> Array:
        """`[annotators]` probability of labelling a pair right."""
        return np.einsum("c,acc->a", self.prior, self.confusion)


def dawid_skene(values: Array, iterations: int = 200, smoothing: float = 1.0) -> DawidSkene:
    """Expectation maximisation of Dawid and Skene, Maximum Likelihood Estimation of Observer Error-Rates Using
    the EM Algorithm (1979), with Dirichlet priors.

    Args:
        values: `[annotators, units]` labels −1, 0 or 1, NaN where there is none.
        smoothing: pseudo-count of each label of each annotator.
    """
    # Units with the same labels have the same posterior, so each kind of unit is worked on once.
    kinds, kind_of_unit, sizes = np.unique(
        np.nan_to_num(values, nan=NO_LABEL).T.astype(np.int8), axis=0, return_inverse=True, return_counts=True
    )
    kind, annotator = np.nonzero(kinds != NO_LABEL)
    cell = 3 * annotator + kinds[kind, annotator] + 1  # of an annotator and a label
    count = len(values)

    def by_kind(weights: Array) -> Array:
        """Sums `[kinds, classes]` of the rows `[labels given, classes]`."""
        return np.stack([np.bincount(kind, each, minlength=len(kinds)) for each in weights.T], axis=1)

    votes = by_kind(np.eye(3)[cell % 3]) + 1e-3
    posterior = votes / votes.sum(axis=1, keepdims=True)
    history: list[float] = []
    for _ in range(iterations):
        weighted = posterior * sizes[:, None]
        totals = weighted.sum(axis=0) + smoothing
        prior = totals / totals.sum()
        given = np.stack([np.bincount(cell, each, minlength=3 * count) for each in weighted[kind].T])
        counts = given.reshape(3, count, 3).transpose(1, 0, 2) + smoothing
        confusion = counts / counts.sum(axis=2, keepdims=True)
        # `[annotators and labels, classes]`
        log_confusion = np.log(confusion).transpose(0, 2, 1).reshape(-1, 3)
        joint = np.log(prior) + by_kind(log_confusion[cell])
        peak = joint.max(axis=1, keepdims=True)
        evidence = peak[:, 0] + np.log(np.exp(joint - peak).sum(axis=1))
        penalty = smoothing * (np.log(prior).sum() + np.log(confusion).sum())
        posterior = np.exp(joint - evidence[:, None])
        history.append(float(sizes @ evidence + penalty))
        if len(history) > 1 and history[-1] - history[-2] < 1e-7 * values.shape[1]:
            break
    return DawidSkene(posterior[kind_of_unit.reshape(-1)], confusion, prior, tuple(history))


@dataclass(frozen=True)
class Reliability:
    """One annotator, as far as the labels of all tell.

    Attributes:
        accuracy: estimated probability of labelling a pair as the truth is (Dawid–Skene); NaN where nobody else
            labelled the same pairs, since there is nothing to estimate it from.
        first_place_rate: share of rankings with one best video in which it was the one shown first.
        position_bias_p: probability of a rate as far from chance if positions did not matter (exact binomial).
        flags: what a lead should look at: `spammer`, `position bias`, `too fast`.
    """

    name: str
    accuracy: float
    first_place_rate: float
    position_bias_p: float
    flags: tuple[str, ...]


def reliabilities(
    store: Store, campaign: str, judgements: Sequence[JudgementRow] | None = None
) -> list[Reliability]:
    """Every annotator of a campaign, by name.

    A spammer labels no better than somebody who draws labels at random with the shares that all labels have; nobody is
    called one whose labels can be compared with no one's. A
    position bias is flagged at p < 0.01 divided by the number of annotators (Bonferroni), speed below a quarter of the
    median annotator's.

    Args:
        judgements: the newest ones of the campaign, where they were read already; skips among them do not count.

    Raises:
        InputError: there is no such campaign.
    """
    found_judgements = store.judgements(campaign) if judgements is None else judgements
    rankings = [judgement for judgement in found_judgements if judgement.ranks is not None]
    names, model, compared = _fit(rankings)
    chance = float((model.prior**2).sum())
    firsts = _first_places(orders_shown(store, campaign), rankings)
    seconds: dict[str, list[float]] = defaultdict(list)
    for each in rankings:
        # An imported judgement of 0 seconds is one whose time is not known.
        if each.seconds or not each.user.imported:
            seconds[each.user.name].append(each.seconds)
    medians = {name: float(np.median(given)) for name, given in seconds.items()}
    usual = float(np.median(list(medians.values()))) if medians else 0.0
    found = []
    for name, accuracy, with_others in zip(names, model.accuracy, compared):
        shown_first, chances = firsts.get(name, ([], []))
        p = _binomial_p(int(sum(shown_first)), chances)
        flags = [
            flag
            for flag, holds in (
                ("spammer", bool(with_others) and accuracy < chance + 0.1),
                ("position bias", p < 0.01 / len(names)),
                ("too fast", medians.get(name, usual) < usual / 4),
            )
            if holds
        ]
        rate = float(np.mean(shown_first)) if shown_first else float("nan")
        known = float(accuracy) if with_others else float("nan")
        found.append(Reliability(name, known, rate, p, tuple(flags)))
    return found


def aggregate(store: Store, campaign: str) -> list[Ranking]:
    """One ranking for each task and dimension: annotators weigh as much as they are reliable.

    Videos are ordered by their expected wins under the posterior of every pair (a tie is half a win);
    neighbours are tied where a tie is the most probable label of their pair. Where a lead has decided, the decision
    is the ranking.

    Raises:
        InputError: there is no such campaign.
    """
    judgements = store.judgements(campaign)
    tasks = {task.id: task for task in store.tasks(campaign)}
    names, model, _ = _fit(judgements)
    _, _, keys = label_table(judgements, {name: row for row, name in enumerate(names)})
    decided = adjudications(store, campaign)
    rankings = []
    units_of: dict[tuple[int, str], list[int]] = defaultdict(list)
    for unit, key in enumerate(keys):
        units_of[key].append(unit)
    for key, units in units_of.items():
        task = tasks[key[0]]
        chosen = model.posterior[units]
        rankings.append(
            Ranking(
                prompt=task.prompt,
                videos=[store.remote.local(video.media) for video in task.videos],
                ranks=decided[key].ranks
                if key in decided
                else ranks_from_posterior(chosen, len(task.videos)),
                dimension=key[1],
                annotator="weighted",
                images=image_files(task, store.remote),
            )
        )
    return rankings


def ranks_from_posterior(posterior: Array, count: int) -> list[int]:
    """Ranks (1 is best) of `count` videos from `[pairs, classes]` posteriors of their pairs (i, j), i < j."""
    wins = np.zeros(count)
    tied = set()
    for (i, j), (second, tie, first) in zip(combinations(range(count), 2), posterior):
        wins[i] += first + tie / 2
        wins[j] += second + tie / 2
        if tie > max(first, second):
            tied.add((i, j))
    order = sorted(range(count), key=lambda video: -wins[video])
    ranks, rank = [0] * count, 1
    for better, video in zip([None, *order], order):
        if better is not None and tuple(sorted((better, video))) not in tied:
            rank += 1
        ranks[video] = rank
    return ranks


def read_store(preferences: str, weighted: bool = False) -> list[Ranking]:
    """The rankings of `db:URL#campaign`, straight from the store.

    Args:
        preferences: for example `db:labels.db#first` or `db:postgresql://host/labels#first`.
        weighted: one ranking a task and dimension (see `aggregate`) instead of one for each annotator.

    Raises:
        InputError: this is not `db:URL#campaign`, or the campaign does not exist or has no rankings.
    """
    database, campaign = split_source(preferences)
    if not preferences.startswith("db:") or not database or not campaign:
        raise InputError(
            f"{shown_source(preferences)!r} names no campaign: write db:URL#campaign, such as db:labels.db#first."
        )
    with Store(existing_database(database), cache_bytes=None) as store:  # training reads all of them
        tasks = {task.id: task for task in store.tasks(campaign)}
        final = final_rankings(store, campaign)
        if not final:
            raise InputError(f"The campaign {campaign!r} has no rankings yet: let annotators rank first.")
        used = [tasks[number] for number in dict.fromkeys(ranking.task_id for ranking in final)]
        require_unchanged(
            task_media(used), "train on a file that `vidalign label export --skip_bad` writes without them"
        )
        if weighted:
            return aggregate(store, campaign)
        return [
            Ranking(
                prompt=tasks[ranking.task_id].prompt,
                videos=[store.remote.local(video.media) for video in tasks[ranking.task_id].videos],
                ranks=ranking.ranks,
                dimension=ranking.dimension,
                annotator=ranking.annotator,
                seconds=ranking.seconds,
                images=image_files(tasks[ranking.task_id], store.remote),
                tags=tags_by_video(ranking.tags, len(ranking.ranks)),
            )
            for ranking in final
        ]


def _fit(judgements: list[JudgementRow]) -> tuple[list[str], DawidSkene, NDArray[np.bool_]]:
    """Names of the annotators, the model, and who of them labelled anything that somebody else labelled too."""
    names = sorted({judgement.user.name for judgement in judgements})
    values, _, _ = label_table(judgements, {name: row for row, name in enumerate(names)})
    # Which video of a pair is named first is arbitrary; with both directions the estimate does not depend on it.
    given = np.isfinite(values)
    compared = (given & (given.sum(axis=0) > 1)).any(axis=1)
    return names, dawid_skene(np.concatenate([values, -values], axis=1)), compared


def _first_places(
    orders: Mapping[tuple[int, int], list[int]], judgements: list[JudgementRow]
) -> dict[str, tuple[list[bool], list[float]]]:
    """For each annotator's rankings with one best video: whether it was shown first, and the chance of that."""
    found: dict[str, tuple[list[bool], list[float]]] = {}
    for judgement in judgements:
        ranks = judgement.ranks or []
        # Of imported judgements the order shown is not known.
        if ranks.count(1) != 1 or (judgement.task_id, judgement.user_id) not in orders:
            continue
        shown_first, chances = found.setdefault(judgement.user.name, ([], []))
        shown_first.append(ranks[orders[judgement.task_id, judgement.user_id][0]] == 1)
        chances.append(1 / len(ranks))
    return found


def _binomial_p(successes: int, chances: list[float]) -> float:
    """Two-sided exact p-value of a sum of independent trials with these chances (Poisson binomial)."""
    probabilities = np.ones(1)
    for chance in chances:
        probabilities = np.convolve(probabilities, [1 - chance, chance])
    return float(min(1.0, probabilities[probabilities <= probabilities[successes] * (1 + 1e-9)].sum()))
