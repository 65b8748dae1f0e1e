"""Prompts: from a text file, from JSONL, or from the built-in world."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.output import InputError


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
        path: a text file with one prompt a line (empty lines are skipped); a `.jsonl` file whose lines have
            `prompt` and optionally `negative_prompt` and `id`, other keys being ignored, such as the
            `metadata.jsonl` of a folder of videos; or `world:SPLIT:N[:SEED]` for N prompts of the built-in world,
            SPLIT being one of its splits and SEED 0 by default.

    Raises:
        InputError: the file is missing, not UTF-8 text or without a prompt, or a line is wrong; the message
            names file and line.
    """
    if str(path).startswith("world:"):
        return _world_prompts(str(path))
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"The prompt file {path} {found}: name a text file, a .jsonl file or world:SPLIT:N[:SEED]."
        )
    try:
        # Not `splitlines`, which also breaks at characters that JSON allows inside strings, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"The prompt file {path} is not UTF-8 text: save it as UTF-8.") from error
    parse = _json_prompt if path.suffix.lower() in {".jsonl", ".json"} else _plain_prompt
    records = [
        parse(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not records:
        raise InputError(f"The prompt file {path} holds no prompt: write at least one line.")
    return records


def _plain_prompt(line: str, place: str) -> PromptRecord:
    return PromptRecord(line)


def _json_prompt(line: str, place: str) -> PromptRecord:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not a JSON object ({error.msg}); write one object with `prompt` a line."
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
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
