"""Names of captioners, checked without loading one."""

from __future__ import annotations

from generator.output import InputError


def check_captioner(name: str) -> None:
    """Raises `InputError` where `load_captioner` knows no captioner of this name."""
    kind, _, place = name.partition(":")
    if name != "world" and not (kind in ("vlm", "http", "https") and place.strip("/ ")):
        raise InputError(
            f"There is no captioner {name!r}: name `world`, vlm:FOLDER with a folder or hub id, or the address of an "
            "OpenAI-compatible server such as http://localhost:8000/v1."
        )
