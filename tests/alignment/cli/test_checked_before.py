"""What can be checked is checked before the first video is made, and a refusal leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from generator.base import VideoGenerator
from generator.data.demonstrations import write_demonstrations
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import write_video
from generator.world import check_prompts

SIZE = ["--num_frames", "5", "--height", "16", "--width", "16"]
FAST = [*SIZE, "--num_inference_steps", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_generator().pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with videos, rankings and prompts, in which making or encoding a video is a failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    videos = torch.rand(4, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_demonstrations(tmp_path / "data", videos, [f"video {i}" for i in range(4)], 8)
    write_video(tmp_path / "data" / "large.mp4", torch.zeros(3, 5, 32, 32), 8)
    (tmp_path / "data" / "broken.mp4").write_bytes(b"nothing")
    rows = [
        {"prompt": f"p {i}", "videos": ["data/0000.mp4", "data/0001.mp4"], "ranks": [1, 2]} for i in range(4)
    ]
    for name, second in (
        ("r", "data/0001.mp4"),
        ("broken", "data/broken.mp4"),
        ("unequal", "data/large.mp4"),
    ):
        rows[-1]["videos"] = ["data/0000.mp4", second]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "foreign.txt").write_text("a red circle\na dinosaur runs\na blue dinosaur\n")
    (tmp_path / "world.txt").write_text("a red circle\na blue square\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "training.json").write_text(json.dumps({"model_fingerprint": "x", "base_model": "another"}))
    for name in ("generate", "decode", "encode"):
        monkeypatch.setattr(
            VideoGenerator, name, lambda *_, **__: pytest.fail("a video was made"), raising=False
        )
    return tmp_path


GENERATE = "generate --prompts foreign.txt --output_dir out"
PPO = "ppo --prompts foreign.txt --output_dir out --num_prompts 2 --num_generations 2 --num_mini_batches 1"
SFT = "sft --dataset data --output_dir out --max_steps 1"
DPO = "dpo --output_dir out --max_steps 1 --preferences"
REWARD = "reward --output_dir out --preferences"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "evaluate --prompts foreign.txt --output_dir out --verifier world",
            "The word 'dinosaur' in the prompt 'a dinosaur runs'",
        ),
        (
            "evaluate --prompts foreign.txt --output_dir out --verifier world",
            "2 of 3 prompts are not the video world's",
        ),
        (f"{GENERATE} --reward world --best_of 2", "2 of 3 prompts are not the video world's"),
        (f"{GENERATE} --reward world --reward_guidance 1", "judge latents with gradients"),
        (f"{GENERATE} --edit data/0000.mp4 --strength 3", "The strength is 3.0"),
        (f"{GENERATE} --video data/0000.mp4 --interpolate 3", "The factor is 3"),
        (f"{GENERATE} --long -1", "-1 seconds were asked for"),
        (f"{PPO} --reward world", "2 of 3 prompts are not the video world's"),
        (f"online_dpo{PPO[3:]} --reward world", "2 of 3 prompts are not the video world's"),
        (
            f"{PPO.replace('foreign', 'world')} --reward world --reward_dimension motion",
            "has no score 'motion'",
        ),
        (f"{PPO.replace('foreign', 'world')} --reward world --ptx_dataset data", "but ptx_coef is 0"),
        (f"{PPO.replace('foreign', 'world')} --reward world --ptx_coef 1", "give ptx_dataset"),
        ("evaluate --prompts world.txt --output_dir out --adapter other", "other"),
        ("evaluate --prompts world.txt --output_dir out --num_frames 0", "--num_frames is 0"),
        ("evaluate --prompts world.txt --output_dir out --height 17", "17"),
        (
            "evaluate --prompts world.txt --output_dir out --seed 99999999999999999999",
            "seed is 99999999999999999999",
        ),
        (
            "evaluate --prompts world.txt --output_dir out --questions world.txt",
            "world.txt, line 1: this is not JSON",
        ),
        ("evaluate --prompts world.txt --output_dir world.txt", "is a file, but a folder is needed"),
        (f"{SFT} --lora_target_modules to_x", "The LoRA target module 'to_x' matches no layer"),
        (f"{DPO} r.jsonl --lora_target_modules to_q to_x", "The LoRA target module 'to_x' matches no layer"),
        (f"{DPO} broken.jsonl", "broken.mp4"),
        (
            f"{DPO} unequal.jsonl --native_size true",
            "are compared, but would be trained on at 5 frames of 16x16 and",
        ),
        (f"{REWARD} broken.jsonl", "broken.mp4"),
        (f"{REWARD} r.jsonl --held_out_fraction 1.5", "1.5"),
        (f"{REWARD} r.jsonl --height 17", "17"),
        (
            "reward evaluate --reward world --preferences r.jsonl --output_dir out",
            "The word 'p' in the prompt",
        ),
        ("pretrain --output_dir out --footage nowhere", "nowhere does not exist"),
        ("pretrain --output_dir out --weights_from nowhere", "'nowhere' is unknown"),
        ("pretrain --output_dir out --autoencoder_from nowhere", "'nowhere' is unknown"),
        ("demo --model nowhere --output_dir out", "'nowhere' is unknown"),
    ],
)
def test_a_mistake_is_found_before_the_first_video(
    place: Path, model: Path, capsys: pytest.CaptureFixture[str], command: str, sentence: str
) -> None:
    words = command.split()
    if words[0] not in ("pretrain", "demo") and words[:2] != ["reward", "evaluate"]:
        words += ["--model", str(model)]
    if words[0] in ("generate", "evaluate", "ppo", "online_dpo") and not {"--num_frames", "--height"} & set(
        words
    ):
        words += FAST
    if words[0] in ("ppo", "online_dpo", "sft", "dpo") or (words[0] == "reward" and words[1] != "evaluate"):
        words += ["--report_to", "none"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert "Traceback" not in message
    out = place / "out"
    assert not out.exists() or not any(out.iterdir())


def test_prompts_of_the_world_are_counted() -> None:
    check_prompts("a red circle")
    with pytest.raises(InputError, match=r"'dinosaur' in the prompt 'a dinosaur'[^(]*'a red circle"):
        check_prompts(["a red circle", "a dinosaur"])


def test_an_evaluation_that_was_refused_takes_other_prompts(place: Path, model: Path, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(place)
    command = ["evaluate", "--model", str(model), "--output_dir", "out", *FAST, "--prompts"]
    assert main([*command, "foreign.txt"]) == 2
    assert main([*command, "world.txt"]) == 0
    assert (place / "out" / "report.html").is_file()
