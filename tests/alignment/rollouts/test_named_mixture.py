"""Named rewards together: logged by name, weighted, made comparable, and motion watched beside single frames."""

from __future__ import annotations

import json

import pytest
import torch

from alignment.cli import main
from alignment.rollouts.advantages import group_relative_advantages
from alignment.rollouts.reward_mixture import RewardMixture, mix_rewards
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_video
from reward import load_reward
from tests.reward.models.named import tiny_checkpoints as tiny


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_ppo_mixes_named_rewards_and_logs_each_by_name(tmp_path, family):
    save_tiny_pipeline(family, tmp_path / family)
    tiny.write_clip(tmp_path / "clip")
    (tmp_path / "prompts.txt").write_text("a red ball\n")
    assert main([
        "ppo", "--model", str(tmp_path / family), "--prompts", str(tmp_path / "prompts.txt"), "--num_frames", "9",
        "--height", "32", "--width", "32", "--num_inference_steps", "2", "--guidance_scale", "1", "--num_prompts", "1",
        "--num_generations", "2", "--num_rollouts", "1", "--num_mini_batches", "1", "--probe_prompts", "0",
        "--monitor_videos", "0", "--reward", f"pickscore:frames=2:{tmp_path / 'clip'}", f"clip:{tmp_path / 'clip'}",
        "motion:target=0.5", "--reward_weights", "1", "0.5", "0.25", "--reward_normalisation", "group",
        "--output_dir", str(tmp_path / "out"),
    ]) == 0  # fmt: skip
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"][0]
    rewards = {name for name in log if name.startswith("rewards/")}
    assert rewards == {f"rewards/{name}/overall/mean" for name in ("pickscore", "clip", "motion")}
    assert {"videos/speed", "videos/flicker"} <= set(log)
    records = json.loads((tmp_path / "out" / "training.json").read_text())["rewards"]
    assert [record["name"] for record in records] == ["pickscore", "clip", "motion"]
    assert records[0]["files"]["model.safetensors"].startswith("sha256:")
    assert records[2]["target"] == 0.5


def test_the_best_of_several_videos_is_chosen_by_a_name(tmp_path):
    save_tiny_pipeline("wan", tmp_path / "wan")
    (tmp_path / "prompts.txt").write_text("a red ball\n")
    common = ["generate", "--model", str(tmp_path / "wan"), "--prompts", str(tmp_path / "prompts.txt"),
              "--num_frames", "5", "--height", "32", "--width", "32", "--num_inference_steps", "1",
              "--guidance_scale", "1"]  # fmt: skip
    best = ["--reward", "flicker", "--best_of", "4", "--output_dir", str(tmp_path / "best")]
    assert main([*common, *best]) == 0
    assert (
        main([*common, "--reward", "fliker", "--best_of", "4", "--output_dir", str(tmp_path / "none")]) == 2
    )
    assert not (tmp_path / "none").exists()
    assert main([*common, "--output_dir", str(tmp_path / "any")]) == 0
    steady = load_reward("flicker")
    scores = [
        steady.score(read_video(tmp_path / name / "0000.mp4")[0][None], [""])["overall"].item()
        for name in ("best", "any")
    ]
    assert scores[0] >= scores[1] - 0.005


def test_rewards_of_different_scale_are_warned_of_once_and_only_unnormalised(tmp_path, caplog):
    tiny.write_clip(tmp_path)
    rewards = [load_reward(f"{name}:{tmp_path}", "cpu") for name in ("pickscore", "clip")]
    RewardMixture(rewards).warn_of_scales("group")
    RewardMixture(rewards, [1.0, 0.0]).warn_of_scales()
    RewardMixture(rewards, [80.0, 1.0]).warn_of_scales()
    assert not caplog.records
    RewardMixture(rewards).warn_of_scales()
    assert [record.getMessage() for record in caplog.records] == [
        "The rewards are added as they are, and the usual range of clip times its weight is 80 times that of "
        "pickscore, which then hardly counts: set --reward_normalisation group (or rollout), or other --reward_weights."
    ]


def test_group_normalisation_and_the_global_scale_are_gdpo():
    random = torch.Generator().manual_seed(0)
    rewards, weights = (
        torch.rand(2, 3, 4, generator=random) * torch.tensor([1.0, 30.0])[:, None, None],
        [1.0, 0.5],
    )
    mixed = mix_rewards(rewards, torch.tensor(weights), "group")
    found = group_relative_advantages(mixed, "global", clip=100)
    # By hand: each reward's advantage in its group, weighted and added, then divided by the spread of the whole batch.
    total = torch.zeros(3, 4)
    for reward, weight in zip(rewards, weights):
        for group in range(3):
            values = reward[group]
            total[group] += weight * (values - values.mean()) / (values.std(correction=0) + 1e-4)
    expected = (total - total.mean()) / (total.std(correction=0) + 1e-4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
