"""The house: who may import whom (docs/index.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "generator": set(),
    "reward": {"generator"},
    "labeling_app": {"reward", "generator"},
    "alignment": {"labeling_app", "reward", "generator"},
}


def imported_packages(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a module of `package`, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.split(".")[0]


def wrong_imports(source: str, package: str) -> list[tuple[int, str]]:
    """Imports of packages of this house that `package` may not know."""
    known = set(MAY_IMPORT) | {"tests", "benchmarks"}
    allowed = MAY_IMPORT[package] | {package}
    return [(line, name) for line, name in imported_packages(source, package) if name in known - allowed]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_follow_the_direction_of_the_house(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules
        for line, name in wrong_imports(path.read_text(encoding="utf-8"), package)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_packages_of_the_house_are_these_four() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "source",
    [
        "import alignment.cli",
        "from reward import losses",
        "def f():\n    from labeling_app.store.store import Store",
        "import importlib\nimportlib.import_module('alignment.cli')",
        "if TYPE_CHECKING:\n    import reward.models as m",
    ],
)
def test_a_wrong_import_is_found_wherever_it_stands(source: str) -> None:
    assert wrong_imports(source, "generator")
    assert not wrong_imports(source, "alignment")


def test_imports_inside_a_package_are_its_own_business() -> None:
    assert not wrong_imports("from . import flow\nfrom ..output import InputError\nimport torch", "generator")
