"""The whole loop at its smallest scale, on the shipped model, with real files and a real database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignment.demo.demo import STAGES, Demo
from alignment.demo.scales import GUIDANCE_SCALES, SCALES, DemoConfig, demo_scale
from generator.output import InputError
from reward.preferences import read_rankings

MODELS = ["base", "sft", "dpo", "ppo"]


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
    assert set(report["difference_to_base"]) == {"sft", "dpo", "ppo"}
    assert set(report["difference_to_sft"]) == {"base", "dpo", "ppo"}
    for model, difference in report["difference_to_base"].items():
        expected = report["adherence"][model]["mean"] - report["adherence"]["base"]["mean"]
        assert difference["mean"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_the_report_shows_what_guidance_changes(folder: Path) -> None:
    stages = json.loads((folder / "stages.json").read_text())["stages"]
    found = stages["guidance"]
    assert list(found["gold"]) == MODELS
    for means in found["gold"].values():
        assert list(means) == [f"{scale:g}" for scale in GUIDANCE_SCALES]
    page = (folder / "report.html").read_text()
    assert "without guidance (scale 1)" in page
    best = max(found["gold"]["base"].values())
    assert f"the base has {best:.3f}" in page
    assert f"{best:.3f} (best)" in page


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
        assert json.loads((folder / stage / "training.json").read_text())["base_model"] == "nano"


@pytest.mark.slow
def test_a_finished_demo_with_other_settings_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        Demo(DemoConfig(output_dir=str(folder), scale="smoke", seed=1)).run()


def test_a_gpu_chooses_the_larger_settings() -> None:
    assert demo_scale("auto", has_gpu=True) == SCALES["gpu"]
    assert demo_scale("auto", has_gpu=False) == SCALES["cpu"]
    assert demo_scale("cpu", has_gpu=True) == SCALES["cpu"]
