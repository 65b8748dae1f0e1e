"""Temporal layers trained by the command: what changes and what does not, slices, refusals, and 129 frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.cli import main
from generator.loading import load_generator
from generator.native.building import save_pipeline
from generator.pretraining.phase import STATE
from generator.testing import tiny_generator
from generator.video import read_video, write_video
from generator.video_ldm.family import VideoLDMGenerator

SMALL = [
    *(
        "--transformer_tokens",
        "300",
        "--autoencoder_pixels",
        "10000",
        "--num_workers",
        "0",
        "--tensorboard",
        "false",
    ),
    *("--scene_reuse", "1", "--evaluation_prompts", "2", "--learning_rate", "0.01"),
]


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "model"
    pipeline = tiny_generator().pipeline
    pipeline.vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[0.5, 1.0, 1.0, 2.0])
    save_pipeline(pipeline, folder)
    return folder


@pytest.fixture(scope="module")
def video(image: Path) -> Path:
    folder = image.parent / "video"
    arguments = [
        "--temporal_from",
        str(image),
        "--autoencoder_seconds",
        "0.4",
        "--transformer_seconds",
        "0.8",
    ]
    assert main(["pretrain", *arguments, "--output_dir", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def interpolation(video: Path) -> Path:
    folder = video.parent / "interpolation"
    arguments = [
        "--temporal_from",
        str(video),
        "--temporal_task",
        "interpolation",
        "--transformer_seconds",
        "0.6",
    ]
    assert main(["pretrain", *arguments, "--output_dir", str(folder), *SMALL]) == 0
    return folder


def test_training_changes_temporal_layers_alone(image: Path, video: Path) -> None:
    for part, frozen in (("transformer", "temporal."), ("vae", "temporal.")):
        before, after = weights(image, part), weights(video, part)
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        new = after.keys() - before.keys()
        assert new
        assert all(name.startswith(frozen) for name in new)
    text = [load_file(folder / "text_encoder" / "model.safetensors") for folder in (image, video)]
    assert all(torch.equal(value, text[1][name]) for name, value in text[0].items())


def test_the_gates_open_and_the_card_says_how_far(video: Path) -> None:
    model = load_generator(video, device="cpu")
    assert isinstance(model, VideoLDMGenerator)
    alphas = model.pipeline.transformer.temporal.alphas()
    assert (alphas < 1).any()
    assert ((alphas >= 0) & (alphas <= 1)).all()
    # New layers of the decoder end in zeros; its gates take more steps than this to move.
    assert all(layer.out.weight.any() for layer in model.pipeline.vae.temporal)
    metrics = json.loads((video / "metrics.json").read_text())
    assert metrics["alphas"] == pytest.approx(alphas.tolist())
    assert set(metrics["frames"]) == {"image model", "video model", "real clips"}
    assert set(metrics["history"]) == {"decoder", "temporal layers"}
    assert "| video model |" in (video / "README.md").read_text()


def test_an_interrupted_training_goes_on_with_the_same_command(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *(
            "pretrain",
            "--temporal_from",
            str(video),
            "--temporal_task",
            "prediction",
            "--transformer_seconds",
            "1.5",
        ),
        *("--output_dir", str(tmp_path / "prediction"), *SMALL),
    ]
    assert main([*arguments, "--slice_seconds", "0.2"]) == 0
    assert "Give the same command again" in capsys.readouterr().out
    state = torch.load(tmp_path / "prediction" / STATE, weights_only=True)
    assert state["elapsed"] >= 0.2
    other = [str(video) if word == str(video) else word for word in arguments]
    other[2] = str(video.parent / "model")
    assert main(other) == 2
    assert "interrupted run" in capsys.readouterr().err
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "prediction" / "metrics.json").read_text())
    assert set(metrics["context"]) == {
        f"{name}, {fps} fps" for name in ("model", "held frame") for fps in (2, 8)
    }
    assert metrics["history"].keys() == {"temporal layers"}
    assert main(arguments) == 2
    assert "finished pipeline" in capsys.readouterr().err


def test_a_training_without_lora_changes_the_temporal_layers_alone(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", torch.rand(3, 3, 16, 16) * 2 - 1, fps=8.0)
    (tmp_path / "clips" / "metadata.jsonl").write_text('{"file_name": "a.mp4", "prompt": "a red circle"}\n')
    arguments = [
        *(
            "sft",
            "--model",
            str(video),
            "--dataset",
            str(tmp_path / "clips"),
            "--output_dir",
            str(tmp_path / "sft"),
        ),
        *("--use_peft", "false", "--max_steps", "1", "--learning_rate", "1e-2", "--report_to", "none"),
        *("--use_cpu", "true", "--disable_tqdm", "true"),
    ]
    assert main(arguments) == 0
    before, after = weights(video, "transformer"), weights(tmp_path / "sft", "transformer")
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert changed
    assert all(name.startswith("temporal.") for name in changed)
    assert isinstance(load_generator(tmp_path / "sft", device="cpu"), VideoLDMGenerator)


def test_one_command_makes_129_frames(video: Path, interpolation: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    arguments = [
        *(
            "generate",
            "--model",
            str(video),
            "--interpolation_model",
            str(interpolation),
            "--num_frames",
            "129",
        ),
        *(
            "--height",
            "16",
            "--width",
            "16",
            "--num_inference_steps",
            "1",
            "--prompts",
            str(tmp_path / "prompts.txt"),
        ),
    ]
    assert main([*arguments, "--output_dir", str(tmp_path / "videos")]) == 0
    pixels, fps = read_video(tmp_path / "videos" / "0000.mp4")
    assert pixels.shape == (3, 129, 16, 16)
    assert fps == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temporal_from", "IMAGE", "--images_only"], "--images_only was given together"),
        (["--temporal_from", "IMAGE", "--weights_from", "nano"], "--weights_from was given together"),
        (["--temporal_task", "prediction"], "pass --temporal_from"),
        (["--temporal_from", "IMAGE", "--decoder_noise", "2"], "decoder_noise is 2"),
        (["--temporal_from", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    words = [str(image) if word == "IMAGE" else word for word in arguments]
    assert main(["pretrain", *words, "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stack_needs_a_length_and_prompts_without_negatives(
    video: Path, interpolation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red circle", "negative_prompt": "blue"}\n')
    arguments = [
        *("generate", "--model", str(video), "--interpolation_model", str(interpolation)),
        *("--prompts", str(tmp_path / "prompts.jsonl"), "--output_dir", str(tmp_path / "videos")),
    ]
    assert main(arguments) == 2
    assert "pass --num_frames 129" in capsys.readouterr().err
    assert main([*arguments, "--num_frames", "33"]) == 2
    assert "negative prompt" in capsys.readouterr().err
    assert not (tmp_path / "videos").exists()
