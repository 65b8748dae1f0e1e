"""`vidalign doctor` tells the truth about this machine."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from alignment.cli.commands import doctor
from generator import load_generator

GENERATE = ["--prompts", "world:test:1", "--output_dir", "never-made"]


def test_doctor_reports_versions_codecs_and_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["doctor", "--output_dir", str(tmp_path / "new"), "--json", str(tmp_path / "found.json")]) == 0
    )
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert f"torch {torch.__version__}" in shown
    versions = {package["name"]: package["version"] for package in found["packages"]}
    assert versions["diffusers"] == importlib.metadata.version("diffusers")
    assert found["machine"]["disk_free"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert found["video"]["write H.264 (libx264)"] is True
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_the_built_in_model_has_a_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "nano", "--lora_r", "4", "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out.split("Memory of nano")[1]
    methods = json.loads((tmp_path / "found.json").read_text())["model"]["methods"]
    assert list(methods) == ["generate", "sft", "dpo", "ppo"]
    assert all(f"{method:<8}" in shown for method in methods)
    transformer = load_generator("nano", device="cpu").transformer
    for (option,) in methods.values():
        assert option["resident"]["transformer"] == sum(p.nbytes for p in transformer.parameters())
        assert option["peak"] == sum(option["resident"].values()) + max(option["transient"].values())
    assert methods["dpo"][0]["transient"]["update"] > 1.5 * methods["sft"][0]["transient"]["update"]


def test_a_hub_model_without_the_hub_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for words in (
        ["doctor", "--model", "nobody/nothing"],
        ["generate", "--model", "nobody/nothing", *GENERATE],
    ):
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert "HF_HUB_OFFLINE is set: unset it, or download the model first" in shown
        assert "hub id" not in shown or "generate" in words


def test_the_configuration_of_wan_is_taken_without_a_gpu_and_only_the_weights_are_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--config", "wan/ppo", "--prompts", "world:train:4", "--reward", "world"]
    assert main(["ppo", *words, "--output_dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in said
    assert "bf16" not in said
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == "diffusers" else real(name)
    )
    package = next(package for package in doctor.packages() if package["name"] == "diffusers")
    assert not package["fits"]
    assert "diffusers 0.1 (needs >=" in package["says"]
