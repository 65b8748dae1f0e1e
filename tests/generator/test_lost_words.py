"""Words that a generator does not see are told of, once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from generator import load_generator
from generator.data.demonstrations import write_demonstrations
from generator.lost_words import warn_of_lost_words
from generator.native.text_encoder import MAX_TEXT_TOKENS, unknown_words
from generator.testing.pipelines import save_tiny_pipeline
from generator.world import sample_prompts
from tests.generator.families.representatives import REPRESENTATIVES

LONG = " ".join(["a red circle moves left"] * 30) + " above a blue square"
SIZE = ["--num_frames", "5", "--height", "16", "--width", "16"]
FAST = [*SIZE, "--num_inference_steps", "2"]


@pytest.fixture(scope="module")
def nano():
    return load_generator("nano")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "long.txt").write_text(f"a red circle\n{LONG}\na red square\n")
    (tmp_path / "unknown.txt").write_text("a red circle\nthe dinosaur roars\n")
    (tmp_path / "short.txt").write_text("a red circle\na blue square moves left, fast\n")
    return tmp_path


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "generator.lost_words"]


def test_a_prompt_is_lost_from_the_token_on_that_does_not_fit(nano) -> None:
    words = ["red"] * (MAX_TEXT_TOKENS - 1)
    assert nano.lost_end(" ".join(words)) == ""
    assert nano.lost_end(" ".join([*words, "blue"])) == "blue"
    # What is said to be lost makes no difference, and the word before it does.
    one, two = (nano.encode_prompts([" ".join([*words, end])]) for end in ("blue", "green square"))
    assert torch.equal(one["encoder_hidden_states"], two["encoder_hidden_states"])
    other = nano.encode_prompts([" ".join([*words[:-1], "blue"])])
    assert not torch.equal(one["encoder_hidden_states"], other["encoder_hidden_states"])


def test_the_words_of_the_world_are_known_and_others_are_not(nano) -> None:
    tokenizer = nano.pipeline.tokenizer
    assert not [prompt for prompt in sample_prompts(200, 3, "test") if unknown_words(tokenizer, prompt)]
    assert unknown_words(tokenizer, "A red Dinosaur, above a 红色圆圈.") == ["dinosaur", "红色圆圈"]
    assert unknown_words(tokenizer, "") == []


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_every_family_counts_with_its_own_tokenizer(family: str, tmp_path: Path, caplog) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path / family), device="cpu")
    limit = generator.max_prompt_tokens
    assert limit is not None
    text = "a b c d " * limit
    assert generator.lost_end("a b") == ""
    assert generator.lost_end(text)
    with caplog.at_level(logging.WARNING):
        warn_of_lost_words(generator, ["a b", text, f"{text} e"])
    (message,) = warnings_of(caplog)
    assert message.startswith(f"2 of 3 prompts are longer than what {generator.name} reads ({limit} tokens)")


def command(name: str, prompts: str, place: Path) -> list[str]:
    quick = ["--report_to", "none", "--lora_r", "2", "--per_device_train_batch_size", "2"]
    ppo = ["--num_rollouts", "1", "--num_prompts", "2", "--num_generations", "2", "--num_mini_batches", "1"]
    rollout = ["--prompts", prompts, "--reward", "tests.reward.brightness:judge", *ppo, *quick, *SIZE]
    rollout += ["--num_inference_steps", "3", "--probe_prompts", "0", "--monitor_videos", "0"]
    lines = (place / prompts).read_text().splitlines()
    if name == "sft":
        write_demonstrations(place / "data", torch.zeros(len(lines), 3, 5, 16, 16), lines, 8)
        return ["sft", "--dataset", "data", "--max_steps", "1", *quick]
    if name in ("dpo", "reward"):
        write_demonstrations(place / "data", torch.rand(2, 3, 5, 16, 16) * 2 - 1, ["a", "b"], 8)
        rows = [
            {"prompt": line, "videos": ["data/0000.mp4", "data/0001.mp4"], "ranks": [1, 2]} for line in lines
        ]
        (place / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
        size = SIZE if name == "reward" else []
        more = (
            ["--num_train_epochs", "1", "--report_to", "none"]
            if name == "reward"
            else ["--max_steps", "1", *quick]
        )
        return [name, "--preferences", "r.jsonl", *size, *more]
    if name == "evaluate":
        return ["evaluate", "--prompts", prompts, "--verifier", "tests.reward.brightness:judge", *FAST]
    if name == "generate":
        return ["generate", "--prompts", prompts, "--batch_size", "1", *FAST]
    return [name, *rollout]


@pytest.mark.parametrize(
    "name", ["generate", "evaluate", "sft", "dpo", "reward", "ppo", "nft", "rwr", "online_dpo"]
)
def test_a_command_warns_once_of_a_long_prompt_and_not_of_short_ones(name: str, place: Path, caplog) -> None:
    words = command(name, "long.txt", place)
    with caplog.at_level(logging.WARNING):
        assert main([*words, "--model", "nano", "--output_dir", "out"]) == 0
    (message,) = warnings_of(caplog)
    assert message.startswith("1 of 3 prompts are longer")
    assert "nano reads (64 tokens), the first 'a red circle moves left a red circle" in message
    assert message.endswith("is not seen. Write it shorter.")


@pytest.mark.parametrize("name", ["generate", "evaluate", "ppo"])
def test_a_command_warns_once_of_unknown_words(name: str, place: Path, caplog) -> None:
    words = command(name, "unknown.txt", place)
    with caplog.at_level(logging.WARNING):
        assert main([*words, "--model", "nano", "--output_dir", "out"]) == 0
    (message,) = warnings_of(caplog)
    assert message.startswith("1 of 2 prompts have words")
    assert "that nano does not know (2 in all, such as 'dinosaur', 'roars')" in message


@pytest.mark.parametrize("name", ["generate", "evaluate", "ppo"])
def test_a_command_does_not_warn_of_short_prompts_of_known_words(name: str, place: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert main([*command(name, "short.txt", place), "--model", "nano", "--output_dir", "out"]) == 0
    assert warnings_of(caplog) == []
