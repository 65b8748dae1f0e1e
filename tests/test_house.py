"""The house: who may import whom, and how large its rooms are (CONTRIBUTING.md, "The map of the house")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("generator", "reward", "labeling_app", "alignment")
MAY_IMPORT = {
    "generator": set(),
    "reward": {"generator"},
    "labeling_app": {"reward", "generator"},
    "alignment": {"labeling_app", "reward", "generator"},
}
WINGS = {
    "generator": [
        "pretraining", "editing", "testing", "loading", "families", "native", "latent_cache", "base_adapters",
        "adapter_export", "adapters", "loaded_from",
        "bounded_reading", "prompts", "demonstrations", "base", "sampling", "world", "video", "hardware", "training",
        "files", "video_files", "weight_files",
    ],
    "reward": ["training", "evaluation", "reports", "adherence", "service", "models", "metrics", "formats"],
    "labeling_app": ["web", "simulate", "campaigns", "selection", "files", "quality", "tasks", "store"],
    "alignment": [
        "cli", "demo", "stages", "guided_sampling", "trainers", "rollouts", "memory", "data", "losses", "lora",
    ],
}  # fmt: skip
"""Wings and modules of a package from the roof down: each may import those that stand after it."""


def modules(package: str) -> dict[str, Path]:
    """Dotted names of a package's modules and their files."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in PACKAGES for name, path in modules(package).items()}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether it is for type checkers only, of every import, also those inside functions."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        typed = id(node) in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, typed
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES else base, typed
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value, typed


def wrong_imports(source: str, module: str) -> list[tuple[int, str]]:
    """Imports of this house that a module may not make, with their lines."""
    package, *inside = module.split(".")
    wings = WINGS[package]
    own = inside[0] if inside and inside[0] in wings else None
    wrong = []
    for line, name, _ in imports(source, module):
        top, *rest = name.split(".")
        if (
            top in {"tests", "benchmarks", "vidalign"}
            or (top in MAY_IMPORT and top not in MAY_IMPORT[package] | {package})
            or (
                # The package's own face may show everything; plain modules beside the wings are the ground floor.
                top == package
                and inside
                and rest
                and rest[0] in wings
                and (own is None or wings.index(rest[0]) < wings.index(own))
            )
        ):
            wrong.append((line, name))
    return wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_follow_the_direction_of_the_house(package: str) -> None:
    assert modules(package)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in modules(package).items()
        for line, name in wrong_imports(path.read_text(encoding="utf-8"), module)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_packages_of_the_house_are_these_four() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"} == set(
        PACKAGES
    )


@pytest.mark.parametrize(
    "source",
    [
        "import alignment.cli",
        "from reward import losses",
        "def f():\n    from labeling_app.store import Store",
        "import importlib\nimportlib.import_module('alignment.cli')",
        "if TYPE_CHECKING:\n    import reward.models as m",
    ],
)
def test_a_wrong_import_is_found_wherever_it_stands(source: str) -> None:
    assert wrong_imports(source, "generator.flow")
    assert not wrong_imports(source, "alignment.cli.command_line")


def test_a_wing_may_import_what_stands_below_it_only() -> None:
    assert wrong_imports("from alignment.cli import launcher", "alignment.trainers.ppo_trainer")
    assert not wrong_imports("from alignment.data import latent_dataset", "alignment.trainers.ppo_trainer")
    assert not wrong_imports(
        "from . import flow\nfrom ..output import InputError\nimport torch", "generator.base"
    )


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {
            name
            for _, name, typed in imports(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
            if name in MODULES and name != module and not typed
        }
        for module, path in MODULES.items()
    }
    # Kahn's algorithm: what cannot be taken away leaf by leaf stands in a circle or above one.
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert not graph, {module: sorted(needs & graph.keys()) for module, needs in graph.items()}


@pytest.mark.parametrize("package", ["alignment", "labeling_app"])
def test_few_files_lie_directly_in_a_package(package: str) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= 8


def test_files_are_short() -> None:
    long = {
        name: count
        for name, path in MODULES.items()
        if (count := path.read_text(encoding="utf-8").count("\n")) > 450
    }
    assert not long, long


def test_functions_are_short_or_say_why_not() -> None:
    """Lines without the docstring; a comment that begins with "Long:" on the line above the function says why."""
    long = []
    for path in MODULES.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if length > 60 and "Long:" not in lines[start - 2]:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert not long, "\n".join(long)
