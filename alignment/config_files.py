"""The configuration files that come with vidalign: `configs/` of a checkout, or of the installed package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from generator.folders import visible_files
from generator.output import InputError

CHECKOUT = Path(__file__).resolve().parents[1] / "configs"
INSTALLED = "share/vidalign/configs"


def shipped_configs() -> dict[str, Path]:
    """Names such as `accelerate/zero2.yaml` to their files."""
    for root in (
        CHECKOUT,
        CHECKOUT.parent / INSTALLED,
    ):  # the second is where `pip install --target` puts them
        if root.is_dir():
            files = visible_files(root, (".yaml", ".json"), deep=True)
            return {path.relative_to(root).as_posix(): path for path in files}
    try:
        installed = importlib.metadata.files("vidalign") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    # Installers choose the prefix; the record of installed files knows it.
    return {
        file.as_posix().split(f"{INSTALLED}/", 1)[1]: Path(str(file.locate())).resolve()
        for file in installed
        if f"{INSTALLED}/" in file.as_posix()
    }


def find_config(name: str, folder: str = "") -> Path:
    """The user's file of that name or path, or else the shipped one.

    Args:
        name: a path, or the name of a shipped file with or without `.yaml`.
        folder: folder of shipped files to look in, for example `accelerate`.

    Raises:
        InputError: there is neither; the message lists what is shipped.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    prefix = f"{folder}/" if folder else ""
    for candidate in (f"{prefix}{name}", f"{prefix}{name}.yaml"):
        if candidate in shipped:
            return shipped[candidate]
    known = sorted(
        key.removeprefix(prefix).removesuffix(".yaml") for key in shipped if key.startswith(prefix)
    )
    known = [key for key in known if not key.endswith(".json")]
    raise InputError(f"There is no configuration file {name}: name a YAML file or one of {', '.join(known)}.")
