"""The arguments of a command, read from the source of its module without importing it.

A command's module imports torch, transformers and diffusers, which takes seconds; its help text and the check of its
flags need only the dataclasses of its arguments. These are made here from the source; the names that their methods use
are looked up when a method is called. Modules of ours that import nothing but the standard library are imported.
Whatever cannot be read so is left to the real import, which gives the same answer later.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignment.sibling_packages import PACKAGES
from generator.output import InputError

logger = logging.getLogger(__name__)

HOMES = {("transformers", "TrainingArguments"): "transformers.training_args"}
"""Modules of names that a package imports only when they are asked for."""
_READ = {*PACKAGES, "transformers"}


class UnreadableError(Exception):
    """A name whose value needs more than the source and the standard library."""


def read_command(name: str) -> Any | None:
    """Returns `HELP`, `EXAMPLE`, `ARGUMENTS` and `VERBS` of `alignment.cli.commands.NAME`, with `run` if it has one.

    `run` is not to be called. None where the source does not tell.
    """
    try:
        module = SourceReader().module(f"alignment.cli.commands.{name}")
        names = [
            each for each in ("HELP", "EXAMPLE", "ARGUMENTS", "VERBS", "run") if each in module.statements
        ]
        return SimpleNamespace(**{each: module.value(each) for each in names})
    except Exception as error:
        # Statements run without the libraries that they need can fail in any way; the real import, which follows,
        # tells what is wrong, if anything is.
        logger.info("The source of %s is not enough (%s: %s).", name, type(error).__name__, error)
        return None


class SourceReader:
    """Modules by name, each read once."""

    def __init__(self) -> None:
        self.modules: dict[str, SourceModule] = {}

    def module(self, name: str) -> SourceModule:
        """The module of that name."""
        if name not in self.modules:
            self.modules[name] = SourceModule(name, self)
        return self.modules[name]


class SourceModule:
    """Values of a module's names, worked out one by one when they are asked for.

    Attributes:
        statements: the statement that binds each name of the module.
    """

    def __init__(self, name: str, reader: SourceReader) -> None:
        self.name, self.reader = name, reader
        path = _source_file(name)
        self.is_package = path.name == "__init__.py"
        self.statements: dict[str, ast.stmt] = {}
        for statement in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
            for bound in _bound_names(statement):
                self.statements.setdefault(bound, statement)
        self.values: dict[str, Any] = _Globals(self)
        self.values |= {"__name__": name, "__file__": str(path)}

    def value(self, name: str) -> Any:
        """The value of a name.

        Raises:
            UnreadableError: the source does not tell it.
        """
        if name in self.values:
            return self.values[name]
        if name not in self.statements:
            if hasattr(builtins, name):
                return getattr(builtins, name)
            raise UnreadableError(f"{self.name} does not say what {name} is")
        statement = self.statements[name]
        if isinstance(statement, ast.ImportFrom | ast.Import):
            self.values[name] = self._imported(statement, name)
        elif isinstance(statement, ast.FunctionDef):
            self.values[name] = _LaterFunction(self, statement)
        else:
            self._execute(statement)
        return dict.__getitem__(self.values, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.value(name)

    def _imported(self, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
        alias = next(each for each in statement.names if (each.asname or each.name.split(".")[0]) == name)
        if isinstance(statement, ast.Import):
            module = alias.name if alias.asname else name
            if module.split(".")[0] not in sys.stdlib_module_names:
                raise UnreadableError(f"{self.name} imports {module}")
            return importlib.import_module(module)
        module = self._absolute(statement)
        package = module.split(".")[0]
        if package in sys.stdlib_module_names:
            return getattr(importlib.import_module(module), alias.name)
        if is_light(module):
            found = importlib.import_module(module)
            if hasattr(found, alias.name):
                return getattr(found, alias.name)
        if package not in _READ:
            raise UnreadableError(f"{self.name} imports {module}")
        home = self.reader.module(HOMES.get((module, alias.name), module))
        if home.is_package and (home is self or alias.name not in home.statements):
            return self.reader.module(f"{module}.{alias.name}")
        return home.value(alias.name)

    def is_own(self, statement: ast.ImportFrom) -> bool:
        """Returns whether a statement imports from our packages or the standard library."""
        package = self._absolute(statement).split(".")[0]
        return package in PACKAGES or package in sys.stdlib_module_names

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parents = self.name.split(".")
        parents = parents[: len(parents) - statement.level + self.is_package]
        return ".".join([*parents, *([statement.module] if statement.module else [])])

    def _execute(self, statement: ast.stmt) -> None:
        """Runs one statement, after the values of all names that it uses outside of methods."""
        methods: list[ast.stmt] = []
        if isinstance(statement, ast.ClassDef):
            if self.name.split(".")[0] in PACKAGES:
                methods = _methods(statement)
            statement = _without_methods(statement)
        own = {*_class_names(statement), *_local_names(statement)}
        for node in ast.walk(statement):
            if isinstance(node, ast.AnnAssign):
                node.annotation = self._readable(node.annotation)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and _is_read(node) and node.id not in own:
                self.values[node.id] = self.value(node.id)
        if isinstance(statement, ast.ClassDef):
            statement.body += methods
        tree = ast.fix_missing_locations(ast.Module([statement], []))
        exec(compile(tree, self.name, "exec", dont_inherit=True), self.values)
        if isinstance(statement, ast.ClassDef):
            made = dict.__getitem__(self.values, statement.name)
            if "__post_init__" in vars(made):
                made.__post_init__ = _as_far_as_it_can_be_read(made.__post_init__)

    def _readable(self, annotation: ast.expr) -> ast.expr:
        """An annotation, or that of a text where its names cannot be read."""
        try:
            for node in ast.walk(annotation):
                if isinstance(node, ast.Name):
                    self.value(node.id)
        except (UnreadableError, ImportError, OSError):
            return ast.parse("str | None", mode="eval").body
        return annotation


class _Globals(dict[str, Any]):
    """Global names of a module's functions, whose values are worked out when they are asked for."""

    def __init__(self, module: SourceModule) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        statement = self.module.statements.get(name)
        if isinstance(statement, ast.ImportFrom) and not self.module.is_own(statement):
            # Half a library, such as its classes without their methods, may give another answer than the whole.
            raise UnreadableError(f"{self.module.name} imports {name}")
        return self.module.value(name)


