"""The house: who may import whom, how large its rooms are (CONTRIBUTING.md, "Map of the code"), and its words."""

from __future__ import annotations

import ast
import inspect
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment import cli
from alignment.cli.command_help import TRAINING, init_fields
from alignment.cli.command_source import read_command
from alignment.cli.launcher import LaunchArguments
from tests.dear_modules import DEAREST, dearest_first

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
        "pretraining", "editing", "testing", "loading", "cascade", "families", "native", "adapters", "bounded_reading",
        "generation", "data", "base", "sampling", "first_frames", "world", "video", "hardware", "training",
        "weight_files", "files", "video_files",
    ],
    "reward": [
        "training", "evaluation", "scoring", "reports", "human", "captioning", "adherence", "service", "models",
        "metrics", "formats",
    ],
    "labeling_app": ["web", "simulate", "campaigns", "selection", "files", "quality", "tasks", "people", "store"],
    "alignment": [
        "cli", "demo", "proof", "stages", "rewriting", "guided_sampling", "trainers", "rollouts", "memory",
        "preparation", "data", "losses", "lora",
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


QUESTION = re.compile(r"(What|How|Which|Who|Whose|Whether|So|Where|When|Why)\b")
"""Beginnings of a text that is neither a noun nor a verb."""


def documented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of a module, its classes, functions and fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            continue
        for before, statement in zip([None, *body], body):
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                yield statement.lineno, str(statement.value.value).strip()


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    asking = [
        f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
        for path in (*MODULES.values(), *(ROOT / "benchmarks").rglob("*.py"))
        for line, text in documented(ast.parse(path.read_text(encoding="utf-8")))
        if QUESTION.match(text)
    ]
    assert not asking, "\n".join(asking)


def test_headings_of_arguments_are_whole_sentences() -> None:
    """The first line of the docstring is the heading in `--help`."""
    torn = []
    for path in (ROOT / "alignment" / "cli").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            text = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else None
            if text and "metadata=" in (ast.get_source_segment(source, node) or ""):
                first = text.splitlines()[0]
                torn += [] if first.endswith(".") else [f"{path.relative_to(ROOT)}: {first}"]
    assert not torn, "\n".join(torn)


def test_arguments_are_laid_out_by_the_formatter() -> None:
    """Classes of arguments hold no `fmt: skip`."""
    skipped = []
    for path in MODULES.values():
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if '"help"' in text and "fmt: skip" in text:
                    skipped.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not skipped, "\n".join(skipped)


def test_no_text_is_torn_into_orphans() -> None:
    """A literal that goes on in the next line has more than two words: fewer would have fitted before it or after."""
    torn = []
    for path in MODULES.values():
        literals: list[tokenize.TokenInfo] = []
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.STRING:
                    literals.append(token)
                elif token.type != tokenize.NL:
                    torn += [
                        f"{path.relative_to(ROOT)}:{each.start[0]} {each.string}"
                        for each in literals[1:-1]
                        if len(each.string.split()) < 3 and "\\n" not in each.string
                    ]
                    literals = []
    assert not torn, "\n".join(torn)


def helps(name: str) -> Iterator[tuple[str, str]]:
    """Arguments, verbs and summaries of a command that are written here, with their help texts."""
    command: Any = read_command(name)
    verbs = getattr(command, "VERBS", {})
    yield f"vidalign --help: {name}", cli.COMMANDS[name]
    yield name, command.HELP
    yield from ((f"{name} {verb}", each.help) for verb, each in verbs.items())
    types = [*(command.ARGUMENTS if hasattr(command, "run") else ()), LaunchArguments]
    for dtype in (*types, *(each for verb in verbs.values() for each in verb.arguments)):
        yield from (
            (f"{dtype.__name__}.{field.name}", str(field.metadata.get("help", "")))
            for field in init_fields(dtype)
            if any(field.name in inspect.get_annotations(cls) for cls in dtype.__mro__ if is_ours(cls))
        )


def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in PACKAGES


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_texts_are_sentences(name: str) -> None:
    """A capital letter first, a noun or a verb, and a full stop at the end."""
    texts = dict(helps(name)) | {f"TRAINING: {flag}": text for flag, text in TRAINING.items() if text}
    wrong = [
        f"{where}: {text}"
        for where, text in texts.items()
        if not re.match("[A-Z]", text) or not text.rstrip().endswith((".", "…")) or QUESTION.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_tests_mirror_the_packages() -> None:
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert not [str(folder) for folder in folders if not (ROOT / folder).is_dir()]
    assert {path.stem for path in tests.glob("*/") if any(path.rglob("test_*.py"))} == {
        *PACKAGES,
        "benchmarks",
    }


def test_no_test_imports_a_conftest_or_another_test() -> None:
    wrong = re.compile(r"^\s*(?:from|import) (?:[\w.]+\.)?(?:conftest|test_\w+)\b", re.MULTILINE)
    files = [
        path for path in (ROOT / "tests").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))
    ]
    assert not [str(path.relative_to(ROOT)) for path in files]


def test_the_dearest_test_modules_run_first_and_the_others_as_they_stand() -> None:
    tests = ROOT / "tests"
    assert len(set(DEAREST)) == len(DEAREST)
    assert not [name for name in DEAREST if not (tests / name).is_file()]
    paths = [
        tests / "a.py",
        tests / DEAREST[1],
        tests / "a.py",
        tests / DEAREST[0],
        tests / "b.py",
        tests / DEAREST[1],
    ]
    assert dearest_first(paths) == [3, 1, 5, 0, 2, 4]


def test_help_texts_of_scripts_are_sentences() -> None:
    wrong = []
    for path in (*MODULES.values(), *(ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
                text = str(node.value.value)
                if not re.match("[A-Z]", text) or not text.endswith(".") or QUESTION.match(text):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.value.lineno} {text}")
    assert not wrong, "\n".join(wrong)
