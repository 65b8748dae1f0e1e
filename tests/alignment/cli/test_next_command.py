"""A command ends with the next one, which runs as it stands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from alignment.cli.launcher import without_gpu
from alignment.cli.next_command import given_flags, new_folder, show_comparison, show_next
from alignment.lora import LoraArguments
from alignment.rewriting.arguments import RewriterArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.trainers.ppo_config import PPOConfig
from generator.data.demonstrations import write_demonstrations
from generator.testing import tiny_generator
from generator.world import sample_prompts

SIZE = ["--num_frames", "5", "--height", "16", "--width", "16"]
QUICK = ["--report_to", "none", "--lora_r", "2", "--max_steps", "1", "--per_device_train_batch_size", "2"]


def next_words(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = capsys.readouterr().out
    assert "\nNext:\n  vidalign " in f"\n{shown}"
    return shlex.split(shown.rpartition("Next:\n")[2])[1:]


def test_each_command_of_the_loop_names_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    tiny_generator().pipeline.save_pretrained("my model")
    prompts = sample_prompts(4, 0, "train")
    write_demonstrations("data", torch.rand(4, 3, 5, 16, 16) * 2 - 1, prompts, 8)
    assert (
        main(["sft", "--model", "my model", "--dataset", "data", *SIZE, "--output_dir", "runs/sft", *QUICK])
        == 0
    )

    generate = next_words(capsys)
    assert generate == [
        "generate", "--model", "my model", "--adapter", "runs/sft", "--prompts", "data/metadata.jsonl",
        "--num_videos_per_prompt", "4", *SIZE, "--output_dir", "runs/sft-videos",
    ]  # fmt: skip
    assert main([*generate, "--num_inference_steps", "2"]) == 0

    imported = next_words(capsys)
    assert imported == [
        "label",
        "import",
        "--db",
        "labels.db",
        "--campaign",
        "sft-videos",
        "--videos",
        "runs/sft-videos",
    ]
    assert main(imported) == 0
    assert next_words(capsys) == ["label", "serve", "--db", "labels.db"]
    assert (
        main(["label", "simulate", "--db", "labels.db", "--campaign", "sft-videos", "--reward", "world"]) == 0
    )

    exported = next_words(capsys)
    assert exported[:2] == ["label", "export"]
    assert main(exported) == 0
    reward = next_words(capsys)
    assert reward == ["reward", "--preferences", "sft-videos.jsonl", "--output_dir", "sft-videos-reward"]
    more = [
        "--model",
        "my model",
        "--adapter",
        "runs/sft",
        "--num_train_epochs",
        "1",
        "--report_to",
        "none",
        *SIZE,
    ]
    assert main([*reward, *more]) == 0

    agreement = next_words(capsys)
    if agreement[:2] == ["reward", "evaluate"]:
        assert main(agreement) == 0
        agreement = next_words(capsys)
    assert agreement == [
        "ppo", "--model", "my model", "--adapter", "runs/sft", "--prompts", "sft-videos.jsonl",
        "--reward", "sft-videos-reward", "--output_dir", "sft-videos-reward-ppo",
    ]  # fmt: skip
    few = ["--num_rollouts", "1", "--num_prompts", "2", "--num_generations", "2", "--num_mini_batches", "1"]
    assert main([*agreement, *few, "--num_inference_steps", "3", "--report_to", "none", *SIZE]) == 0

    evaluate = next_words(capsys)
    assert evaluate == [
        "evaluate", "--model", "my model", "--adapter", "runs/sft", "sft-videos-reward-ppo", "--prompts",
        "world:test:128", *SIZE, "--output_dir", "sft-videos-reward-ppo-evaluation",
    ]  # fmt: skip
    evaluate[evaluate.index("world:test:128")] = "world:test:2"
    assert main([*evaluate, "--num_inference_steps", "2"]) == 0
    assert main(next_words(capsys)) == 0


def test_after_whole_weights_the_folder_is_the_model_and_foreign_prompts_are_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    tiny_generator().pipeline.save_pretrained("model")
    write_demonstrations("data", torch.rand(2, 3, 5, 16, 16) * 2 - 1, ["a dog", "a cat"], 8)
    common = ["--model", "model", *SIZE, *QUICK]
    assert main(["sft", *common, "--dataset", "data", "--output_dir", "whole", "--use_peft", "false"]) == 0
    assert next_words(capsys)[:3] == ["generate", "--model", "whole"]
    rows = [{"prompt": "a dog", "videos": ["data/0000.mp4", "data/0001.mp4"], "ranks": [1, 2]}]
    Path("r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["dpo", *common, "--preferences", "r.jsonl", "--output_dir", "dpo"]) == 0
    words = next_words(capsys)
    assert words[:7] == ["generate", "--model", "model", "--adapter", "dpo", "--prompts", "r.jsonl"]
    assert main([*words, "--num_inference_steps", "1"]) == 0


def test_single_videos_are_followed_by_candidates_with_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "generate",
        "--model",
        "nano",
        "--prompts",
        "world:test:1",
        "--num_inference_steps",
        "1",
        "--seed",
        "7",
    ]
    assert main([*command, "--output_dir", "videos"]) == 0
    words = next_words(capsys)
    assert words == [*command, "--num_videos_per_prompt", "4", "--output_dir", "videos-candidates"]
    assert main(words) == 0
    assert len(list(Path("videos-candidates").glob("*.mp4"))) == 4


def test_a_new_folder_is_one_that_is_not_there(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "sft", "videos") == str(tmp_path / "sft-videos")
    (tmp_path / "sft-videos").mkdir()
    assert new_folder(tmp_path / "sft", "videos") == str(tmp_path / "sft-videos-2")


def test_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_next("label", "serve", "--db", "postgresql://lea:pw@localhost/labels")
    assert capsys.readouterr().out == ""
    show_next("label", "serve", "--db", "postgresql://localhost/labels")
    assert "vidalign label serve --db postgresql://localhost/labels" in capsys.readouterr().out


def test_flags_are_those_that_were_given() -> None:
    from alignment.stages.arguments import LoadingArguments

    loading = LoadingArguments(dtype="float32", tiling=True)
    assert given_flags(loading, ["dtype", "quantization", "tiling"]) == [
        "--dtype",
        "float32",
        "--tiling",
        "true",
    ]


@pytest.mark.parametrize(("prompts", "command"), [(["a circle"], "evaluate"), (["a dog"], "generate")])
def test_a_policy_trained_on_rewritten_prompts_is_looked_at_with_its_rewriter(
    prompts: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PPOConfig(output_dir="runs/ppo", report_to="none", **without_gpu())
    rewriting = RewriterArguments("runs/rewriter", rewriter_failures="keep")
    model = GeneratorArguments(model="nano")
    show_comparison(model, LoraArguments(), config, prompts, "p.txt", config, rewriting)
    words = next_words(capsys)
    assert words[0] == command
    place = words.index("--rewriter")
    assert words[place : place + 4] == ["--rewriter", "runs/rewriter", "--rewriter_failures", "keep"]
