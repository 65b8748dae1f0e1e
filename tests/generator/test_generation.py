"""One plan of videos, made in whole, in parts or by several commands, gives the same files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alignment.cli import main
from generator.data.prompts import PromptRecord
from generator.generation import (
    GenerationSettings,
    PlannedVideo,
    describe_generation,
    generate_videos_to,
    missing_videos,
    plan_videos,
)
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import write_video

RECORDS = [PromptRecord("a red circle"), PromptRecord("a blue square", "blur"), PromptRecord("a circle")]
SETTINGS = GenerationSettings(
    num_frames=5, height=16, width=16, num_inference_steps=2, guidance_scale=2.0, batch_size=2
)


@pytest.fixture(scope="module")
def generate() -> Callable[..., Tensor]:
    return tiny_generator().generate


def names(_: int, index: int) -> str:
    return f"{index:04d}.mp4"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


def make(folder: Path, plan: list[PlannedVideo], generate: Callable[..., Tensor], size: int = 2) -> None:
    settings = GenerationSettings(**{**vars(SETTINGS), "batch_size": size})
    for _ in generate_videos_to(folder, plan, generate, settings, 8.0):
        pass


def test_a_plan_names_every_video_with_a_seed_of_its_own() -> None:
    plan = plan_videos(RECORDS, 2, 7, lambda number, index: f"{number}-{index}.mp4")
    assert [planned.record for planned in plan] == [record for record in RECORDS for _ in range(2)]
    assert [planned.seed for planned in plan] == [7, 8, 9, 10, 11, 12]
    assert [planned.file_name for planned in plan] == [
        "0-0.mp4",
        "0-1.mp4",
        "1-2.mp4",
        "1-3.mp4",
        "2-4.mp4",
        "2-5.mp4",
    ]


def test_each_file_is_what_the_generator_makes_of_its_prompt_and_seed(
    generate: Callable[..., Tensor], tmp_path: Path
) -> None:
    plan = plan_videos(RECORDS, 1, 3, names)
    make(tmp_path / "plan", plan, generate, size=1)
    sizes = {name: value for name, value in vars(SETTINGS).items() if name not in ("solver", "pixel_format")}
    for planned in plan:
        [video] = generate(
            [planned.record.prompt],
            seed=[planned.seed],
            negative_prompt=planned.record.negative_prompt,
            **sizes,
        )
        write_video(tmp_path / "single" / planned.file_name, video, 8.0)
    assert contents(tmp_path / "plan") == contents(tmp_path / "single")


def test_parts_of_a_plan_in_any_order_are_the_whole_plan(
    generate: Callable[..., Tensor], tmp_path: Path
) -> None:
    plan = plan_videos(RECORDS, 2, 0, names)
    make(tmp_path / "whole", plan, generate, size=1)
    make(tmp_path / "parts", plan[1::2], generate, size=1)
    assert missing_videos(tmp_path / "parts", plan) == plan[::2]
    make(tmp_path / "parts", missing_videos(tmp_path / "parts", plan), generate, size=1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not missing_videos(tmp_path / "parts", plan)


def test_generate_and_evaluate_make_the_same_files(tmp_path: Path) -> None:
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    rows = [{"prompt": record.prompt, "negative_prompt": record.negative_prompt} for record in RECORDS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = {name: value for name, value in vars(SETTINGS).items() if name != "pixel_format"}
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    words += ["--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.jsonl"), "--seed", "4"]
    words += ["--num_videos_per_prompt", "2"]
    assert main(["generate", *words, "--output_dir", str(tmp_path / "candidates")]) == 0
    assert main(["evaluate", *words, "--output_dir", str(tmp_path / "evaluation")]) == 0
    generated, evaluated = contents(tmp_path / "candidates"), contents(tmp_path / "evaluation")
    assert list(evaluated) == [
        "0000-4.mp4",
        "0000-5.mp4",
        "0001-6.mp4",
        "0001-7.mp4",
        "0002-8.mp4",
        "0002-9.mp4",
    ]
    assert list(generated.values()) == list(evaluated.values())
    rows = [
        json.loads(line) for line in (tmp_path / "evaluation" / "metadata.jsonl").read_text().splitlines()
    ]
    assert [row["seed"] for row in rows] == [4, 5, 6, 7, 8, 9]


def test_nothing_begins_where_the_first_videos_are_refused(tmp_path: Path) -> None:
    def broken(prompts: list[str], **_: object) -> Tensor:
        return torch.full((len(prompts), 3, 5, 16, 16), torch.nan)

    begun: list[bool] = []
    made = partial(generate_videos_to, tmp_path / "out", plan_videos(RECORDS, 1, 0, names), broken)
    with pytest.raises(InputError, match=r"^The model made pixels that are not finite numbers"):
        list(made(SETTINGS, 8.0, begin=lambda: begun.append(True)))
    assert not begun
    assert not (tmp_path / "out").exists()


def test_what_generating_takes_is_told_before_it_begins() -> None:
    generator = tiny_generator()
    settings = GenerationSettings(
        num_frames=5, height=16, width=16, num_inference_steps=4, guidance_scale=3.0
    )
    text = describe_generation(generator, settings, 6, 2, models=3)
    rows = dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])
    shape = generator.latent_shape(5, 16, 16)
    patch = generator.transformer.config.patch_size
    tokens = math.prod(length // side for length, side in zip(shape[1:], patch, strict=True))
    assert rows["videos"].strip() == "6 by 3 models, 2 done"
    assert rows["tokens"].strip() == f"{tokens} a video"
    assert "guidance 3: 8 network calls a video" in rows["steps"]
    weights = sum(p.numel() for block in generator.blocks() for p in block.parameters())
    linear = 2 * 8 * 4 * tokens * weights  # operations: calls, videos, tokens, weights
    found = re.match(r"([\d.]+) (\w)FLOP", rows["compute"].strip())
    operations = float(found[1]) * 1000 ** " KMGTP".index(found[2])
    assert linear < operations < 2 * linear  # attention is beside it
    halved = describe_generation(generator, replace(settings, guidance_scale=1.0, solver="heun"), 6)
    assert "(heun), guidance 1: 8 network calls" in halved
