"""Annotator weights on simulated annotators of known reliability, and rankings straight from the store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr

from generator.output import InputError
from labeling_app.campaigns.overview import campaign_quality
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import export_rankings
from labeling_app.quality.reliability import (
    _binomial_p,
    aggregate,
    dawid_skene,
    ranks_from_posterior,
    read_store,
    reliabilities,
)
from labeling_app.simulate import SimulatedAnnotator, simulate
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from reward.preferences import merge_annotators, read_rankings
from tests.labeling_app.gold_scores import gold


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(3))
def test_recovered_weights_rank_annotators_right(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    accuracy = np.array([0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    truth = drawn.choice([-1.0, 0.0, 1.0], size=800, p=[0.4, 0.2, 0.4])
    # Each annotator errs independently, to either of the two wrong labels alike.
    wrong = (truth + 1 + drawn.integers(1, 3, size=(7, 800))) % 3 - 1
    values = np.where(drawn.random((7, 800)) < accuracy[:, None], truth, wrong)
    values[drawn.random(values.shape) < 0.4] = np.nan
    model = dawid_skene(values)
    assert spearmanr(model.accuracy, accuracy).statistic >= 0.9
    assert np.abs(model.accuracy - accuracy).max() < 0.1
    assert (np.diff(model.log_posterior) > -1e-6).all()
    weighted = (np.array([-1, 0, 1])[model.posterior.argmax(axis=1)] == truth).mean()
    votes = np.stack([(values == label).sum(axis=0) for label in (-1, 0, 1)], axis=1)
    assert weighted > (np.array([-1, 0, 1])[votes.argmax(axis=1)] == truth).mean()


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (3, 12), (9, 12), (12, 12)])
def test_the_position_test_is_the_exact_binomial_one(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials, 0.25).pvalue
    assert _binomial_p(successes, [0.25] * trials) == pytest.approx(expected, rel=1e-9)


def test_spammers_and_position_biased_annotators_are_flagged(store: Store, candidates: Path) -> None:
    import_tasks(store, candidates, campaign="main", overlap=6)
    people = [SimulatedAnnotator(f"good-{i}", noise=0.05, tie_threshold=0.0) for i in range(4)]
    spammer = SimulatedAnnotator("spammer", noise=50.0, tie_threshold=0.0)
    biased = SimulatedAnnotator("biased", noise=0.05, tie_threshold=0.0, position_bias=5.0)
    simulate(store, "main", gold, annotators=[*people, spammer, biased])
    flags = {person.name: person.flags for person in reliabilities(store, "main")}
    assert "spammer" in flags["spammer"]
    assert "position bias" in flags["biased"]
    assert all("position bias" not in flags[f"good-{i}"] for i in range(4))
    assert all("spammer" not in flags[f"good-{i}"] for i in range(4))


def test_ranks_of_a_posterior() -> None:
    # Pairs 01, 02, 12: the first clearly better than both others, which are tied.
    posterior = np.array([[0.0, 0.1, 0.9], [0.1, 0.0, 0.9], [0.2, 0.6, 0.2]])
    assert ranks_from_posterior(posterior, 3) == [1, 2, 2]


def test_the_aggregate_outvotes_two_spammers_where_the_mean_rank_does_not(
    store: Store, candidates: Path, tmp_path: Path
) -> None:
    import_tasks(store, candidates, campaign="main", overlap=5)
    people = [SimulatedAnnotator(f"good-{i}", noise=0.02, tie_threshold=0.0) for i in range(2)]
    people += [SimulatedAnnotator(f"spammer-{i}", noise=50.0, tie_threshold=0.0) for i in range(3)]
    simulate(store, "main", gold, annotators=people)
    export_rankings(store, "main", tmp_path / "rankings.jsonl")

    def accuracy(rankings: list) -> float:
        right = [
            (gold(r.videos[i], "") > gold(r.videos[j], "")) == (r.ranks[i] < r.ranks[j])
            for r in rankings
            for i in range(4)
            for j in range(4)
            if gold(r.videos[i], "") > gold(r.videos[j], "")
        ]
        return float(np.mean(right))

    weighted, mean = aggregate(store, "main"), merge_annotators(read_rankings(tmp_path / "rankings.jsonl"))
    assert len(weighted) == len(mean) == 12
    assert accuracy(weighted) > accuracy(mean)


def test_the_store_gives_the_same_rankings_as_its_export(
    store: Store, candidates: Path, tmp_path: Path
) -> None:
    import_tasks(store, candidates, campaign="main", overlap=2)
    name = f"db:{tmp_path / 'labels.db'}#main"
    with pytest.raises(InputError, match="no rankings yet"):
        read_store(name)
    simulate(store, "main", gold, annotators=2)
    export_rankings(store, "main", tmp_path / "rankings.jsonl")
    exported = read_rankings(tmp_path / "rankings.jsonl")
    found = read_store(name)
    assert [(r.prompt, r.ranks, r.annotator) for r in found] == [
        (r.prompt, r.ranks, r.annotator) for r in exported
    ]
    assert [[v.resolve() for v in r.videos] for r in exported] == [r.videos for r in found]
    assert len(read_store(name, weighted=True)) == 12


@pytest.mark.parametrize("name", ["db:labels.db", "db:#main", "db:none.db#main", "labels.db#main"])
def test_a_wrong_name_of_a_campaign_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError):
        read_store(name)


def test_a_misspelt_database_is_not_made(tmp_path: Path) -> None:
    for database in (str(tmp_path / "typo.db"), f"sqlite:///{tmp_path / 'typo.db'}"):
        with pytest.raises(InputError, match="There is no database"):
            read_store(f"db:{database}#first")
    assert list(tmp_path.iterdir()) == []


def test_an_unanswered_campaign_has_no_annotators(store: Store, candidates: Path) -> None:
    import_tasks(store, candidates, campaign="main")
    assignment.next_task(store, store.add_user("ada"))
    assert reliabilities(store, "main") == []
    assert aggregate(store, "main") == []


@pytest.mark.parametrize(("merge", "count"), [(False, 24), (True, 12)])
def test_the_reward_command_reads_a_campaign_from_the_store(
    store: Store, candidates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool, count: int
) -> None:
    from alignment.cli.commands import reward as command
    from generator.testing import tiny_generator
    from reward.training.reward_config import RewardConfig
    from reward.training.vlm_trainer import VLMArguments

    import_tasks(store, candidates, campaign="main", overlap=2)
    simulate(store, "main", gold, annotators=2)
    given: dict = {}

    def train(generator: object, rankings: list, config: object, **keywords: object) -> tuple[None, dict]:
        given.update(rankings=rankings, **keywords)
        return None, {}

    monkeypatch.setattr("generator.load_generator", lambda *_, **__: tiny_generator())
    monkeypatch.setattr("reward.training.stage.train_reward_model", train)
    name = f"db:{tmp_path / 'labels.db'}#main"
    arguments = command.RewardArguments(preferences=name, merge_annotators=merge)
    command.run(arguments, RewardConfig(output_dir=str(tmp_path / "out")), VLMArguments())
    assert len(given["rankings"]) == count
    # There is no file whose hash could be stored, and the URL may hold a password.
    assert given["source"] is None


def test_nobody_is_called_a_spammer_whose_labels_can_be_compared_with_no_ones(
    store: Store, candidates: Path
) -> None:
    import_tasks(store, candidates, campaign="alone", overlap=1)
    simulate(store, "alone", gold, [SimulatedAnnotator("simulated-1", noise=50.0)], seed=0)
    (found,) = reliabilities(store, "alone")
    assert "spammer" not in found.flags


def test_there_is_no_weight_where_there_is_nothing_to_estimate_it_from(
    store: Store, candidates: Path
) -> None:
    import_tasks(store, candidates, campaign="alone", overlap=1)
    simulate(store, "alone", gold, [SimulatedAnnotator("simulated-1", noise=0.1)], seed=0)
    (found,) = reliabilities(store, "alone")
    assert math.isnan(found.accuracy)
    (person,) = campaign_quality(store, "alone")["annotators"]
    assert math.isnan(person["accuracy"])
    assert math.isnan(campaign_quality(store, "alone")["alpha_low"])


def test_dawid_skene_is_the_same_unit_by_unit() -> None:
    drawn = np.random.default_rng(7)
    truth = drawn.integers(-1, 2, size=300).astype(float)
    values = np.where(drawn.random((6, 300)) < 0.6, truth, drawn.integers(-1, 2, size=(6, 300)))
    values[drawn.random(values.shape) < 0.6] = np.nan  # some units have the same labels, some none
    model = dawid_skene(values, iterations=12, smoothing=0.5)
    observed = (values[:, :, None] == np.array([-1.0, 0.0, 1.0])).astype(float)
    posterior = observed.sum(axis=0) + 1e-3
    posterior /= posterior.sum(axis=1, keepdims=True)
    for _ in model.log_posterior:
        prior = (posterior.sum(axis=0) + 0.5) / (posterior.sum() + 1.5)
        counts = np.einsum("uc,aul->acl", posterior, observed) + 0.5
        confusion = counts / counts.sum(axis=2, keepdims=True)
        joint = prior * np.exp(np.einsum("aul,acl->uc", observed, np.log(confusion)))
        posterior = joint / joint.sum(axis=1, keepdims=True)
    objective = np.log(joint.sum(axis=1)).sum() + 0.5 * (np.log(prior).sum() + np.log(confusion).sum())
    np.testing.assert_allclose(model.posterior, posterior, atol=1e-10)
    np.testing.assert_allclose(model.confusion, confusion, atol=1e-10)
    assert model.log_posterior[-1] == pytest.approx(objective, abs=1e-8)


def test_dawid_skene_without_labels_is_empty() -> None:
    assert dawid_skene(np.full((3, 0), np.nan)).posterior.shape == (0, 3)
    assert dawid_skene(np.full((0, 0), np.nan)).posterior.shape == (0, 3)
