"""The configuration files that come with vidalign: `configs/` in this folder."""

from __future__ import annotations

from pathlib import Path

from generator.output import InputError

CONFIGS = Path(__file__).parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Names such as `accelerate/zero2.yaml` to their files."""
    files = [path for path in CONFIGS.rglob("*") if path.suffix in {".yaml", ".json"}]
    return {path.relative_to(CONFIGS).as_posix(): path for path in sorted(files)}


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
