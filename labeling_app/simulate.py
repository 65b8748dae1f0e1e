"""Simulated annotators: they rank by a gold score with noise, bias and ties, through the store that people "
"use.

An annotator perceives the score of a video as

    perceived = score + leniency + position bias + motion bias + Gaussian noise

and grades it on a scale whose steps are `tie_threshold` apart; videos of the same grade are ties. So ties are
transitive, and the probability of each label of a pair does not depend on the other videos of the ranking.
Their users are named `simulated-1`, `simulated-2`, … and flagged in the database.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from generator.output import InputError
from labeling_app.store.contents import require_unchanged, task_media
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign, Task, User
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.tasks.lease import AssignedTask

Score = Callable[[Path, str], float]
"""Gold score of a video for a prompt; higher is better."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Errors of one simulated annotator. All but `seconds_per_video` are on the scale of the gold score.

    Attributes:
        noise: standard deviation of the Gaussian noise on each video.
        tie_threshold: step of the annotator's scale, about the smallest difference that is seen; 0: no ties.
        leniency: constant added to each score; shifts where the steps of the scale lie.
        position_bias: added to the video shown first and taken from the one shown last, linear in between.
        motion_bias: added for each standard deviation by which a video moves more than the others of its
            task; people tend to a negative one.
        seconds_per_video: mean time spent.
    """

    name: str
    noise: float = 0.15
    tie_threshold: float = 0.1
    leniency: float = 0.0
    position_bias: float = 0.0
    motion_bias: float = 0.0
    seconds_per_video: float = 4.0


@dataclass(frozen=True)
class Simulation:
    """Result of a simulation; enough to compute the best possible accuracy.

    Attributes:
        annotators: who took part.
        num_judgements: rankings written now (not those of an earlier, interrupted run).
        scores: for each dimension and task of the campaign the gold scores of its videos in the task's order.
        motions: for each task the standardised motion of its videos; zeros where nobody has a motion bias.
    """

    annotators: tuple[SimulatedAnnotator, ...]
    num_judgements: int
    scores: dict[str, list[list[float]]]
    motions: list[list[float]]

    def best_possible_pair_accuracy(self, dimension: str = "overall") -> float:
        """`best_possible_pair_accuracy` of these annotators on all tasks of the campaign."""
        return best_possible_pair_accuracy(self.scores[dimension], self.annotators, self.motions)


def precomputed_scores(scores: Mapping[Path, float]) -> Score:
    """A score that looks up videos by path.

    Raises:
        InputError: (when called) a video has no score.
    """
    by_path = {Path(path).resolve(): float(score) for path, score in scores.items()}

    def score(video: Path, prompt: str) -> float:
        try:
            return by_path[video.resolve()]
        except KeyError:
            raise InputError(f"The video {video} has no score: give one score for each video.") from None

    return score


def sample_annotators(
    count: int = 3,
    seed: int = 0,
    noise: float = 0.15,
    tie_threshold: float = 0.1,
    position_bias: float = 0.0,
    motion_bias: float = 0.0,
    spread: float = 0.3,
) -> tuple[SimulatedAnnotator, ...]:
    """Annotators who differ from each other: each size is drawn within ± `spread` of the one given."""
    annotators = []
    for number in range(1, count + 1):
        drawn = random.Random(f"{seed}:annotator:{number}")
        vary = [drawn.uniform(1 - spread, 1 + spread) for _ in range(5)]
        annotators.append(
            SimulatedAnnotator(
                name=f"simulated-{number}",
                noise=noise * vary[0],
                tie_threshold=tie_threshold * vary[1],
                leniency=drawn.uniform(-0.5, 0.5) * tie_threshold,
                position_bias=position_bias * vary[2],
                motion_bias=motion_bias * vary[3],
                seconds_per_video=4.0 * vary[4],
            )
        )
    return tuple(annotators)


def simulate(
    store: Store,
    campaign: str,
    score: Score | Mapping[str, Score],
    annotators: int | Sequence[SimulatedAnnotator] = 3,
    seed: int = 0,
    noise: float = 0.15,
    tie_threshold: float = 0.1,
    position_bias: float = 0.0,
    motion_bias: float = 0.0,
    progress: bool = False,
) -> Simulation:
    """Lets simulated annotators rank all that is left to rank; an interrupted run goes on where it stopped.

    They take turns, get their tasks from `assignment.next_task` and answer through `submit`. Their noise, their
    seconds and the order they are shown are drawn by the seed, the annotator, the campaign and the task's place
    among those of its prompt, not by what the videos hold: another processor changes their last bits alone.

    Args:
        score: gold score; for a campaign of several dimensions a mapping from dimension to score.
        annotators: a number (see `sample_annotators`, which takes the arguments below), or the annotators.

    Raises:
        InputError: there is no such campaign, fewer annotators than its overlap, a dimension without a
            score, a score or size that is no finite number, or a person has the name of a simulated annotator.
    """
    if isinstance(annotators, int):
        _check_sizes(noise, tie_threshold, position_bias, motion_bias)
        annotators = sample_annotators(annotators, seed, noise, tie_threshold, position_bias, motion_bias)
    row = _open_campaign(store, campaign, len(annotators))
    by_dimension = _scores_by_dimension(score, row.dimensions, campaign)
    tasks = store.tasks(campaign)
    known = {task.id: task for task in [*tasks, *store.tasks(campaign, kind="gold")]}
    require_unchanged(task_media(known.values()), "import the new ones in another campaign")
    names = _task_names(campaign, known.values())
    users = {annotator.name: _simulated_user(store, annotator.name) for annotator in annotators}
    draws = {name: random.Random(f"{seed}:hidden:{name}") for name in users}
    total = sum(max(0, row.overlap - task.completed) for task in tasks)
    with tqdm(total=total, desc="Simulated annotators", unit="ranking", disable=not progress) as bar:
        scores = {
            task.id: {
                dimension: [_finite(scorer, store.remote.local(v.media), task.prompt) for v in task.videos]
                for dimension, scorer in by_dimension.items()
            }
            for task in known.values()
        }
        motions = {task.id: _task_motions(store, task, annotators) for task in known.values()}
        written = 0
        active = list(annotators)
        while active:
            for annotator in list(active):
                assigned = assignment.next_task(
                    store,
                    users[annotator.name],
                    campaign,
                    _order(seed, annotator.name, names),
                    draws[annotator.name].random,
                )
                if assigned is None:
                    active.remove(annotator)
                    continue
                task, original = _shown_task(store, assigned.task, known)
                name = _name_of(task, names)
                ranks, seconds = _answer(annotator, assigned, scores[original], motions[original], name, seed)
                submit(store, users[annotator.name], assigned.assignment, ranks, seconds)
                if task.kind == "normal":
                    written += 1
                    bar.update()
    return Simulation(
        tuple(annotators),
        written,
        {dimension: [scores[task.id][dimension] for task in tasks] for dimension in by_dimension},
        [motions[task.id] for task in tasks],
    )


def _open_campaign(store: Store, name: str, annotators: int) -> Campaign:
    """The campaign, if it is open and so many annotators can fill its overlap.

    Raises:
        InputError: it is not.
    """
    row = store.campaign(name)
    if row.state != "open":
        raise InputError(f"The campaign {name!r} is {row.state}: reopen it first.")
    if annotators < row.overlap:
        raise InputError(
            f"{annotators} simulated annotator(s) cannot fill the overlap of {row.overlap} of campaign "
            f"{name!r}: simulate at least {row.overlap}."
        )
    return row


def _shown_task(store: Store, task_id: int, known: Mapping[int, Task]) -> tuple[Task, int]:
    """The task that is shown, and the id of the one whose scores it has: a repeat has those of its original."""
    if task_id in known:
        return known[task_id], task_id
    with store.read() as session:
        task = session.get_one(Task, task_id)
    return task, task.copy_of or task_id


def _task_names(campaign: str, tasks: Iterable[Task]) -> dict[int, str]:
    """Name of each task by its id: campaign, kind, prompt and its place among the tasks of the same three."""
    counted: Counter[str] = Counter()
    names = {}
    for task in sorted(tasks, key=lambda task: task.id):
        same = f"{campaign}:{task.kind}:{task.prompt}"
        names[task.id] = f"{same}:{counted[same]}"
        counted[same] += 1
    return names


def _name_of(task: Task, names: Mapping[int, str]) -> str:
    """Name of a task; a repeat is named by its original, and has noise of its own."""
    return names[task.id] if task.id in names else f"repeat:{names[task.copy_of or task.id]}"


def _answer(
    annotator: SimulatedAnnotator,
    assigned: AssignedTask,
    scores: Mapping[str, Sequence[float]],
    motions: Sequence[float],
    name: str,
    seed: int,
) -> tuple[dict[str, list[int]], float]:
    """Ranks in the order shown for each dimension, and the seconds spent."""
    count = len(assigned.permutation)
    order = list(assigned.permutation)
    ranks = {}
    for dimension, values in scores.items():
        drawn = _generator(f"{seed}:noise:{annotator.name}:{name}:{dimension}")
        # Noise belongs to the video, so it is drawn in the task's order.
        noise = annotator.noise * drawn.standard_normal(count)
        perceived = (
            np.asarray(values, dtype=float)
            + annotator.leniency
            + annotator.motion_bias * np.asarray(motions, dtype=float)
            + noise
        )[order] + annotator.position_bias * position_weights(count)
        ranks[dimension] = ranks_from_perceived(perceived, annotator.tie_threshold)
    drawn = _generator(f"{seed}:seconds:{annotator.name}:{name}")
    seconds = annotator.seconds_per_video * count * float(drawn.lognormal(-0.045, 0.3))
    return ranks, seconds


def _order(seed: int, annotator: str, names: Mapping[int, str]) -> Callable[[Task], list[int]]:
    """The order in which an annotator sees a task's videos."""

    def order(task: Task) -> list[int]:
        drawn = random.Random(f"{seed}:order:{annotator}:{_name_of(task, names)}")
        return drawn.sample(range(len(task.videos)), len(task.videos))

    return order


