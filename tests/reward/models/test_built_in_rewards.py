"""Reward models that come with the package: found by name, judged on clips that they have never seen, learned on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser

from alignment.cli.commands import reward as reward_command
from generator import load_generator
from generator.output import InputError
from generator.video import write_video
from generator.world import render_scenes
from generator.world.near_misses import near_misses
from reward import load_reward
from reward.adherence.verifier_names import check_verifier
from reward.adherence.verifiers import load_verifier
from reward.models.latent import LatentRewardModel
from reward.models.storage import PRETRAINED, built_in_rewards, reward_folder

NAME = "nano-v1-reward"


@pytest.mark.parametrize("name", [NAME, "nano-reward"])
def test_near_misses_of_held_out_combinations_are_told_apart(name: str) -> None:
    drawn = near_misses(24, 3, seed=91, split="test")
    clips = render_scenes(drawn.scenes, 9, 32, 32)
    reward = load_reward(name, device="cpu")
    assert reward.name == name
    prompts = [group[0] for group in drawn.prompts for _ in group]
    scores = reward.score(clips, prompts)["overall"].view(24, 3)
    assert float((scores[:, :1] > scores[:, 1:]).float().mean()) > 0.85
    verify, categories = load_verifier(name)
    judged = [each.score for each in verify(clips[:6], prompts[:6])]
    torch.testing.assert_close(torch.tensor(judged), scores.flatten()[:6], atol=1e-4, rtol=1e-4)
    assert not categories(prompts[0])


def test_a_name_is_a_folder_of_the_package_and_own_folders_are_written_with_a_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reward_folder(NAME) == PRETRAINED / NAME
    assert reward_folder(tmp_path) == tmp_path
    check_verifier(NAME)
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds no reward model"):
        load_reward(f"./{NAME}")
    with pytest.raises(InputError, match=NAME):
        load_reward("nano-v1-rewards")
    assert built_in_rewards() == ["nano-reward", NAME]


def test_another_generator_is_refused() -> None:
    reward = load_reward(NAME, device="cpu")
    assert isinstance(reward, LatentRewardModel)
    reward.check_generator(load_generator("nano-v1", device="cpu"))
    with pytest.raises(InputError, match="another autoencoder or text encoder"):
        reward.check_generator(load_generator("nano", device="cpu"))


def test_the_command_learns_on_from_a_name(tmp_path: Path) -> None:
    drawn = near_misses(4, 3, seed=92)
    clips = render_scenes(drawn.scenes, 9, 32, 32)
    rows = []
    for group, prompts in enumerate(drawn.prompts):
        names = [f"{group}-{clip}.mp4" for clip in range(3)]
        for clip, name in enumerate(names):
            write_video(tmp_path / name, clips[3 * group + clip], fps=8)
        rows.append({"prompt": prompts[0], "videos": names, "ranks": [1, 2, 2]})
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--preferences", str(tmp_path / "rankings.jsonl"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--weights_from", NAME, "--max_steps", "1", "--report_to", "none", "--use_cpu", "true"]
    arguments += ["--held_out_fraction", "0.25", "--validation_fraction", "0"]
    reward_command.run(*HfArgumentParser(reward_command.ARGUMENTS).parse_args_into_dataclasses(arguments))
    stored = json.loads((tmp_path / "out" / "reward_config.json").read_text())
    assert stored["base_model"] == "nano-v1"
    assert stored["full_trunk"]
    assert json.loads((tmp_path / "out" / "training.json").read_text())["weights_from"] == NAME
