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


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == "diffusers" else real(name)
    )
    package = next(package for package in doctor.packages() if package["name"] == "diffusers")
    assert not package["fits"]
    assert "diffusers 0.1 (needs >=" in package["says"]