def position_weights(count: int) -> Array:
    """1 for the video shown first, −1 for the last, linear in between."""
    return np.linspace(1.0, -1.0, count)


def ranks_from_perceived(perceived: ArrayLike, tie_threshold: float) -> list[int]:
    """Ranks (1 is best) of perceived scores on a scale whose steps are `tie_threshold` apart."""
    values = np.asarray(perceived, dtype=float)
    grades = np.floor(values / tie_threshold) if tie_threshold > 0 else values
    return [int(rank) for rank in (grades[None, :] > grades[:, None]).sum(axis=1) + 1]


def pair_probabilities(
    score_a: float,
    score_b: float,
    noise: float | tuple[float, float],
    tie_threshold: float = 0.0,
    leniency: float = 0.0,
) -> tuple[float, float, float]:
    """Probabilities that A is ranked above B, that they tie, and that B is ranked above A.

    Each score gets independent Gaussian noise and is graded on a scale with steps of `tie_threshold`. Without
    ties this is Thurstone's law of comparative judgement, case V: Φ((a − b) / √(2·noise²)).

    Args:
        noise: standard deviation, the same for both or one for each.
    """
    noise_a, noise_b = (noise, noise) if isinstance(noise, (int, float)) else noise
    if tie_threshold <= 0:
        scale = float(np.hypot(noise_a, noise_b))
        if scale == 0:
            return (float(score_a > score_b), float(score_a == score_b), float(score_a < score_b))
        above = _normal_cdf((score_a - score_b) / scale)
        return above, 0.0, 1.0 - above
    a, b = score_a + leniency, score_b + leniency
    reach = 9.0 * max(noise_a, noise_b)
    first = np.floor((min(a, b) - reach) / tie_threshold) - 1
    last = np.ceil((max(a, b) + reach) / tie_threshold) + 1
    edges = np.arange(first, last + 1) * tie_threshold
    grade_a, grade_b = _grade_probabilities(a, noise_a, edges), _grade_probabilities(b, noise_b, edges)
    below_a = np.concatenate([[0.0], np.cumsum(grade_a)[:-1]])
    below_b = np.concatenate([[0.0], np.cumsum(grade_b)[:-1]])
    return float(grade_a @ below_b), float(grade_a @ grade_b), float(grade_b @ below_a)


