"""The commands on a user's own material: camera clips of different size and rate, and a hand-written rankings file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.cli import main
from generator.testing import tiny_generator
from generator.video import read_clip, write_video
from tests.alignment.camera_clips import copy_camera_clips

TRAINING = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none", "--lora_r", "2"]
SIZE = ["--num_frames", "9", "--height", "32", "--width", "48"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The camera clips that gradio's wheel holds, with captions."""
    return copy_camera_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_generator().pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def rankings(clips: Path, tmp_path: Path) -> Path:
    """Four prompts, each with the three clips in another order, and one tie."""
    rows = [
        {"prompt": f"prompt {number}", "videos": [str(clips / name) for name in names], "ranks": ranks}
        for number, (names, ranks) in enumerate(
            [
                (["a.mp4", "b.mp4", "world.mp4"], [1, 2, 3]),
                (["b.mp4", "a.mp4", "world.mp4"], [2, 1, 3]),
                (["world.mp4", "a.mp4"], [2, 1]),
                (["world.mp4", "b.mp4", "a.mp4"], [2, 2, 1]),
            ]
        )
    ]
    path = tmp_path / "rankings.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_sft_on_camera_clips(clips: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "sft"
    arguments = ["sft", "--model", str(model), "--dataset", str(clips), "--output_dir", str(output)]
    assert main([*arguments, *SIZE, *TRAINING]) == 0
    assert (output / "pytorch_lora_weights.safetensors").is_file()
    record = json.loads((output / "training.json").read_text())
    assert record["base_model"] == str(model)


def test_dpo_and_reward_from_a_hand_written_rankings_file(
    model: Path, rankings: Path, tmp_path: Path
) -> None:
    common = ["--model", str(model), "--preferences", str(rankings)]
    assert main(["dpo", *common, "--output_dir", str(tmp_path / "dpo"), *SIZE, *TRAINING]) == 0
    assert (tmp_path / "dpo" / "pytorch_lora_weights.safetensors").is_file()
    reward = ["--output_dir", str(tmp_path / "reward"), "--num_train_epochs", "1", "--report_to", "none"]
    assert main(["reward", *common, *reward, *SIZE, "--validation_fraction", "0.25"]) == 0
    assert "overall" in json.loads((tmp_path / "reward" / "metrics.json").read_text())


def test_a_ranking_of_a_missing_video_is_one_sentence(
    model: Path, rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rankings.write_text(json.dumps({"prompt": "p", "videos": ["no.mp4", "none.mp4"], "ranks": [1, 2]}) + "\n")
    output = tmp_path / "dpo"
    arguments = ["--model", str(model), "--preferences", str(rankings), "--output_dir", str(output)]
    assert main(["dpo", *arguments]) == 2
    message = capsys.readouterr().err
    assert "no.mp4" in message
    assert "Traceback" not in message
    assert not output.exists()


def test_packed_training_takes_clips_of_different_length_with_text_files_and_resumes(
    clips: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, seconds in (("a", 9), ("b", 5), ("world", 13)):
        video = read_clip(clips / f"{name}.mp4", seconds, 32, 48, 8.0)
        write_video(folder / f"{name}.mp4", video, 8.0)
        (folder / f"{name}.txt").write_text(f"a clip called {name}")
    output = tmp_path / "sft"
    command = ["sft", "--model", str(model), "--dataset", str(folder), "--output_dir", str(output), "--pack"]
    command += [*TRAINING[2:], "--save_steps", "1", "--num_train_epochs", "50", "--token_dropping", "0.3"]
    assert main([*command, "--max_steps", "2"]) == 0
    assert main([*command, "--max_steps", "4", "--resume_from_checkpoint", str(output / "checkpoint-2")]) == 0
    record = json.loads((output / "training.json").read_text())
    assert record["global_step"] == 4
