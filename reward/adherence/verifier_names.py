"""Names of verifiers, checked without loading one."""

from __future__ import annotations

from pathlib import Path

from generator.output import InputError
from reward.models.named import registry
from reward.models.storage import built_in_rewards


def check_verifier(name: str) -> None:
    """Raises `InputError` where `load_verifier` knows no verifier of this name."""
    is_folder = Path(name.split(",")[0]).is_dir()
    known = is_folder or name in built_in_rewards() or registry.find(name) is not None
    if name != "world" and ":" not in name and not known:
        raise InputError(
            f"There is no verifier {name!r}: name `world`, vlm:FOLDER, clip:FOLDER, module:function, the folder of a "
            "trained reward model, the address of `reward serve`, or one of "
            f"{', '.join(built_in_rewards())}, {registry.names_text()}."
        )