def _grade_probabilities(score: float, noise: float, edges: Array) -> Array:
    if noise == 0:
        return np.diff((score < edges).astype(float))
    return np.diff([_normal_cdf(edge) for edge in (edges - score) / noise])


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def best_possible_pair_accuracy(
    scores: Sequence[Sequence[float]],
    annotators: Sequence[SimulatedAnnotator],
    motions: Sequence[Sequence[float]] | None = None,
) -> float:
    """Expected pair accuracy of an oracle that ranks by the gold score, on the annotators' labels without "
    "ties.

    It is what a perfect reward model reaches against these labels. Where the gold scores of a pair are
    equal the oracle guesses. Every annotator is taken to judge every pair, and positions are averaged over
    all orders. (A model that learns the annotators' own motion bias can be above it.)

    Args:
        scores: gold scores of the videos of each task.
        annotators: who labels.
        motions: standardised motion of the videos of each task, for annotators with a motion bias.

    Returns:
        a number in [0, 1], NaN where all labels are ties.
    """
    right = decided = 0.0
    for place, gold in enumerate(scores):
        moves = motions[place] if motions is not None else [0.0] * len(gold)
        for annotator in annotators:
            for i, j in combinations(range(len(gold)), 2):
                above, below = _decided_probabilities(annotator, gold, moves, i, j)
                decided += above + below
                if gold[i] == gold[j]:
                    right += (above + below) / 2
                else:
                    right += above if gold[i] > gold[j] else below
    return right / decided if decided else float("nan")


