"""Names of verifiers, checked without loading one."""

from __future__ import annotations

from pathlib import Path

from generator.output import InputError
from reward.models.named import registry


def check_verifier(name: str) -> None:
    """Raises `InputError` where `load_verifier` knows no verifier of this name."""
    is_folder = Path(name.split(",")[0]).is_dir()
    if name != "world" and ":" not in name and not is_folder and registry.find(name) is None:
        raise InputError(
            f"There is no verifier {name!r}: name `world`, vlm:FOLDER, clip:FOLDER, module:function, the folder of a "
            f"trained reward model, the address of `reward serve`, or one of {registry.names_text()}."
        )
