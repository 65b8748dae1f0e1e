"""The wheel holds every package and the configurations, and finds them where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("generator", "reward", "labeling_app", "alignment")

pytest.importorskip("setuptools", minversion="77")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in PACKAGES:  # the names of weights are what counts, and the bytes would cost time
        for weights in (ROOT / name).rglob("*.safetensors"):
            (source / weights.relative_to(ROOT)).touch()
    for name in ("pyproject.toml", "LICENSE", "vidalign.py"):
        shutil.copy(ROOT / name, source / name)
    (source / "README.md").write_text("# vidalign\n")
    target = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(target.glob("vidalign-*.whl"))


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for example in (
        "generator/py.typed",
        "generator/pretrained/nano/transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "generator/pretrained/nano/vae/diffusion_pytorch_model.safetensors",
        "generator/pretrained/nano/tokenizer/tokenizer.json",
        "generator/pretrained/nano-cascade/spatial/transformer/diffusion_pytorch_model.safetensors",
        "generator/pretrained/nano-rewriter/model.safetensors",
        "generator/pretrained/nano-rewriter/tokenizer.json",
        "reward/pretrained/nano-v1-reward/reward_model.safetensors",
        "labeling_app/static/ranks.js",
        "labeling_app/static/ranking.css",
        "labeling_app/static/login.html",
        "labeling_app/store/migrations/versions/v0001_first.py",
        "alignment/cli/configs/wan/ppo.yaml",
        "alignment/cli/configs/deepspeed/zero2.json",
    ):
        assert example in files
    missing = {*files, "vidalign.py"} - names
    assert not missing
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {*PACKAGES, "vidalign.py"}


def test_an_unpacked_wheel_reads_its_commands_configurations_and_names(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(site)
    work.mkdir()
    program = (
        "import sys, vidalign, alignment, generator, labeling_app, reward\n"
        "from alignment.cli import main\n"
        "assert main(['label', 'serve', '--help']) == 0\n"
        "assert main(['sft', '--config', 'wan/sft', '--dataset', 'gone', '--output_dir', 'out']) == 2\n"
        "assert 'torch' not in sys.modules\n"
        "packages = ('alignment', 'generator', 'labeling_app', 'reward', 'vidalign')\n"
        "loaded = [m.__file__ for n, m in list(sys.modules.items()) if n.split('.')[0] in packages]\n"
        f"assert all(file.startswith({str(site)!r}) for file in loaded), loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The data set gone does not exist" in done.stderr
    assert not list(work.iterdir())


@pytest.mark.parametrize("scheme", ["--target", "--prefix"])
def test_an_installed_package_finds_its_configurations(wheel: Path, tmp_path: Path, scheme: str) -> None:
    root = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        "--quiet",
    ]
    install += [scheme, str(root)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    site = next(root.rglob("alignment/cli/command_line.py")).parents[2]
    program = (
        "from alignment.cli.config_files import find_config\n"
        "import yaml; path = find_config('zero2', 'accelerate')\n"
        "beside = yaml.safe_load(path.read_text())['deepspeed_config']['deepspeed_config_file']\n"
        "print((path.parent / beside).resolve())"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.is_relative_to(root)
    assert (
        found.read_text() == (ROOT / "alignment" / "cli" / "configs" / "deepspeed" / "zero2.json").read_text()
    )


def test_an_editable_install_wins_over_a_folder_in_the_working_directory(tmp_path: Path) -> None:
    target = tmp_path / "wheel"
    target.mkdir()
    source = tmp_path / "clone"
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "pretrained")
        )
        (tmp_path / "work" / name).mkdir(parents=True)  # such as `--output_dir reward/`
    for name in ("pyproject.toml", "LICENSE", "README.md", "vidalign.py"):
        shutil.copy(ROOT / name, source / name)
    build = f"from setuptools import build_meta; build_meta.build_editable({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    zipfile.ZipFile(next(target.glob("vidalign-*.whl"))).extractall(site)
    program = (
        f"import sys; sys.path = [path for path in sys.path if {str(ROOT)!r} != path]; import site\n"
        f"sys.path_importer_cache.clear(); site.addsitedir({str(site)!r})\n"
        "from reward import load_reward; from generator import InputError\n"
        "import alignment.cli, labeling_app, vidalign\n"
        "modules = alignment.cli, labeling_app, vidalign\n"
        "print(load_reward.__code__.co_filename, *(module.__file__ for module in modules), sep='\\n')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(source) for line in done.stdout.split()), done.stdout


def test_every_module_imports_without_the_extras() -> None:
    """`pip install vidalign` alone, as `make demo` sets it up, has none of the packages of the extras."""
    extras = [
        "authlib",
        "bitsandbytes",
        "choix",
        "deepspeed",
        "gguf",
        "joserfc",
        "krippendorff",
        "onnxruntime",
        "playwright",
    ]
    extras += ["psycopg", "pytest", "rapidocr", "scipy", "skvideo"]
    extras += ["authlib", "cv2", "joserfc", "moto", "s3fs", "scenedetect"]
    program = (
        "import importlib, pkgutil, sys\n"
        "from importlib.util import find_spec\n"
        f"sys.modules.update(dict.fromkeys({extras!r}))\n"
        f"assert not any(find_spec(name) for name in {extras!r})\n"
        "for package in ('generator', 'reward', 'labeling_app', 'alignment'):\n"
        "    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + '.'):\n"
        "        if '.migrations.' not in module.name:\n"
        "            importlib.import_module(module.name)\n"
        "            print(module.name)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "generator.training.gradient_traffic" in result.stdout.split()