def _decided_probabilities(
    annotator: SimulatedAnnotator, gold: Sequence[float], motions: Sequence[float], i: int, j: int
) -> tuple[float, float]:
    """Probabilities that i is ranked above j and below j, averaged over the places where both are shown."""
    a = gold[i] + annotator.motion_bias * motions[i]
    b = gold[j] + annotator.motion_bias * motions[j]
    shifts = [(0.0, 0.0)]
    if annotator.position_bias:
        shifts = list(permutations(annotator.position_bias * position_weights(len(gold)), 2))
    outcomes = [
        pair_probabilities(
            a + shift_a, b + shift_b, annotator.noise, annotator.tie_threshold, annotator.leniency
        )
        for shift_a, shift_b in shifts
    ]
    above, _, below = np.mean(outcomes, axis=0)
    return float(above), float(below)


def _check_sizes(noise: float, tie_threshold: float, position_bias: float, motion_bias: float) -> None:
    sizes = {"noise": noise, "tie_threshold": tie_threshold}
    for name, value in {**sizes, "position_bias": position_bias, "motion_bias": motion_bias}.items():
        if not math.isfinite(value) or (name in sizes and value < 0):
            raise InputError(f"{name} is {value}: give a number{', 0 or more' if name in sizes else ''}.")


def _finite(score: Score, video: Path, prompt: str) -> float:
    value = score(video, prompt)
    if not math.isfinite(value):
        raise InputError(f"The score of the video {video} is {value}: give a number for each video.")
    return value


def _scores_by_dimension(
    score: Score | Mapping[str, Score], dimensions: Sequence[str], campaign: str
) -> dict[str, Score]:
    if not isinstance(score, Mapping):
        if len(dimensions) > 1:
            raise InputError(
                f"The campaign {campaign!r} asks for {', '.join(dimensions)}, but one score was given: give "
                "one for each dimension."
            )
        return {dimensions[0]: score}
    missing = [dimension for dimension in dimensions if dimension not in score]
    if missing:
        raise InputError(f"The dimension {missing[0]!r} has no score: give one for each dimension.")
    return {dimension: score[dimension] for dimension in dimensions}


def _simulated_user(store: Store, name: str) -> User:
    user = store.user(name) or store.add_user(name, simulated=True)
    if not user.simulated:
        raise InputError(f"The user {name!r} is a person: name the simulated annotator otherwise.")
    return user


def _task_motions(store: Store, task: Task, annotators: Sequence[SimulatedAnnotator]) -> list[float]:
    """Mean absolute difference of neighbouring frames, standardised within the task."""
    if not any(annotator.motion_bias for annotator in annotators):
        return [0.0] * len(task.videos)
    from generator.bounded_reading import read_within

    motions = []
    for video in task.videos:
        frames, _ = read_within(store.remote.local(video.media))
        motions.append(float(frames.diff(dim=1).abs().mean()) if frames.shape[1] > 1 else 0.0)
    spread = float(np.std(motions))
    return [(motion - float(np.mean(motions))) / spread if spread else 0.0 for motion in motions]


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(key.encode(errors="replace")).digest()))
