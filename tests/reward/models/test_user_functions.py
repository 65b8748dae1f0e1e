"""`module:function`: the user's own rewards and verifiers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from generator.output import InputError
from reward import load_reward
from reward.adherence.verifiers import load_verifier

VIDEOS, PROMPTS = torch.zeros(2, 3, 1, 4, 4), ["a", "b"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_function_of_the_current_folder_is_found_and_its_neighbours_too(folder: Path) -> None:
    (folder / "neighbour_of_mine.py").write_text("VALUE = 3\n")
    (folder / "my_scores.py").write_text(
        "from neighbour_of_mine import VALUE\ndef score(videos, prompts):\n    return [VALUE] * len(prompts)\n"
    )
    assert load_reward("my_scores:score").score(VIDEOS, PROMPTS)["overall"].tolist() == [3, 3]


def test_the_current_folder_hides_no_installed_module(folder: Path) -> None:
    (folder / "plain_scores.py").write_text("def score(videos, prompts):\n    return [1] * len(prompts)\n")
    (folder / "colorsys.py").write_text("raise RuntimeError('shadowed')\n")
    for name in ("reward", "generator", "datasets"):
        (folder / name).mkdir()
    (folder / "generator.py").write_text("raise RuntimeError('shadowed')\n")
    program = (
        "from reward import load_reward; load_reward('plain_scores:score'); import colorsys, generator.output"
    )
    words = [sys.executable, "-P", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["colorsys", "metrics", "yaml"])
def test_a_file_with_the_name_of_an_installed_module_is_found_and_hides_nothing(
    folder: Path, name: str
) -> None:
    (folder / f"{name}.py").write_text("def score(videos, prompts):\n    return [5] * len(prompts)\n")
    assert load_reward(f"{name}:score").score(VIDEOS, PROMPTS)["overall"].tolist() == [5, 5]
    if name != "metrics":
        module = __import__(name)
        assert not hasattr(module, "score")


@pytest.mark.parametrize("package", ["reward", "generator", "alignment", "labeling_app"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py", "{}/mine.py"])
def test_a_module_with_the_name_of_a_package_of_ours_is_refused(
    folder: Path, package: str, file: str
) -> None:
    path = folder / file.format(package)
    path.parent.mkdir(exist_ok=True)
    path.write_text("def score(videos, prompts):\n    return [5] * len(prompts)\n")
    module = f"{package}.mine" if path.name == "mine.py" else package
    for load in (load_reward, load_verifier):
        with pytest.raises(
            InputError, match=rf"{path.name} has the name of the package .*rename it.*my_{package}"
        ):
            load(f"{module}:score")


@pytest.mark.parametrize("text", ["def score(:\n", "import a_module_that_is_missing\n", "1 / 0\n"])
def test_a_module_that_fails_is_one_sentence_with_the_reason(folder: Path, text: str) -> None:
    (folder / "failing_scores.py").write_text(text)
    with pytest.raises(InputError, match=r"cannot be imported \(\w+Error: "):
        load_reward("failing_scores:score")
