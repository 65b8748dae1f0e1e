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
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")  # the weights would only cost time
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
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


def test_the_wheel_holds_every_module_and_configuration(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert modules | {"vidalign.py", *(f"{package}/py.typed" for package in PACKAGES)} <= names
    configs = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "alignment" / "cli" / "configs").rglob("*")
        if path.is_file()
    }
    assert configs <= names
    assert not any(name.split("/")[0] in {"tests", "benchmarks", "docs"} for name in names)


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
