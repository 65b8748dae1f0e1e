"""`evaluate` with rewards by name, and what it says of those that a model was trained on."""

from __future__ import annotations

import json

import pytest

from alignment.cli import main
from generator.output import InputError
from generator.testing.pipelines import save_tiny_pipeline
from reward.adherence.training_rewards import known_measures
from reward.adherence.verifiers import load_verifier


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return save_tiny_pipeline("wan", tmp_path_factory.mktemp("model") / "wan")


def test_a_report_shows_named_rewards_and_names_those_of_the_training(wan, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red ball\na blue cube\n")
    common = ["--model", str(wan), "--prompts", str(tmp_path / "prompts.txt"), "--num_frames", "5", "--height", "32",
              "--width", "32", "--num_inference_steps", "2", "--guidance_scale", "1"]  # fmt: skip
    assert main([
        "ppo", *common, "--reward", "flicker", "--num_prompts", "1", "--num_generations", "2", "--num_rollouts", "1",
        "--num_mini_batches", "1", "--probe_prompts", "0", "--output_dir", str(tmp_path / "ppo"),
    ]) == 0  # fmt: skip
    assert main([
        "evaluate", *common, "--adapter", str(tmp_path / "ppo"), "--verifier", "motion:target=0.5", "--measures",
        "flicker:form=unexplained", "motion:target=2", "--output_dir", str(tmp_path / "report"),
    ]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    sentence = "ppo was trained on flicker:form=unexplained: that is no evidence of better videos."
    assert sentence in printed
    assert sentence in (tmp_path / "report" / "report.html").read_text()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {"reward flicker", "reward motion"} <= set(report["measures"])
    assert report["settings"]["trained_on"] == {"ppo": ["flicker"]}


def test_the_same_reward_is_recognised_whatever_its_options_and_place():
    trained = {"a": ["videoalign:TA"], "b": ["pickscore:/models/x", "world"], "c": ["my:function"]}
    assert known_measures(trained, "world", ["PickScore:frames=4"]) == [
        "b was trained on PickScore:frames=4, world: that is no evidence of better videos."
    ]
    assert known_measures({"c": ["my:function"]}, "my:function")[0].startswith("c was trained on my:function")


def test_a_verifier_that_nobody_knows_lists_the_names():
    with pytest.raises(InputError, match=r"module:function, .*or one of .*pickscore"):
        load_verifier("nothing")
    with pytest.raises(InputError, match="answers no questions"):
        load_verifier("flicker", "world")
