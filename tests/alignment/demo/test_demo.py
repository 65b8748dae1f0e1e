"""The whole loop at its smallest scale, on the shipped model, with real files and a real database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignment.demo.demo import STAGES, Demo
from alignment.demo.scales import GUIDANCE_SCALES, SCALES, DemoConfig, demo_scale
from alignment.demo.settings import (
    distilled_guidance,
    ppo_settings,
    reward_settings,
    sft_settings,
    video_size,
)
from generator import load_generator
from generator.output import InputError, read_jsonl
from generator.testing import tiny_generator
from generator.world import verify_batch
from generator.world.elaborate import elaborate
from reward.preferences import read_rankings
from reward.reports.comparison import read_samples

MODELS = ["base", "start", "sft", "dpo", "ppo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was interrupted in the middle, and then finished by the same command."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    config = DemoConfig(output_dir=str(folder), scale="smoke")
    demo = Demo(config)
    demo.dpo = _interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        demo.run()
    assert set(json.loads((folder / "stages.json").read_text())["stages"]) == set(STAGES[:5])
    before = (folder / "sft" / "pytorch_lora_weights.safetensors").stat().st_mtime_ns
    Demo(config).run()
    assert (folder / "sft" / "pytorch_lora_weights.safetensors").stat().st_mtime_ns == before
    return folder


def _interrupted() -> dict:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_json_has_the_layout_that_other_programs_read(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert list(report["adherence"]) == MODELS
    for interval in report["adherence"].values():
        assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1
        assert interval["n"] == SCALES["smoke"].num_test_prompts
    assert set(report["difference_to_base"]) == {"start", "sft", "dpo", "ppo"}
    assert set(report["difference_to_sft"]) == {"base", "start", "dpo", "ppo"}
    for model, difference in report["difference_to_base"].items():
        expected = report["adherence"][model]["mean"] - report["adherence"]["base"]["mean"]
        assert difference["mean"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_every_model_is_compared_at_its_own_best_guidance(folder: Path) -> None:
    stages = json.loads((folder / "stages.json").read_text())["stages"]
    found = stages["guidance"]
    assert list(found["gold"]) == MODELS
    for model, means in found["gold"].items():
        assert list(means) == [f"{scale:g}" for scale in GUIDANCE_SCALES]
        assert means[f"{found['best'][model]:g}"] == max(means.values())
    assert json.loads((folder / "evaluation" / "report.json").read_text())["settings"]["guidance"] == {
        model: found["best"][model] for model in MODELS
    }
    page = (folder / "report.html").read_text()
    assert "each at its best guidance (" in page
    assert "The best guidance of each was found" in page
    assert f"(base {found['best']['base']:g}, " in page
    assert f"{max(found['gold']['base'].values()):.3f} (best)" in page


@pytest.mark.slow
def test_the_videos_compared_were_made_at_that_guidance(folder: Path) -> None:
    best = json.loads((folder / "stages.json").read_text())["stages"]["guidance"]["best"]
    samples = read_samples(folder / "evaluation" / "metadata.jsonl")
    scale = SCALES["smoke"]
    adapters = {"base": None, "start": "nano-v1-distilled", "ppo": folder / "ppo"}
    for model, adapter in adapters.items():
        own = [sample for sample in samples if sample.model == model][:2]
        videos = load_generator("nano-v1", adapter=adapter).generate(
            [sample.prompt for sample in own],
            **video_size(scale),
            num_inference_steps=scale.num_inference_steps,
            guidance_scale=best[model],
            seed=[sample.seed for sample in own],
        )
        judged = verify_batch(videos, [sample.prompt for sample in own], fps=8.0)
        for sample, adherence in zip(own, judged, strict=True):
            assert sample.score == pytest.approx(adherence.score, abs=1e-3)


@pytest.mark.slow
def test_the_page_refers_to_no_other_file_and_names_the_simulation(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "simulated annotators" in page
    assert "data:video/webm" in page
    links = re.findall(r'href="(?!#)([^"]+)"', page)
    assert links
    assert all((folder / link).is_file() for link in links)
    assert "The reward model (<a" in page


@pytest.mark.slow
def test_every_step_left_its_files(folder: Path) -> None:
    scale = SCALES["smoke"]
    assert len(list((folder / "demonstrations").glob("*.mp4"))) == scale.num_demonstrations
    candidates = scale.num_ranked_prompts * scale.num_candidates
    assert len(list((folder / "candidates").glob("*.mp4"))) == candidates
    rankings = read_rankings(folder / "rankings.jsonl")
    assert len(rankings) == scale.num_ranked_prompts * scale.num_annotators
    assert {ranking.annotator for ranking in rankings} == {"simulated-1", "simulated-2"}
    assert (folder / "labels.db").is_file()
    for stage in ("sft", "dpo", "ppo"):
        assert (folder / stage / "pytorch_lora_weights.safetensors").is_file()
        assert json.loads((folder / stage / "training.json").read_text())["base_model"] == "nano-v1"


@pytest.mark.slow
def test_a_finished_demo_with_other_settings_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        Demo(DemoConfig(output_dir=str(folder), scale="smoke", seed=1)).run()


def test_a_gpu_chooses_the_larger_settings() -> None:
    assert demo_scale("auto", has_gpu=True) == SCALES["gpu"]
    assert demo_scale("auto", has_gpu=False) == SCALES["cpu"]
    assert demo_scale("cpu", has_gpu=True) == SCALES["cpu"]


def test_the_distilled_base_is_nanos_alone() -> None:
    assert DemoConfig(output_dir="x").adapter == "nano-v1-distilled"
    assert DemoConfig(output_dir="x", model="nano").adapter == "nano-distilled"
    assert DemoConfig(output_dir="x", model="runs/mine").adapter == ""
    assert DemoConfig(output_dir="x", adapter="").adapter == ""


def test_the_reward_learns_on_from_that_of_the_model_where_videos_are_as_small() -> None:
    def start(scale: str, **more: str) -> str:
        return Demo(DemoConfig(output_dir="x", scale=scale, **more)).reward_start

    assert start("cpu") == "nano-v1-reward"
    assert start("cpu", model="nano") == "nano-reward"
    assert start("gpu") == start("cpu", model="runs/mine") == start("cpu", reward="") == ""
    assert start("gpu", reward="runs/reward") == "runs/reward"
    for taught, rate in ((True, 1e-3), (False, 3e-4)):
        assert ("implicit_evidence" in reward_settings(SCALES["cpu"], taught)) is not taught
        assert ppo_settings(SCALES["cpu"], taught)["learning_rate"] == rate


@pytest.mark.slow
def test_the_reward_of_the_demo_was_taught_and_the_page_says_so(folder: Path) -> None:
    assert json.loads((folder / "reward" / "training.json").read_text())["weights_from"] == "nano-v1-reward"
    assert not (folder / "reward" / "adapter").exists()
    assert "The reward model begins with nano-v1-reward" in (folder / "report.html").read_text()


def test_sft_keeps_the_guidance_that_the_adapter_has_learnt() -> None:
    scale = SCALES["cpu"]
    for adapter, learnt, kept in (("nano-v1-distilled", 5.0, 1.8), ("nano-distilled", 3.0, 5 / 3)):
        assert distilled_guidance(adapter) == learnt
        settings = sft_settings(scale, learnt)
        assert settings["distill_guidance"] == pytest.approx(kept)
        assert settings["distill_demonstrations"]
    assert distilled_guidance("") is None
    assert "distill_guidance" not in sft_settings(scale)


def test_candidates_are_made_of_rewritten_prompts_and_named_by_the_original_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    tiny = tiny_generator()
    generate = tiny.generate
    monkeypatch.setattr(
        tiny, "generate", lambda texts, **more: asked.extend(texts) or generate(texts, **more)
    )
    monkeypatch.setattr("alignment.demo.demo.load_generator", lambda *names, **more: tiny)
    demo = Demo(DemoConfig(output_dir=str(tmp_path), rewriter="world", scale="smoke"))
    assert demo.candidates()["videos"] == 24
    rows = [row for _, row in read_jsonl(tmp_path / "candidates" / "metadata.jsonl")]
    assert [row["rewritten_prompt"] for row in rows] == [elaborate(row["prompt"]) for row in rows] == asked
    assert any(row["rewritten_prompt"] != row["prompt"] for row in rows)
