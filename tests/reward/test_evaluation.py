"""How well a reward agrees with rankings: figures against counting, the report, and `vidalign reward evaluate`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignment import cli
from generator.output import InputError
from generator.provenance import file_hash
from generator.testing import tiny_generator
from generator.video import write_video
from reward.evaluation import annotator_agreement, evaluate_reward, held_out_of_training, score_rankings
from reward.metrics import expected_calibration_error, position_baseline, reliability_curve
from reward.models.base import FunctionReward
from reward.models.ensemble import EnsembleRewardModel
from reward.preferences import Ranking, split_rankings, write_rankings
from reward.reports import agreement
from reward.reports.clips import read_shown


@pytest.fixture
def grey(tmp_path) -> list[Ranking]:
    """24 prompts with three videos, ranked by brightness, but for every fourth ranking, which is reversed."""
    rankings = []
    random = np.random.default_rng(0)
    for number in range(24):
        levels = random.uniform(-0.9, 0.9, 3)
        paths = [tmp_path / "videos" / f"{number}-{k}.mp4" for k in range(3)]
        for path, level in zip(paths, levels):
            write_video(path, torch.full((3, 2, 16, 16), float(level)), fps=8)
        order = np.argsort(np.argsort(-levels if number % 4 else levels)) + 1
        rankings.append(Ranking(f"prompt {number}", paths, order.tolist()))
    return rankings


def brightness(videos, prompts):
    return videos.mean(dim=(1, 2, 3, 4))


def test_accuracy_is_the_share_of_pairs_ordered_right(grey):
    result = evaluate_reward(FunctionReward(brightness, "brightness"), grey, progress=False)
    figures = result["dimensions"]["overall"]
    assert figures["accuracy"]["mean"] == pytest.approx(0.75)
    assert figures["accuracy"]["low"] < 0.75 < figures["accuracy"]["high"]
    first = [r.ranks[i] < r.ranks[j] for r in grey for i, j in combinations(range(3), 2)]
    assert figures["position_baseline"] == pytest.approx(np.mean(first))
    assert (figures["chance"], figures["tie_rate"], figures["pairs"]) == (0.5, 0.0, 72)
    assert result["videos"] == 72


def test_a_reward_that_looks_at_images_is_given_that_of_each_ranking(grey, tmp_path):
    white, black = (tmp_path / f"{name}.png" for name in ("white", "black"))
    for file in (white, black):
        Image.new("RGB", (16, 16), file.stem).save(file)
    files = [(str(white), None), (str(black), None), None]
    named = [replace(ranking, images=files[number % 3]) for number, ranking in enumerate(grey)]

    def seen(videos, prompts, images=None):
        return torch.full((len(videos),), -7.0) if images is None else images.mean((1, 2, 3))

    scores = score_rankings(FunctionReward(seen, "seen"), named, progress=False)
    for number, ranking in enumerate(named):
        for video in ranking.videos:
            assert scores[ranking.prompt, video]["overall"] == [1.0, -1.0, -7.0][number % 3]


def test_the_calibration_split_is_left_out_of_the_figures(grey):
    reward = FunctionReward(brightness, "brightness")
    result = evaluate_reward(reward, grey, calibration_fraction=0.25, progress=False)
    figures = result["dimensions"]["overall"]
    assert (figures["prompts"], figures["calibration_pairs"]) == (18, 18)
    assert figures["temperature"] != 1.0


def test_only_dimensions_of_both_are_judged(grey):
    visual = [Ranking(r.prompt, r.videos, r.ranks, "visual") for r in grey]
    reward = FunctionReward(lambda v, p: {"visual": brightness(v, p), "motion": -brightness(v, p)}, "two")
    result = evaluate_reward(reward, [*grey, *visual], progress=False)
    assert result["dimensions"]["visual"]["accuracy"]["mean"] == pytest.approx(0.75)
    assert result["dimensions"]["overall"]["accuracy"]["mean"] == pytest.approx(0.5)  # the mean of both is 0
    with pytest.raises(InputError, match="scores visual, motion, but the rankings judge alignment"):
        evaluate_reward(
            reward, [Ranking(r.prompt, r.videos, r.ranks, "alignment") for r in grey], progress=False
        )


def test_agreement_of_annotators_bounds_the_best_possible_accuracy():
    random = np.random.default_rng(1)
    rankings = []
    for pair in range(3000):
        videos = [Path(f"{pair}-a"), Path(f"{pair}-b")]
        for _ in range(3):
            first = random.uniform() < 0.8
            rankings.append(Ranking(f"{pair}", videos, [1, 2] if first else [2, 1]))
    found = annotator_agreement(rankings)
    assert found["pairs"] == 3000
    assert found["agreement"] == pytest.approx(0.8**2 + 0.2**2, abs=0.015)
    assert found["best_possible_at_most"] == pytest.approx(0.8, abs=0.015)
    swapped = [Ranking(r.prompt, r.videos[::-1], r.ranks[::-1]) for r in rankings[::2]]
    assert annotator_agreement([*rankings[1::2], *swapped]) == annotator_agreement(
        [*rankings[1::2], *rankings[::2]]
    )
    assert annotator_agreement(rankings[::3]) is None


def test_the_reliability_curve_gives_the_calibration_error():
    random = np.random.default_rng(2)
    probability = random.uniform(size=500)
    outcome = random.uniform(size=500) < probability**2
    curve = reliability_curve(probability, outcome)
    expected = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (probability >= low) & (probability < low + 0.1)
        expected += inside.sum() / 500 * abs(probability[inside].mean() - outcome[inside].mean())
    assert expected_calibration_error(probability, outcome) == pytest.approx(expected)
    assert sum(curve.count) == 500
    assert position_baseline([1, 1, -1, 0]) == pytest.approx(2 / 3)


def test_the_command_writes_html_json_and_a_plot(grey, tmp_path, capsys):
    write_rankings(tmp_path / "rankings.jsonl", grey)
    (tmp_path / "votes.json").write_text(
        json.dumps(
            [
                {"prompt": r.prompt, "generations": [v.name for v in r.videos], "ranking": r.ranks}
                for r in grey
            ]
        )
    )
    for source in ("rankings.jsonl", "votes.json"):
        arguments = ["reward", "evaluate", "--reward", "tests.reward.test_evaluation:brightness"]
        arguments += ["--preferences", str(tmp_path / source), "--output_dir", str(tmp_path / f"of-{source}")]
        assert cli.main([*arguments, "--calibration_fraction", "0", "--best_possible", "0.75"]) == 0
        assert "pair accuracy 0.750" in capsys.readouterr().out
        found = json.loads((tmp_path / f"of-{source}" / "report.json").read_text())
        assert found["dimensions"]["overall"]["best_possible"] == 0.75
        assert len(found["settings"]["preferences_sha256"]) == 64
        page = (tmp_path / f"of-{source}" / "report.html").read_text()
        assert "0.750" in page
        assert "<svg" in page
        assert (tmp_path / f"of-{source}" / "reliability.png").read_bytes()[:4] == b"\x89PNG"
        assert cli.main(arguments) == 2
        assert "not empty" in capsys.readouterr().err


def test_six_pairs_of_one_prompt_have_no_interval(grey, tmp_path, capsys, monkeypatch):
    read = []
    monkeypatch.setattr(agreement, "read_shown", lambda path: (read.append(path), read_shown(path))[1])
    videos = [video for ranking in grey[:2] for video in ranking.videos][:4]
    write_rankings(tmp_path / "rankings.jsonl", [Ranking("a prompt", videos, [1, 2, 3, 4])])
    arguments = ["reward", "evaluate", "--reward", "tests.reward.test_evaluation:brightness"]
    arguments += ["--preferences", str(tmp_path / "rankings.jsonl"), "--output_dir", str(tmp_path / "out")]
    assert cli.main([*arguments, "--calibration_fraction", "0"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"pair accuracy \d\.\d{3} \[too few prompts for an interval\]", said)
    assert "6 pairs of 1 prompts" in said
    found = json.loads((tmp_path / "out" / "report.json").read_text())["dimensions"]["overall"]["accuracy"]
    assert (found["low"], found["high"], found["clusters"]) == (None, None, 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"\[(\d\.\d{3}), \1\]", page)
    pairs = list(zip(read[::2], read[1::2], strict=True))
    assert len(set(pairs)) == len(pairs), "each pair is read once"
    assert page.count("<video") > len(read), "and shown by several rules"


def test_a_trained_model_is_evaluated_on_its_held_out_prompts_only(grey, tmp_path, capsys):
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    write_rankings(tmp_path / "rankings.jsonl", grey[:8])
    out = str(tmp_path / "reward")
    common = ["--preferences", str(tmp_path / "rankings.jsonl"), "--output_dir"]
    trained = ["reward", "--model", str(tmp_path / "model"), *common, out, "--num_train_epochs", "1"]
    trained += ["--use_cpu", "true", "--report_to", "none", "--ensemble", "2", "--held_out_fraction", "0.25"]
    assert cli.main(trained) == 0
    said = capsys.readouterr()
    assert said.err.count("Warning: 8 prompts are few, below 30") == 1
    assert "[too few prompts for an interval]" in said.out
    evaluated = ["reward", "evaluate", "--reward", out, "--device", "cpu", *common]
    assert cli.main([*evaluated, str(tmp_path / "a")]) == 0
    assert "only its 2 held-out rankings" in capsys.readouterr().out
    held_out = json.loads((tmp_path / "a" / "report.json").read_text())["dimensions"]["overall"]
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())["overall"]["held_out"]
    for name in ("accuracy", "accuracy_with_ties", "tie_threshold", "temperature"):
        assert held_out[name] == pytest.approx(metrics[name], abs=1e-3), name
    assert cli.main([*evaluated, str(tmp_path / "b"), "--all_prompts", "true"]) == 0
    everything = json.loads((tmp_path / "b" / "report.json").read_text())["dimensions"]["overall"]
    assert everything["prompts"] == 8


def test_models_that_judge_together_are_evaluated_on_the_prompts_that_none_of_them_learned_from(
    grey, tmp_path
):
    preferences = tmp_path / "rankings.jsonl"
    write_rankings(preferences, grey)
    for seed, share in ((0, 0.5), (1, 0.5), (2, 0.0)):
        record = {
            "preferences": {"sha256": file_hash(preferences)},
            "arguments": {"held_out_fraction": share, "validation_fraction": 0.1, "seed": seed},
        }
        (tmp_path / f"{seed}").mkdir()
        (tmp_path / f"{seed}" / "training.json").write_text(json.dumps(record))
    first, second = ({r.prompt for r in split_rankings(grey, 0.5, 0.1, seed)[2]} for seed in (0, 1))
    found = held_out_of_training(f"{tmp_path / '0'}, {tmp_path / '1'},world", preferences, grey)
    assert found is not None
    assert {ranking.prompt for ranking in found} == first & second
    with pytest.raises(InputError, match="learned from every prompt of"):
        held_out_of_training(tmp_path / "2", preferences, grey)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda prompts: None, "it must return one number a video"),
        (lambda prompts: ["good" for _ in prompts], "it must return one number a video"),
        (lambda prompts: {}, "it must return one number a video"),
        (lambda prompts: [float("nan") for _ in prompts], "must give every video a finite number"),
    ],
)
def test_scores_of_a_users_function_that_are_no_numbers_are_refused(grey, returned, message):
    reward = FunctionReward(lambda videos, prompts: returned(prompts), "mine:judge")
    with pytest.raises(InputError, match=message):
        evaluate_reward(reward, grey[:2], progress=False)


def test_users_functions_judge_together_in_the_dimensions_that_they_have(grey):
    bright = FunctionReward(lambda v, p: {"visual": brightness(v, p)}, "bright")
    dark = FunctionReward(lambda v, p: {"visual": -3 * brightness(v, p)}, "dark")
    videos = torch.rand(4, 3, 2, 8, 8)
    both = EnsembleRewardModel([bright, dark])
    assert both.score(videos, list("abcd"))["visual"] == pytest.approx(-brightness(videos, None), abs=1e-6)
    assert set(both.uncertainty(videos, list("abcd"))) == {"visual"}
    with pytest.raises(InputError, match="'brightness' scores overall, but 'bright' scores visual"):
        EnsembleRewardModel([bright, FunctionReward(brightness, "brightness")]).score(videos, list("abcd"))


def test_a_best_possible_accuracy_outside_of_0_to_1_is_refused(grey):
    with pytest.raises(InputError, match="best_possible is 75"):
        evaluate_reward(FunctionReward(brightness, "brightness"), grey, best_possible=75, progress=False)