class _LaterFunction:
    """A function that is made when it is first called, such as the factory of a default."""

    def __init__(self, module: SourceModule, definition: ast.FunctionDef) -> None:
        self.module, self.definition = module, definition

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        definition = self.definition
        definition.decorator_list = []
        _unannotated(definition)
        tree = ast.fix_missing_locations(ast.Module([definition], []))
        exec(compile(tree, self.module.name, "exec", dont_inherit=True), self.module.values)
        return self.module.values[definition.name](*args, **kwargs)


def _as_far_as_it_can_be_read(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """`check`, which ends without a word where it needs more than the sources; refusals are refusals."""

    @functools.wraps(check)
    def checked(self: Any) -> None:
        try:
            check(self)
        except InputError:
            raise
        except Exception as error:
            # Half a class can fail in any way; the real check, which follows, tells what is wrong, if anything is.
            logger.info("A check of %s is left to the command (%s).", type(self).__name__, error)

    return checked


def is_light(module: str, seen: set[str] | None = None) -> bool:
    """Returns whether a module of ours, with all that it imports, needs nothing but the standard library."""
    seen = set() if seen is None else seen
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names:
        return True
    if parts[0] not in PACKAGES:
        return False
    for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
        if name in seen:
            continue
        seen.add(name)
        try:
            imported = _imported_modules(name)
        except UnreadableError:
            return name == module and len(parts) > 1  # a name that stands in its parent, which was looked at
        if not all(is_light(each, seen) for each in imported):
            return False
    return True


@functools.cache
def _imported_modules(name: str) -> tuple[str, ...]:
    """Modules that a module imports when it is imported itself; of `from a import b` it is a.b, whose parents count."""
    found: list[str] = []
    tree = ast.parse(_source_file(name).read_text(encoding="utf-8"))
    for statement in _statements(tree.body, typing=False):
        if isinstance(statement, ast.Import):
            found += (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            found += (f"{statement.module}.{alias.name}" for alias in statement.names)
    return tuple(found)


def _source_file(module: str) -> Path:
    """The file of a module, found without importing the packages that it is in."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        stem = Path(folder, *rest)
        for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if path.is_file() and (rest or path.name == "__init__.py"):
                return path
    raise UnreadableError(f"{module} has no source")


def _statements(body: list[ast.stmt], typing: bool = True) -> Iterator[ast.stmt]:
    """Statements of a module, also those under `if` and `try`; those for type checkers only where `typing`."""
    for statement in body:
        if not typing and isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try):
                yield from _statements(getattr(statement, block, []), typing)


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _without_methods(definition: ast.ClassDef) -> ast.ClassDef:
    """A class with its fields, members and docstring alone; conditions in its body are taken to be met."""
    kept = [
        each
        for each in _statements(definition.body)
        if isinstance(each, ast.AnnAssign | ast.Assign | ast.Expr)
    ]
    definition.body = [*kept] or [ast.Pass()]
    return definition


def _methods(definition: ast.ClassDef) -> list[ast.stmt]:
    """The methods of a class that can be read, `__post_init__` and properties among them, without annotations."""
    kept: list[ast.stmt] = []
    for each in definition.body:
        if not isinstance(each, ast.FunctionDef) or (
            each.name.startswith("__") and each.name != "__post_init__"
        ):
            continue
        defaults = [*each.args.defaults, *(value for value in each.args.kw_defaults if value)]
        decorators = [getattr(decorator, "id", "") for decorator in each.decorator_list]
        if {*decorators} <= {"property", "classmethod", "staticmethod"} and all(
            isinstance(value, ast.Constant) for value in defaults
        ):
            _unannotated(each)
            kept.append(each)
    return kept


def _unannotated(definition: ast.FunctionDef) -> None:
    """Takes the annotations of arguments and results away."""
    for each in ast.walk(definition):
        if isinstance(each, ast.arg):
            each.annotation = None
        elif isinstance(each, ast.FunctionDef):
            each.returns = None


def _class_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef):
        for each in statement.body:
            yield from _bound_names(each)


def _local_names(statement: ast.stmt) -> Iterator[str]:
    """Arguments of functions, and what a function or a comprehension binds."""
    for node in ast.walk(statement):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and not _is_read(node) and not isinstance(statement, ast.Assign):
            yield node.id
        elif isinstance(node, ast.comprehension):
            yield from (each.id for each in ast.walk(node.target) if isinstance(each, ast.Name))


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)
