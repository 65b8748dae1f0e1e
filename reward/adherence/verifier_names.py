"""Names of verifiers, checked without loading one."""

from __future__ import annotations

from generator.output import InputError
from reward.models.named import registry


def check_verifier(name: str) -> None:
    """Raises `InputError` where `load_verifier` knows no verifier of this name."""
    if name != "world" and ":" not in name and registry.find(name) is None:
        raise InputError(
            f"There is no verifier {name!r}: name `world`, vlm:FOLDER, clip:FOLDER, module:function, or one of "
            f"{registry.names_text()}."
        )
