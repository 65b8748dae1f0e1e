"""Reward back-propagation through decoded pixels, on a tiny Wan with a tiny PickScore."""

from __future__ import annotations

import json

import pytest

from alignment.cli import main
from alignment.memory.forecast import Probe, forecast
from alignment.memory.work import Forecast, Work
from generator.testing.pipelines import save_tiny_pipeline
from tests.reward.models.named import tiny_checkpoints as tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    save_tiny_pipeline("wan", folder / "wan")
    tiny.write_clip(folder / "pickscore")
    (folder / "prompts.txt").write_text("a red ball\na blue cube\n")
    return folder


def backprop(files, output_dir, *more: str) -> list[str]:
    return [
        "backprop", "--model", str(files / "wan"), "--prompts", str(files / "prompts.txt"),
        "--reward", f"pickscore:frames=2:form=logit:{files / 'pickscore'}", "--num_frames", "5", "--height", "32",
        "--width", "32", "--num_inference_steps", "3", "--guidance_scale", "1", "--per_device_train_batch_size", "2",
        "--max_steps", "16", "--learning_rate", "2e-2", "--logging_steps", "1", "--output_dir", str(output_dir), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("method", [("draft", "1"), ("refl", "2")])
def test_draft_and_refl_raise_pickscore_through_the_decoder(files, tmp_path, method):
    out = tmp_path / "out"
    assert main(backprop(files, out, "--method", method[0], "--backprop_steps", method[1])) == 0
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    rewards = [row["reward"] for row in log if "reward" in row]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.02, rewards
    assert {"videos/speed", "videos/flicker"} <= set(log[0])
    record = json.loads((out / "training.json").read_text())
    assert record["reward"] == ["pickscore"]
    assert record["rewards"][0]["frames"] == 2


def test_what_is_decoded_is_chosen_and_refused_where_nothing_is(files, tmp_path, capsys):
    shown = ["--reward_num_frames", "1", "--reward_scale", "0.5", "--max_steps", "1"]
    assert main(backprop(files, tmp_path / "one", *shown)) == 0
    log = json.loads((tmp_path / "one" / "trainer_state.json").read_text())["log_history"]
    assert "videos/speed" not in log[0]  # one frame has no motion
    command = backprop(files, tmp_path / "none")
    command[command.index("--reward") + 1] = "motion:target=0.2"
    assert main(command) == 2
    assert "motion does neither" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_doctor_plans_with_the_weights_of_the_rewards_each_repository_once(files, monkeypatch, capsys):
    planned = {}

    def stand_in(folder, work):
        planned[work.method] = work
        return Forecast({"rewards": work.reward_bytes}, {"update": 1})

    monkeypatch.setattr("alignment.memory.plan.forecast", stand_in)
    report = files / "doctor.json"
    assert main([
        "doctor", "--model", str(files / "wan"), "--gpu_memory", "80", "--reward", "pickscore", "aesthetic", "clip",
        "--reward_num_frames", "1", "--json", str(report),
    ]) == 0  # fmt: skip
    # CLIP-L serves both aesthetic and clip.
    assert planned["ppo"].reward_bytes == planned["backprop"].reward_bytes == 5653700000
    assert (planned["sft"].reward_bytes, planned["backprop"].reward_num_frames) == (0, 1)
    # One frame of CLIP-H passes with gradients, and the frames of a whole video without; SFT has no reward.
    assert planned["ppo"].judging_bytes > 1e7
    assert 3e8 < planned["backprop"].judging_gradient_bytes < 6e8
    assert planned["sft"].judging_bytes == 0
    found = json.loads(report.read_text())
    assert [row["name"] for row in found["rewards"]] == ["pickscore", "aesthetic", "clip"]
    printed = capsys.readouterr().out
    assert "backprop" in printed
    assert "clip has 80 times the range of pickscore" in printed


def test_the_forecast_grows_with_the_frames_that_are_decoded_with_gradients(files):
    works = [Work("backprop", 5, 32, 32, reward_num_frames=frames) for frames in (1, 5)]
    first, both = (Probe(files / "wan", work, {}).pixel_gradient_peak() for work in works)
    assert 0 < first < both


def test_what_a_reward_needs_to_judge_is_added_to_its_work(files, monkeypatch):
    for name, size in (("kept_peak", 5), ("sampling_peak", 3), ("pixel_gradient_peak", 7)):
        monkeypatch.setattr(Probe, name, lambda probe, size=size: size)
    monkeypatch.setattr("alignment.memory.forecast._decoding_peak", lambda *_: 4)
    found = forecast(files / "wan", Work("ppo", 5, 32, 32, decode_batch=2, judging_bytes=10**9))
    pixels = 2 * 3 * 5 * 32 * 32
    assert found.transient == {
        "update": 5,
        "sampling": 3,
        "decoding": 4,
        "judging": 10**9 + 4 * pixels,
    }
    found = forecast(files / "wan", Work("backprop", 5, 32, 32, judging_gradient_bytes=10**9))
    assert found.transient == {"update": 5 + 7 + 10**9, "sampling": 3}
