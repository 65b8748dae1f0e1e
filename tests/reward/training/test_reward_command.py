"""`vidalign reward` and `vidalign evaluate` on a small model, real mp4 files and a rankings file."""

import json

import pytest
import torch
from transformers import HfArgumentParser

from alignment.cli.commands import evaluate, reward
from generator.families.native import NativeGenerator
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.stand_ins import COLOURS, coloured_video
from generator.video import write_video
from reward import load_reward


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved generator, and rankings of six prompts with mp4 files of two sizes."""
    root = tmp_path_factory.mktemp("commands")
    tiny_generator().pipeline.save_pretrained(root / "model")
    rows = []
    for number in range(6):
        names = []
        for k in range(3):
            video = coloured_video(COLOURS[(number + k) % 4], number * 3 + k)
            size = (9, 32, 32) if k else (12, 48, 40)
            video = torch.nn.functional.interpolate(video[None], size=size)[0]
            names.append(f"videos/{number}-{k}.mp4")
            write_video(root / names[-1], video, fps=8)
        rows.append({"prompt": f"{COLOURS[number % 4]} clip {number}", "videos": names, "ranks": [1, 2, 2]})
    (root / "rankings.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


def run_reward(*arguments: str) -> None:
    reward.run(*HfArgumentParser(reward.ARGUMENTS).parse_args_into_dataclasses(list(arguments)))


def run_evaluate(*arguments: str) -> None:
    evaluate.run(*HfArgumentParser(evaluate.ARGUMENTS).parse_args_into_dataclasses(list(arguments)))


def test_a_model_that_learned_nothing_is_said_so(folder, tmp_path, capsys):
    arguments = ["--model", str(folder / "model"), "--preferences", str(folder / "rankings.jsonl")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1", "--report_to", "none"]
    run_reward(*arguments, "--held_out_fraction", "0.34", "--learning_rate", "0", "--use_cpu", "true")
    assert "Warning: overall has the same score for every video" in capsys.readouterr().out
    assert not reward._is_constant({"train": {"reliability": {"confidence": [0.5, 0.61]}}})


def test_a_reward_model_is_trained_from_a_rankings_file_of_mp4_files(folder, tmp_path, capsys):
    arguments = ["--model", str(folder / "model"), "--preferences", str(folder / "rankings.jsonl")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--num_train_epochs", "2", "--report_to", "none"]
    arguments += ["--held_out_fraction", "0.34", "--implicit_evidence", "true", "--use_cpu", "true"]
    run_reward(*arguments)
    printed = capsys.readouterr().out
    assert "held-out pair accuracy" in printed
    assert "2 prompts" in printed
    model = load_reward(tmp_path / "out")
    assert model.config.base_model == str(folder / "model")
    videos = torch.zeros(2, 3, 9, 32, 32)
    assert model.score(videos, ["a", "b"])["overall"].shape == (2,)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["overall"]["held_out"]["tie_rate"] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="not empty"):
        run_reward(*arguments)
    run_reward(*arguments, "--overwrite", "true")


def test_a_second_training_on_the_same_videos_encodes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    shown = [f"videos/{number}-0.mp4" for number in range(6)]
    demonstrations = tmp_path / "demonstrations"
    (demonstrations / "videos").parent.mkdir()
    (demonstrations / "videos").symlink_to(folder / "videos")
    rows = [
        {"file_name": name, "prompt": f"{COLOURS[i % 4]} demonstration {i}"} for i, name in enumerate(shown)
    ]
    (demonstrations / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    encoded = []
    encode = NativeGenerator.encode
    monkeypatch.setattr(
        NativeGenerator, "encode", lambda self, v: (encoded.append(len(v)), encode(self, v))[1]
    )
    rankings = str(folder / "rankings.jsonl")
    arguments = ["--model", str(folder / "model"), "--preferences", rankings, "--num_train_epochs", "1"]
    arguments += ["--report_to", "none", "--use_cpu", "true", "--demonstrations", str(demonstrations)]
    arguments += ["--matching_steps", "2", "--pretraining", rankings, "--pretraining_steps", "2"]
    run_reward(*arguments, "--output_dir", str(tmp_path / "first"))
    assert sum(encoded) == 18, "each video once, for rankings, pretraining and demonstrations together"
    run_reward(*arguments, "--output_dir", str(tmp_path / "second"))
    assert sum(encoded) == 18
    first, second = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second")
    )
    assert first == second


def test_base_is_evaluated_on_prompts_of_the_world(folder, tmp_path, capsys):
    verifier = "tests.reward.brightness:judge"
    run_evaluate(
        "--model", str(folder / "model"), "--prompts", "world:test:4", "--verifier", verifier,
        "--num_inference_steps", "2", "--output_dir", str(tmp_path / "out"),
    )  # fmt: skip
    assert "base" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["adherence"]["base"]["n"] == 4
    assert report["settings"]["verifier"] == verifier
    sampled = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0}
    assert {name: report["settings"][name] for name in sampled} == sampled
    assert "torch" in report["settings"]["versions"]


def test_adapters_are_named_by_their_folders_or_as_the_user_says(tmp_path):
    for name in ("dpo", "ppo"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    runs = tmp_path / "runs"
    assert evaluate.name_adapters([str(runs / "dpo"), f"tuned={runs / 'ppo'}"]) == {
        "dpo": str(runs / "dpo"),
        "tuned": str(runs / "ppo"),
    }
    with pytest.raises(InputError, match="Two models"):
        evaluate.name_adapters([str(runs / "dpo"), f"dpo={runs / 'ppo'}"])
    with pytest.raises(InputError, match="Two models"):
        evaluate.name_adapters([f"base={runs / 'ppo'}"])
    with pytest.raises(InputError, match="is not there"):
        evaluate.name_adapters([str(runs / "sft")])


def test_mistakes_are_input_errors_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="does not exist"):
        run_reward("--preferences", str(tmp_path / "no.jsonl"), "--output_dir", str(out))
    with pytest.raises(InputError, match="is unknown"):
        run_reward(
            "--model", "nothing", "--preferences", str(folder / "rankings.jsonl"), "--output_dir", str(out)
        )
    with pytest.raises(InputError, match="not among the models"):
        run_evaluate("--output_dir", str(out), "--reference", "sft")
    with pytest.raises(InputError, match="no verifier"):
        run_evaluate("--output_dir", str(out), "--verifier", "eyes", "--prompts", "world:test:2")
    assert not out.exists()
