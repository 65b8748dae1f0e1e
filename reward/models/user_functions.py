"""The user's own functions, named `module:function` on a command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from generator.output import InputError

PACKAGES = ("generator", "reward", "labeling_app", "alignment")
_ROOT = Path(__file__).resolve().parents[2]


def import_function(name: str) -> Callable[..., object]:
    """Imports the function that `module:function` names, from the current folder or the Python path.

    The current folder comes last on the path, so that its files hide no installed module from the modules that
    import it; a file of the current folder that has an installed module's name is itself still found.

    Raises:
        InputError: the module cannot be imported, has no such function, or has the name of a package of vidalign.
    """
    module_name, _, attribute = name.partition(":")
    folder = Path.cwd().resolve()
    file = _file_of(module_name, folder)
    package = module_name.partition(".")[0]
    if file is not None and package in PACKAGES and not file.is_relative_to(_ROOT / package):
        raise InputError(
            f"{file} has the name of the package {package!r} of vidalign, which it cannot replace: rename it, for "
            f"example to my_{package}, and name that."
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = _import_module(module_name, file)
    except Exception as error:  # the user's own code runs here
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"The module of {name!r} cannot be imported ({reason}): name it as module:function, "
            "with the module on the Python path or in the current folder."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(
            f"The module {module_name!r} has no function {attribute!r}: check the name {name!r}."
        )
    return function


def _file_of(module_name: str, folder: Path) -> Path | None:
    """The file of a module that lies in `folder`, if one does."""
    stem = folder.joinpath(*module_name.split("."))
    candidates = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _import_module(module_name: str, file: Path | None) -> ModuleType:
    """Imports a module; where an installed one has the name of the user's `file`, the file under a name of its own."""
    if file is None or _comes_from(module_name, file):
        return importlib.import_module(module_name)
    own_name = f"vidalign_user.{module_name}"
    known = sys.modules.get(own_name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = importlib.util.spec_from_file_location(own_name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own_name]
        raise
    return module


def _comes_from(module_name: str, file: Path) -> bool:
    """Returns whether an import of this name would read `file`."""
    try:
        found = importlib.util.find_spec(module_name)
    except ImportError:
        return False
    return found is not None and found.origin is not None and Path(found.origin).resolve() == file
