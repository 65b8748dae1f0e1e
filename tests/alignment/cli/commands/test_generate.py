"""`vidalign generate`: every prompt gets its videos, and an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import generator
from alignment.cli import main
from generator.data.demonstrations import read_demonstrations
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import read_video
from generator.world.elaborate import elaborate


class SeedPainter:
    """A generator that paints the seed as a grey level, and remembers what it was asked; the tiny one otherwise."""

    def __init__(self) -> None:
        self.tiny = tiny_generator()
        self.calls: list[dict[str, Any]] = []
        self.defaults = SimpleNamespace(
            num_frames=3, height=16, width=24, fps=8.0, num_inference_steps=10, guidance_scale=2.0
        )
        self.defaults.guidance_scale_2 = self.boundary = None
        self.image = None
        self.fail_after: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tiny, name)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        return self.tiny.latent_shape(5, height, width)

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        if height % 8 or width % 8:
            raise InputError(f"{width}x{height} is not a size of this model: use multiples of 8.")

    def lost_end(self, prompt: str) -> str:
        return ""

    def unknown_words(self, prompt: str) -> list[str]:
        return []

    def generate(
        self, prompts: Sequence[str], seed: Sequence[int], height: int | None = None, **more: Any
    ) -> Tensor:
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        more.pop("stepped", None)
        self.calls.append({"prompts": list(prompts), "seed": list(seed), "height": height, **more})
        levels = torch.tensor(seed).float() / 10 - 1
        return levels.view(-1, 1, 1, 1, 1).expand(len(prompts), 3, 3, height or 16, 24)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SeedPainter:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "painter").mkdir()
    (tmp_path / "painter" / "model_index.json").write_text("{}")
    painter = SeedPainter()

    def load(name: str, adapter: str | None = None, **options: Any) -> SeedPainter:
        painter.options = options
        if name != "painter":
            raise InputError(f"There is no model {name}: use painter.")
        return painter

    monkeypatch.setattr(generator, "load_generator", load, raising=False)
    return painter


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "a", "id": "x"}\n{"prompt": "b", "negative_prompt": "blur"}\n{"prompt": "c"}\n'
    )
    words = f"generate --model painter --prompts {prompts} --output_dir {tmp_path / 'out'}"
    return [*words.split(), "--num_videos_per_prompt", "2", "--seed", "4", "--batch_size", "2"]


def seeds_seen(folder: Path) -> list[int]:
    return [round((read_video(path)[0].mean().item() + 1) * 10) for path in sorted(folder.glob("*.mp4"))]


def test_every_prompt_gets_its_videos_with_their_own_seeds(
    painter: SeedPainter, command: list[str], tmp_path: Path
) -> None:
    assert main(command) == 0
    out = tmp_path / "out"
    assert seeds_seen(out) == [4, 5, 6, 7, 8, 9]
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a", "a", "b", "b", "c", "c"]
    assert [row["seed"] for row in rows] == [4, 5, 6, 7, 8, 9]
    assert rows[0] == {
        "file_name": "0000.mp4",
        "prompt": "a",
        "negative_prompt": "",
        "id": "x",
        "seed": 4,
        "model": "painter",
        "adapter": None,
        "index": 0,
    }
    assert [call["negative_prompt"] for call in painter.calls] == ["", "", "blur"]
    assert all(len(call["prompts"]) <= 2 for call in painter.calls)
    assert [item.prompt for item in read_demonstrations(out)] == ["a", "a", "b", "b", "c", "c"]
    assert read_video(out / "0000.mp4")[1] == 8


def test_an_interrupted_run_goes_on_where_it_stopped(
    painter: SeedPainter, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    painter.fail_after = 1
    assert main(command) == 130
    assert (
        "Finished videos are kept; to go on:\n    vidalign generate --model painter"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    kept = (tmp_path / "out" / "0000.mp4").stat().st_mtime_ns
    painter.fail_after = None
    painter.calls.clear()
    assert main([*command[:-1], "3"]) == 0  # another batch size makes the same videos
    assert sum(len(call["prompts"]) for call in painter.calls) == 4
    assert (tmp_path / "out" / "0000.mp4").stat().st_mtime_ns == kept
    assert seeds_seen(tmp_path / "out") == [4, 5, 6, 7, 8, 9]


def test_what_saves_memory_reaches_the_model_and_is_remembered(
    painter: SeedPainter, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dtype", "bfloat16", "--tiling", "true", "--offload_weights", "true"]) == 0
    given = {name: value for name, value in painter.options.items() if value is not None}
    assert given == {"dtype": torch.bfloat16, "tiling": True, "offload_weights": True}
    assert main([*command, "--dtype", "bfloat16", "--tiling", "true"]) == 0  # the same videos
    assert main(command) == 2
    assert "other arguments (dtype, tiling)" in capsys.readouterr().err


def test_other_arguments_never_overwrite_videos_unasked(
    painter: SeedPainter, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert main([*command, "--height", "32"]) == 2
    assert "other arguments (height)" in capsys.readouterr().err
    assert read_video(tmp_path / "out" / "0000.mp4")[0].shape == (3, 3, 16, 24)
    assert main([*command, "--height", "32", "--overwrite"]) == 0
    assert read_video(tmp_path / "out" / "0000.mp4")[0].shape == (3, 3, 32, 24)


def test_pixels_that_are_not_finite_are_one_sentence(
    painter: SeedPainter, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    painter.generate = lambda prompts, **more: torch.full((len(prompts), 3, 3, 16, 24), torch.nan)  # type: ignore[method-assign]
    assert main(command) == 2
    assert "painter made pixels that are not finite numbers" in capsys.readouterr().err


def test_overwrite_keeps_what_is_read(
    painter: SeedPainter, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "out" / "prompts.txt"
    prompts.parent.mkdir()
    prompts.write_text("a\n")
    assert main([*command, "--prompts", str(prompts), "--overwrite"]) == 2
    assert "prompts.txt is read, but lies in the output folder" in capsys.readouterr().err
    assert prompts.read_text() == "a\n"


def test_a_foreign_folder_is_left_alone(
    painter: SeedPainter, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert main(command) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    assert not painter.calls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "no model nowhere"),
        (["--height", "33"], "not a size of this model"),
        (["--num_videos_per_prompt", "0"], "--num_videos_per_prompt is 0"),
        (["--prompts", "missing.txt"], "missing.txt does not exist"),
        (["--seed", str(10**20)], "seed is 100000000000000000000, but must be between 0 and 4294967295"),
    ],
)
def test_a_mistake_leaves_no_output(
    painter: SeedPainter,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_values_in_effect_are_recorded_and_the_same_command_goes_on(
    painter: SeedPainter, command: list[str], tmp_path: Path
) -> None:
    painter.fail_after = 1
    main(command)
    file = next(tmp_path.rglob("generation.json"))
    recorded = json.loads(file.read_text())
    assert {name: recorded[name] for name in ("num_frames", "height", "width")} == {
        "num_frames": 3,
        "height": 16,
        "width": 24,
    }
    painter.fail_after = None
    assert main([*command, "--width", "16"]) == 2
    assert main([*command, "--width", "24"]) == 0, "the model's own width, said"
    assert main(command) == 0


def test_the_model_is_given_rewritten_prompts_and_the_files_keep_the_originals(
    painter: SeedPainter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vague.txt").write_text("a disc\ntwo squares\n")
    words = (
        f"generate --model painter --prompts {tmp_path / 'vague.txt'} --output_dir {tmp_path / 'out'}".split()
    )
    assert main([*words, "--rewriter", "world"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a disc", "two squares"]
    assert [row["rewritten_prompt"] for row in rows] == [elaborate("a disc"), elaborate("two squares")]
    assert painter.calls[0]["prompts"] == [row["rewritten_prompt"] for row in rows]
    assert main(words) == 2
    assert "other arguments (rewriter, rewritten_prompts)" in capsys.readouterr().err


def test_a_prompt_that_cannot_be_rewritten_leaves_no_output(
    painter: SeedPainter, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--rewriter", "world"]) == 2
    assert "3 of 3 prompts are not the video world's" in capsys.readouterr().err
    assert main([*command, "--rewriter_model", "big"]) == 2
    assert "pass --rewriter MODEL" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
