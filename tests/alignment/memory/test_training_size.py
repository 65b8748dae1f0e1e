"""Size at which videos are trained on, its forecast, and the table before the first step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from alignment.memory import training_memory
from alignment.memory.training_memory import (
    activation_bytes,
    encoding_bytes_a_pixel,
    update_bytes,
)
from alignment.trainers.sft_config import SFTConfig
from generator import load_generator
from generator.bounded_reading import read_within
from generator.data.latent_cache import encode_files, training_size
from generator.editing.image_cache import size_of_latents
from generator.hardware.compute import count_tokens
from generator.hardware.memory_tracker import StorageTracker
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_video, video_shape, write_video
from reward import load_reward
from tests.alignment.camera_clips import NAMES, copy_camera_clips
from tests.generator.families.representatives import REPRESENTATIVES

QUICK = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none", "--lora_r", "2"]
PEAK_GB = 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The camera clips that gradio's wheel holds, up to 209 frames of 1920x1080 and 901 of 480x270."""
    folder = copy_camera_clips(tmp_path_factory.mktemp("clips"))
    rows = [
        {"prompt": f"a clip {i}", "videos": NAMES[: 2 + i % 2], "ranks": [1, 2, 2][: 2 + i % 2]}
        for i in range(6)
    ]
    # A reward that judges whole videos decodes all frames of each for its prompt, and again for the page.
    judged = [{**row, "videos": [name, "b.mp4"], "ranks": [1, 2]} for row, name in zip(rows, NAMES[::2])]
    for file, each in (("rankings", rows), ("judged", judged)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return folder


PROGRAM = """
import gc, os, resource, sys
from alignment.cli import main
for number, command in enumerate(sys.argv[2:]):
    os.environ["VIDALIGN_CACHE"] = f"{sys.argv[1]}/cache-{number}"
    assert main([*command.split(), "--output_dir", f"{sys.argv[1]}/{number}"]) == 0, command
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert gc.isenabled() and gc.get_freeze_count() > 100_000  # not among what was imported
"""


@pytest.fixture(scope="module")
def shown(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Output of each command on the camera clips; all in one process, each with a cache of its own."""
    nano = f"--model nano --preferences {clips}/rankings.jsonl"
    commands = {
        "sft": f"sft --model nano --dataset {clips} {' '.join(QUICK)}",
        "dpo": f"dpo {nano} {' '.join(QUICK)}",
        "reward": f"reward {nano} --num_train_epochs 1 --report_to none",
        "reward evaluate": "reward evaluate --reward tests.reward.brightness:judge "
        f"--preferences {clips}/judged.jsonl",
    }
    folder = tmp_path_factory.mktemp("shown")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *commands.values()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, re.findall(r"(?s)(.*?^peak \d+$)\n?", done.stdout, re.MULTILINE), strict=True))


@pytest.mark.slow
def test_camera_clips_are_trained_on_at_the_models_own_size(shown: dict[str, str]) -> None:
    assert "3 of 3 videos are longer or larger than the model's own 9 frames of 32x32" in shown["sft"]
    lines = shown["sft"].splitlines()
    table = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert table["clips"] == "3 with 3 prompts"
    assert table["size"] == "9 frames of 32x32 (1.1 s)"
    assert table["tokens"] == "48 a video"
    assert table["steps"] == "1 of 2 examples"
    assert table["model"] == "nano"
    assert table["trained"] == "0.0532 M of 11.8 M weights (LoRA of rank 2 on 52 layers)"
    assert table["device"].endswith("float32")


@pytest.mark.slow
def test_rankings_of_camera_clips_are_learnt_from_at_the_models_own_size(shown: dict[str, str]) -> None:
    videos = ("rankings  6 of 6 prompts, 12 videos", "rankings  9 of 6 prompts, 18 videos")
    assert any(said in shown["dpo"] for said in videos)
    assert "size      9 frames of 32x32 (1.1 s)" in shown["dpo"]
    assert "rankings  6 of 6 prompts; 0 of them carry no order" in shown["reward"]
    assert "size      9 frames of 32x32" in shown["reward"]


@pytest.mark.slow
def test_camera_clips_take_less_than_four_gigabytes(shown: dict[str, str]) -> None:
    peaks = {name: int(said.split()[-1]) for name, said in shown.items()}
    assert max(peaks.values()) < PEAK_GB * 2**20, peaks


@pytest.mark.parametrize("flags", [["--native_size", "true"], ["--pack"]])
def test_what_does_not_fit_this_machine_is_refused_with_the_flags_that_help(
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    monkeypatch.setattr(training_memory, "free_bytes", lambda: 8 * 10**9)
    output = tmp_path / "sft"
    arguments = ["--model", "nano", "--dataset", str(clips), "--output_dir", str(output), *QUICK, *flags]
    assert main(["sft", *arguments]) == 2
    message = capsys.readouterr().err
    assert "a.mp4 at 53 frames of 1080x1920 (453600 tokens" in message
    assert "8.0 GB are free" in message
    for flag in ("--num_frames", "--height", "--width", "--native_size", "--per_device_train_batch_size"):
        assert flag in message
    assert "Traceback" not in message
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ((9, 32, 32), True)),
        ({"native_size": True}, ((13, 40, 64), False)),
        ({"height": 64}, ((9, 64, 32), True)),
        ({"num_frames": 5, "height": 16, "width": 24}, ((5, 16, 24), False)),
    ],
)
def test_a_size_is_the_videos_own_within_the_models_or_what_is_asked_for(
    tmp_path: Path, asked: dict[str, int], expected: object
) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(3, 15, 42, 66), 8)
    assert training_size(tiny_generator(), tmp_path / "a.mp4", **asked) == expected


def test_a_small_video_is_not_enlarged(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(3, 5, 16, 16), 8)
    generator = tiny_generator()
    (latents,) = encode_files(generator, [tmp_path / "a.mp4"], progress=False)
    assert latents.shape == generator.latent_shape(5, 16, 16)


def test_the_forecast_is_near_what_a_step_takes() -> None:
    generator = tiny_generator()
    generator.transformer.requires_grad_(True)
    size, config = (17, 64, 64), SFTConfig("out", report_to="none", use_cpu=True)
    latents = torch.randn(2, *generator.latent_shape(*size))
    conditions = generator.encode_prompts(["a", "b"])
    with StorageTracker() as tracker:
        generator.velocity(latents, torch.full((2,), 0.5), conditions).square().mean().backward()
    assert 0.6 < update_bytes(generator, size, 2, config) / tracker.peak < 1.7
    videos = torch.zeros(1, 3, *size)
    with StorageTracker() as tracker, torch.no_grad():
        generator.encode(videos)
    pixels = videos.numel() / 3
    assert 0.8 < encoding_bytes_a_pixel(generator) * pixels / (tracker.peak + videos.nbytes) < 1.3


def test_a_process_that_shares_tokens_takes_its_part() -> None:
    generator = tiny_generator()
    config = SFTConfig("out", report_to="none", use_cpu=True)
    alone = update_bytes(generator, (17, 64, 64), 2, config)
    config.context_parallel = 2
    assert update_bytes(generator, (17, 64, 64), 2, config) == alone / 2


def test_activations_follow_the_formula() -> None:
    # Korthikanti et al.: s b h (34 + ...) bytes at 16 bits a layer.
    assert activation_bytes(100, 8, 3, 2, checkpointed=False) == 3 * 34 * 100 * 8
    assert activation_bytes(100, 8, 3, 2, checkpointed=True) == 3 * 2 * 100 * 8 + 34 * 100 * 8


def tokens_of(hidden: torch.Tensor) -> int:
    """Tokens of one video `[1, tokens, dim]`, or places of its frames `[frames, channels, height, width]`."""
    return hidden.shape[1] if hidden.ndim == 3 else hidden[:, 0].numel()


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_tokens_and_sizes_of_latents_are_those_of_the_family(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path / family), device="cpu")
    own = generator.defaults
    size = (own.num_frames, own.height, own.width)
    shape = generator.latent_shape(*size)
    assert size_of_latents(generator, shape) == size
    seen: list[int] = []
    block = generator.blocks()[0]
    block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tokens_of(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    latents = torch.zeros(1, *shape)
    with torch.no_grad():
        generator.velocity(latents, torch.ones(1), generator.encode_prompts(["a"]))
    assert count_tokens(generator, shape) == seen[0]


def test_a_large_video_is_read_within_the_memory_that_was_said(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.rand(3, 12, 64, 96) * 2 - 1, 8)
    whole, _ = read_video(tmp_path / "a.mp4")
    same, fps = read_within(tmp_path / "a.mp4")
    assert torch.equal(same, whole)
    assert fps == 8
    small, fps = read_within(tmp_path / "a.mp4", pixels=12 * 32 * 48)
    assert small.shape == (3, 12, 32, 48)
    assert small.dtype == torch.float32
    assert -1 <= small.min() < small.max() <= 1


def test_the_shape_of_a_video_is_read_without_its_frames(clips: Path) -> None:
    assert video_shape(clips / "a.mp4") == (209, 1080, 1920, 30.0)
    assert video_shape(clips / "world.mp4")[1:3] == (270, 480)


def test_a_reward_of_any_size_is_shown_a_large_video_reduced(clips: Path) -> None:
    video = load_reward("world").read_video(clips / "a.mp4")
    assert video.shape[1] == 209
    assert video.numel() / 3 <= 2**25
    assert abs(video.shape[3] / video.shape[2] - 16 / 9) < 0.01
