"""The examples of docs/python.md run as they stand there, but for their sizes; `import vidalign` is light."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vidalign
from generator.testing import tiny_generator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python.md"
SMALLER = {
    r"max_steps=\d+": "max_steps=1, per_device_train_batch_size=2",
    r"num_train_epochs=\d+": "num_train_epochs=1, held_out_fraction=0.25, validation_fraction=0.25",
    r"num_rollouts=\d+": "num_rollouts=1, num_prompts=2, num_generations=2, num_mini_batches=1, probe_prompts=0",
    r"num_inference_steps=\d+": "num_inference_steps=3",
    r"sample_prompts\(\d+": "sample_prompts(8",
    r"world:(\w+):\d+": r"world:\1:2",
    r'generator="nano"': 'generator="nano", num_generations=2',
    r"output_dir=": 'use_cpu=True, report_to="none", disable_tqdm=True, output_dir=',
}


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    tiny_generator().pipeline.save_pretrained(tmp_path / "tiny")
    names: dict[str, object] = {}
    for example in examples():
        for pattern, smaller in SMALLER.items():
            example = re.sub(pattern, smaller, example)
        exec(compile(example.replace('"nano"', '"tiny"'), str(PAGE), "exec"), names)
    for made in ("sft", "dpo", "ppo", "pairs"):
        assert (tmp_path / "runs" / made / "pytorch_lora_weights.safetensors").is_file()
    assert (tmp_path / "runs" / "evaluation" / "report.html").is_file()
    assert (tmp_path / "runs" / "rewriter" / "rewriter.json").is_file()


def test_every_public_name_is_what_its_home_defines() -> None:
    for package in ("vidalign", "alignment", "labeling_app"):
        module = importlib.import_module(package)
        assert set(module.__all__) == set(module._HOMES)
        for name, home in module._HOMES.items():
            assert getattr(module, name) is getattr(importlib.import_module(home), name)
            assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vidalign.nothing  # type: ignore[attr-defined]


def test_importing_vidalign_is_light() -> None:
    program = (
        "import sys, time; start = time.process_time(); import vidalign, alignment, labeling_app\n"
        "print(time.process_time() - start); print({'torch', 'transformers', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, loaded = done.stdout.splitlines()
    assert float(seconds) < 0.3
    assert loaded == "set()"


@pytest.mark.parametrize("package", ["generator", "reward", "labeling_app", "alignment"])
def test_type_checkers_are_told_that_the_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
