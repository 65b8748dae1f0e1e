"""Every stage runs on every family from files on disk, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from generator.loading import load_generator
from generator.testing.text_pipelines import TINY_PIPELINES
from generator.video import write_video
from tests.generator.families.representatives import REPRESENTATIVES

PROMPTS = ["a red circle moves left", "the blue square", "a dark circle on the right"]

COVERED = ("ltx",)
"""Families whose stages run the code of others: LTX-2.3 runs that of LTX-Video."""


def judge(videos: torch.Tensor, prompts: list[str]) -> list[float]:
    """A verifier for `evaluate`: brightness as a score in [0, 1]."""
    return ((videos.mean(dim=(1, 2, 3, 4)) + 1) / 2).clamp(0, 1).tolist()


@pytest.fixture
def data(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Demonstrations, rankings and prompts of the family's tiny size."""
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    num_frames, height, width = TINY_PIPELINES[family][1]
    random = torch.Generator().manual_seed(0)
    rows, rankings = [], []
    (tmp_path / "videos").mkdir()
    for number, prompt in enumerate(PROMPTS):
        names = []
        for k in range(2):
            video = torch.rand(3, num_frames, height, width, generator=random) * 2 - 1
            names.append(f"videos/{number}-{k}.mp4")
            write_video(tmp_path / names[-1], video, fps=load_fps(family))
        rows.append({"file_name": f"{number}-0.mp4", "prompt": prompt})
        rankings.append({"prompt": prompt, "videos": names, "ranks": [1, 2]})
    (tmp_path / "videos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rankings.jsonl").write_text("\n".join(map(json.dumps, rankings)))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def load_fps(family: str) -> float:
    return {"wan2.2-ti2v": 24.0, "ltx": 25.0, "ltx2.3": 24.0, "cogvideox": 8.0, "animatediff": 8.0}.get(
        family, 16.0 if "hunyuan" not in family else 24.0
    )


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) in (0, None)


def made_by(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    generator = load_generator(folder, adapter=adapter, device="cpu")
    return generator.generate(PROMPTS[:1], num_inference_steps=2, guidance_scale=1.0)


@pytest.mark.parametrize("family", [name for name in REPRESENTATIVES if name not in COVERED], indirect=True)
def test_all_stages_run_one_after_the_other(family: str, folder: Path, data: Path) -> None:
    num_frames, height, width = TINY_PIPELINES[family][1]
    size = ("--num_frames", num_frames, "--height", height, "--width", width)
    quiet = ("--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true")
    lora = ("--lora_r", 4, "--learning_rate", 1e-2)
    base = made_by(folder)

    run("sft", "--model", folder, "--dataset", data / "videos", "--output_dir", data / "sft", "--max_steps", 2,
        "--per_device_train_batch_size", 2, *size, *lora, *quiet)  # fmt: skip
    assert not torch.equal(base, made_by(folder, data / "sft"))

    run("reward", "--model", folder, "--preferences", data / "rankings.jsonl", "--output_dir", data / "reward",
        "--num_train_epochs", 1, "--held_out_fraction", 0.34, "--hidden_size", 16, *quiet)  # fmt: skip

    run("dpo", "--model", folder, "--adapter", data / "sft", "--preferences", data / "rankings.jsonl",
        "--output_dir", data / "dpo", "--max_steps", 1, "--per_device_train_batch_size", 2,
        "--gradient_checkpointing", "true", *size, *lora, *quiet)  # fmt: skip
    assert not torch.equal(base, made_by(folder, data / "dpo"))

    # The trained reward reads latents; the function reads pixels.
    run("ppo", "--model", folder, "--prompts", data / "prompts.txt", "--reward", data / "reward", f"{__name__}:judge",
        "--output_dir", data / "ppo", "--num_rollouts", 1, "--num_prompts", 2, "--num_generations", 2,
        "--num_inference_steps", 3, "--num_mini_batches", 1, "--guidance_scale", 2.0,
        *size, *lora, *quiet)  # fmt: skip
    state = json.loads((data / "ppo" / "trainer_state.json").read_text())
    logged = next(entry for entry in state["log_history"] if "ratio" in entry)
    assert logged["ratio"] == pytest.approx(1, abs=1e-6)
    assert logged["log_prob_error"] < 1e-4
    judged = [name for name in logged if name.startswith("rewards/") and name.endswith("/overall/mean")]
    assert len(judged) == 2
    assert not torch.equal(base, made_by(folder, data / "ppo"))

    run("generate", "--model", folder, "--adapter", data / "ppo", "--prompts", data / "prompts.txt",
        "--output_dir", data / "generated", "--num_inference_steps", 1)  # fmt: skip
    assert len(list((data / "generated").rglob("*.mp4"))) == len(PROMPTS)

    run("evaluate", "--model", folder, "--adapter", data / "ppo", "--prompts", data / "prompts.txt",
        "--verifier", f"{__name__}:judge", "--output_dir", data / "report", "--num_inference_steps", 1)  # fmt: skip
    assert (data / "report" / "report.json").is_file()
