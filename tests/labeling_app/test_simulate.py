"""Simulated annotators, and the best accuracy that their labels allow."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from generator.output import InputError
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import ranking_rows
from labeling_app.simulate import (
    SimulatedAnnotator,
    best_possible_pair_accuracy,
    pair_probabilities,
    position_weights,
    precomputed_scores,
    ranks_from_perceived,
    simulate,
)
from labeling_app.store.store import Store
from tests.labeling_app.gold_scores import gold


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def judgements(store: Store) -> list[tuple[int, str, list[int] | None, float]]:
    return [(j.task_id, j.user.name, j.ranks, j.seconds) for j in store.judgements("main")]


def test_they_judge_everything_through_the_store_and_are_flagged(filled: Store) -> None:
    done = simulate(filled, "main", gold, annotators=3, seed=1)
    assert done.num_judgements == 24
    assert [task.completed for task in filled.tasks("main")] == [2] * 12
    assert [(user.name, user.simulated) for user in filled.users()] == [
        (f"simulated-{number}", True) for number in (1, 2, 3)
    ]
    assert {j.user.name for j in filled.judgements("main")} == {"simulated-1", "simulated-2", "simulated-3"}
    assert all(j.seconds > 0 for j in filled.judgements("main"))
    assert simulate(filled, "main", gold, annotators=3, seed=1).num_judgements == 0


def test_the_same_seed_gives_the_same_judgements(tmp_path: Path, candidates: Path) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        store = Store(tmp_path / f"{name}.db")
        import_tasks(store, candidates, campaign="main", overlap=2)
        simulate(store, "main", gold, annotators=3, seed=seed, position_bias=0.2)
        results.append(judgements(store))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_videos_of_other_bytes_are_answered_alike(tmp_path: Path, candidates: Path) -> None:
    """Another processor writes the same videos with other last bits: what is drawn must not hang on them."""
    other = tmp_path / "other"
    shutil.copytree(candidates, other)
    for video in other.rglob("*.mp4"):
        video.write_bytes(video.read_bytes() + b"\0\0\0\x08free")
    results, fingerprints = [], []
    for folder in (candidates, other):
        store = Store(tmp_path / f"{len(results)}.db")
        import_tasks(store, folder, campaign="main", overlap=2)
        simulate(store, "main", gold, annotators=3, seed=1, position_bias=0.2)
        results.append(judgements(store))
        fingerprints.append([task.fingerprint for task in store.tasks("main")])
    assert fingerprints[0] != fingerprints[1]
    assert len(results[0]) == 24
    assert results[0] == results[1]


def test_without_noise_and_ties_they_rank_by_the_gold_score(filled: Store) -> None:
    simulate(filled, "main", gold, annotators=2, noise=0.0, tie_threshold=0.0)
    for task in filled.tasks("main"):
        scores = np.array([gold(Path(video.media.path), "") for video in task.videos])
        expected = [int((scores > score).sum()) + 1 for score in scores]
        for judgement in filled.judgements("main"):
            if judgement.task_id == task.id:
                assert judgement.ranks is not None
                assert np.array_equal(
                    np.argsort(judgement.ranks, kind="stable"), np.argsort(expected, kind="stable")
                )


def test_a_position_bias_favours_the_video_shown_first(filled: Store) -> None:
    from labeling_app.store.tables import Assignment

    annotators = [
        SimulatedAnnotator(f"simulated-{i}", noise=0.0, tie_threshold=0.0, position_bias=50.0) for i in (1, 2)
    ]
    simulate(filled, "main", gold, annotators)
    with filled.read() as session:
        rows = {(a.task_id, a.user_id): a.permutation for a in session.query(Assignment)}
    for judgement in filled.judgements("main"):
        assert judgement.ranks is not None
        shown = [judgement.ranks[position] for position in rows[judgement.task_id, judgement.user_id]]
        assert shown == [1, 2, 3, 4]


def test_a_motion_bias_favours_or_shuns_videos_that_move(filled: Store) -> None:
    pytest.importorskip("generator.video")
    annotators = [
        SimulatedAnnotator(f"simulated-{i}", noise=0.0, tie_threshold=0.0, motion_bias=-50.0) for i in (1, 2)
    ]
    done = simulate(filled, "main", gold, annotators)
    for judgement in filled.judgements("main"):
        motions = done.motions[judgement.task_id - 1]
        assert judgement.ranks is not None
        assert np.argmin(motions) == np.argmin(judgement.ranks)


def test_wrong_input_is_one_clear_sentence(filled: Store, candidates: Path, store: Store) -> None:
    with pytest.raises(InputError, match="overlap of 2"):
        simulate(filled, "main", gold, annotators=1)
    with pytest.raises(InputError, match="no campaign"):
        simulate(filled, "other", gold)
    with pytest.raises(InputError, match="has no score"):
        simulate(filled, "main", precomputed_scores({}))
    for sizes in ({"noise": math.nan}, {"noise": -1.0}, {"tie_threshold": -0.1}, {"position_bias": math.inf}):
        with pytest.raises(InputError, match=f"{next(iter(sizes))} is .*: give a number"):
            simulate(filled, "main", gold, **sizes)
    with pytest.raises(InputError, match=r"The score of the video .* is nan"):
        simulate(filled, "main", lambda video, prompt: math.nan)
    assert filled.judgements("main") == []
    import_tasks(filled, candidates, campaign="two", dimensions=["visual", "motion"])
    with pytest.raises(InputError, match="one for each dimension"):
        simulate(filled, "two", gold)
    with pytest.raises(InputError, match="'motion' has no score"):
        simulate(filled, "two", {"visual": gold})
    filled.add_user("simulated-9", "correct horse")
    with pytest.raises(InputError, match="is a person"):
        simulate(filled, "main", gold, [SimulatedAnnotator("simulated-9"), SimulatedAnnotator("simulated-8")])


def test_ranks_follow_grades_with_ties() -> None:
    assert ranks_from_perceived([0.31, 0.39, 0.05, 0.9], 0.1) == [2, 2, 4, 1]
    assert ranks_from_perceived([0.31, 0.39, 0.05, 0.9], 0.0) == [3, 2, 4, 1]


@pytest.mark.parametrize(
    ("a", "b", "noise", "step", "leniency"),
    [
        (0.5, 0.5, 0.1, 0.1, 0.0),
        (0.7, 0.5, 0.15, 0.1, 0.03),
        (0.2, 0.9, 0.4, 0.25, -0.1),
        (0.62, 0.6, 0.02, 0.3, 0.0),
        (0.62, 0.58, 0.0, 0.3, 0.0),
        (0.3, 0.5, 0.2, 0.0, 0.0),
    ],
)
def test_pair_probabilities_agree_with_sampling(
    a: float, b: float, noise: float, step: float, leniency: float
) -> None:
    count = 200_000
    drawn = np.random.default_rng(0).standard_normal((2, count)) * noise
    perceived = np.array([[a], [b]]) + leniency + drawn
    grades = np.floor(perceived / step) if step else perceived
    sampled = [
        np.mean(grades[0] > grades[1]),
        np.mean(grades[0] == grades[1]),
        np.mean(grades[0] < grades[1]),
    ]
    exact = pair_probabilities(a, b, noise, step, leniency)
    assert sum(exact) == pytest.approx(1.0, abs=1e-9)
    assert exact == pytest.approx(sampled, abs=5e-3)


def test_without_ties_it_is_thurstones_law() -> None:
    above, tie, below = pair_probabilities(0.7, 0.4, 0.2)
    assert above == pytest.approx(norm.cdf(0.3 / np.sqrt(2 * 0.2**2)), abs=1e-12)
    assert (tie, above + below) == (0.0, pytest.approx(1.0))
    # A scale of very small steps comes near it.
    assert pair_probabilities(0.7, 0.4, 0.2, 0.002)[0] == pytest.approx(above, abs=2e-3)


def test_best_possible_accuracy_agrees_with_sampled_annotators() -> None:
    random = np.random.default_rng(3)
    scores = [list(random.choice([0.2, 0.4, 0.6, 0.8], size=4)) for _ in range(6)]
    motions = [list(random.standard_normal(4)) for _ in range(6)]
    annotators = [
        SimulatedAnnotator("a", noise=0.2, tie_threshold=0.15, leniency=0.04, position_bias=0.1),
        SimulatedAnnotator("b", noise=0.1, tie_threshold=0.0, motion_bias=-0.1),
    ]
    right = decided = 0.0
    for gold_scores, moves in zip(scores, motions):
        for annotator in annotators:
            for _ in range(1500):
                order = random.permutation(4)
                shift = np.empty(4)
                shift[order] = annotator.position_bias * position_weights(4)
                perceived = (
                    np.array(gold_scores)
                    + annotator.leniency
                    + annotator.motion_bias * np.array(moves)
                    + shift
                    + annotator.noise * random.standard_normal(4)
                )
                ranks = ranks_from_perceived(perceived, annotator.tie_threshold)
                for i, j in combinations(range(4), 2):
                    if ranks[i] != ranks[j]:
                        decided += 1
                        difference = gold_scores[i] - gold_scores[j]
                        right += 0.5 if difference == 0 else float((difference > 0) == (ranks[i] < ranks[j]))
    exact = best_possible_pair_accuracy(scores, annotators, motions)
    assert exact == pytest.approx(right / decided, abs=0.01)
    assert 0.5 < exact < 1.0


def test_exact_annotators_allow_full_accuracy_and_blind_ones_none() -> None:
    assert best_possible_pair_accuracy([[0.1, 0.5, 0.9]], [SimulatedAnnotator("a", 0.0, 0.0)]) == 1.0
    blind = best_possible_pair_accuracy([[0.1, 0.5, 0.9]], [SimulatedAnnotator("a", 1e6, 0.0)])
    assert blind == pytest.approx(0.5, abs=1e-5)


def test_simulation_reports_the_accuracy_that_its_own_labels_have(store: Store, candidates: Path) -> None:
    import_tasks(store, candidates, campaign="main", overlap=8)
    done = simulate(store, "main", gold, annotators=8, seed=0, noise=0.25)
    right = decided = 0
    for row in ranking_rows(store, "main", candidates):
        scores = [gold(Path(video), "") for video in row["videos"]]
        for i, j in combinations(range(4), 2):
            if row["ranks"][i] != row["ranks"][j] and scores[i] != scores[j]:
                decided += 1
                right += (scores[i] > scores[j]) == (row["ranks"][i] < row["ranks"][j])
    assert done.best_possible_pair_accuracy() == pytest.approx(right / decided, abs=0.05)
