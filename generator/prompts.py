"""Prompts: from a text file, from JSONL, or from the built-in world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.output import InputError, read_jsonl, read_lines


@dataclass(frozen=True)
class PromptRecord:
    """One prompt.

    Attributes:
        prompt: what the video shall show.
        negative_prompt: what it shall not show; used where classifier-free guidance is.
        id: the user's own name for it.
    """

    prompt: str
    negative_prompt: str = ""
    id: str | None = None


def read_prompts(path: str | Path) -> list[PromptRecord]:
    """Prompts in the order in which they stand.

    Args:
        path: a text file with one prompt a line (empty lines are skipped; lines end in a line feed, a carriage return
            or both, any other separator is part of the prompt); a `.jsonl` file whose lines have
            `prompt` and optionally `negative_prompt` and `id`, other keys being ignored, such as the
            `metadata.jsonl` of a folder of videos; or `world:SPLIT:N[:SEED]` for N prompts of the built-in world,
            SPLIT being one of its splits and SEED 0 by default.

    Raises:
        InputError: the file is missing, not UTF-8 text or without a prompt, or a line is wrong; the message
            names file and line.
    """
    if str(path).startswith("world:"):
        return _world_prompts(str(path))
    require_prompt_file(path)
    path = Path(path)
    if path.suffix.lower() in {".jsonl", ".json"}:
        records = [_json_prompt(row, place) for place, row in read_jsonl(path)]
    else:
        records = [PromptRecord(line) for _, line in read_lines(path)]
    if not records:
        raise InputError(f"The prompt file {path} holds no prompt: write at least one line.")
    return records


def require_prompt_file(source: str | Path) -> None:
    """Raises `InputError` where a source of prompts is neither the built-in world nor a file."""
    path = Path(source)
    if not str(source).startswith("world:") and not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"The prompt file {path} {found}: name a text file, a .jsonl file or world:SPLIT:N[:SEED]."
        )


def _json_prompt(row: dict[str, Any], place: str) -> PromptRecord:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        keys = ", ".join(row) or "an empty object"
        raise InputError(f"{place}: expected an object with a non-empty text `prompt`, found {keys}.")
    negative = row.get("negative_prompt") or ""
    if not isinstance(negative, str):
        raise InputError(f"{place}: `negative_prompt` must be text, found {type(negative).__name__}.")
    identifier: Any = row.get("id")
    return PromptRecord(row["prompt"], negative, None if identifier is None else str(identifier))


def _world_prompts(source: str) -> list[PromptRecord]:
    from generator.world import sample_prompts

    parts = source.split(":")
    numbers = parts[2:]
    if len(parts) not in {3, 4} or not parts[1] or not all(number.isdecimal() for number in numbers):
        raise InputError(
            f"{source} is not a source of world prompts: write world:SPLIT:N or world:SPLIT:N:SEED."
        )
    count, seed = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0
    if count < 1:
        raise InputError(f"{source} asks for no prompt: N must be at least 1.")
    try:
        prompts = sample_prompts(count, seed=seed, split=parts[1])
    except (KeyError, ValueError) as error:
        raise InputError(f"{source} cannot be sampled: {error}.") from error
    return [PromptRecord(prompt, id=f"{parts[1]}-{seed}-{index}") for index, prompt in enumerate(prompts)]
