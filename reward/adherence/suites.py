"""Prompt suites: prompts with the category that each one tests.

`suite:world` holds combinations that the built-in world's training split never says, by category; `suite:general`
prompts on anything, for models of real videos; `vbench:FILE` and
`t2v_compbench:PATH` read the files of VBench and of T2V-CompBench.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generator.data.prompts import PromptRecord, read_prompts
from generator.files.folders import visible_files
from generator.output import InputError, read_json, read_jsonl
from generator.world import Meaning, describe, sample_meaning
from generator.world.meaning import count_claims, is_held_out
from reward.question_graphs import GENERAL_PROMPTS

WORLD_CATEGORIES = ("object", "attribute", "count", "relation", "motion", "combination")
PER_CATEGORY = 32
GENERAL_PER_CATEGORY = 8
_COMBINED_CLAIMS = 5


@dataclass(frozen=True)
class PromptSuite:
    """Prompts and their categories.

    Attributes:
        name: how it was asked for.
        records: the prompts, each once.
        categories: `{prompt: categories}`; empty where the source has none.
    """

    name: str
    records: list[PromptRecord]
    categories: dict[str, set[str]]

    def categories_of(self, prompt: str) -> set[str]:
        return self.categories.get(prompt, set())


def load_suite(source: str) -> PromptSuite:
    """Prompts from a suite or from anything that `generator.data.prompts.read_prompts` reads.

    Args:
        source: `suite:world[:N[:SEED]]`, N prompts a category (32 by default); `suite:general[:N]`, N prompts a
            category (8, all, by default); `vbench:FILE`, a list of
            `{"prompt_en": …, "dimension": […]}` such as `VBench_full_info.json`; `t2v_compbench:PATH`, a file of
            T2V-CompBench (a JSON list of objects with `prompt`, or one prompt a line) or a folder of them, whose names
            are the categories; else a file or `world:SPLIT:N`, without categories.

    Raises:
        InputError: the source is missing or not of its layout.
    """
    kind, _, rest = source.partition(":")
    if is_general(source):
        return _general_suite(source, rest)
    if kind == "suite":
        return _world_suite(source, rest)
    if kind == "vbench":
        return _vbench_suite(source, Path(rest))
    if kind == "t2v_compbench":
        return _compbench_suite(source, Path(rest))
    return PromptSuite(source, read_prompts(source), {})


def is_general(source: str) -> bool:
    """Returns whether a source of prompts is the suite of general prompts."""
    return source.split(":")[:2] == ["suite", "general"]


def _general_suite(source: str, rest: str) -> PromptSuite:
    found = re.fullmatch(r"general(?::(\d+))?", rest)
    if not found or found[1] == "0":
        raise InputError(f"There is no suite {source!r}: write suite:general or suite:general:N.")
    chosen: dict[str, list[str]] = {}
    for _, row in read_jsonl(GENERAL_PROMPTS):
        chosen.setdefault(row["category"], []).append(row["prompt"])
    count, most = int(found[1] or GENERAL_PER_CATEGORY), min(map(len, chosen.values()))
    if count > most:
        raise InputError(
            f"{source} asks for {count} prompts a category, but there are {most}: ask for fewer."
        )
    records = [
        PromptRecord(prompt, id=f"{category}-{number}")
        for category, prompts in chosen.items()
        for number, prompt in enumerate(prompts[:count])
    ]
    return PromptSuite(
        source, records, {p: {name} for name, prompts in chosen.items() for p in prompts[:count]}
    )


def world_category(meaning: Meaning) -> str | None:
    """The only one of `WORLD_CATEGORIES` that a held-out meaning tests; None where it tests several or none.

    The held-out combination is the claim of the category itself: of `relation` and `motion` it is still held out when
    the colours are left unsaid.
    """
    if not is_held_out(meaning):
        return None
    if count_claims(meaning) >= _COMBINED_CLAIMS:
        return "combination"
    first = meaning.objects[0]
    if meaning.background is not None or meaning.camera is not None:
        return None
    moves = any(said.motion is not None for said in meaning.objects)
    uncoloured = replace(meaning, objects=tuple(replace(said, colour=None) for said in meaning.objects))
    if len(meaning.objects) == 2:
        plain = meaning.relation is not None and not moves
        return "relation" if plain and is_held_out(uncoloured) else None
    if first.count > 1:
        return None if moves else "count"
    if moves:
        return "motion" if first.size is None and is_held_out(uncoloured) else None
    return "object" if first.size is None else "attribute"


def _world_suite(source: str, rest: str) -> PromptSuite:
    found = re.fullmatch(r"world(?::(\d+))?(?::(\d+))?", rest)
    if not found or found[1] == "0":
        raise InputError(
            f"There is no suite {source!r}: write suite:general, suite:world, suite:world:N or suite:world:N:SEED."
        )
    count, seed = int(found[1] or PER_CATEGORY), int(found[2] or 0)
    rng = random.Random(f"suite-{seed}")
    chosen: dict[str, list[str]] = {category: [] for category in WORLD_CATEGORIES}
    fruitless = 0
    while any(len(prompts) < count for prompts in chosen.values()):
        meaning = sample_meaning(rng, "test")
        category = world_category(meaning)
        prompt = describe(meaning, rng)
        fruitless += 1
        if category is not None and len(chosen[category]) < count and prompt not in chosen[category]:
            chosen[category].append(prompt)
            fruitless = 0
        if fruitless > 200_000:
            short = min(chosen, key=lambda name: len(chosen[name]))
            raise InputError(
                f"{source} asks for {count} prompts a category, but {short!r} has only {len(chosen[short])}: "
                "ask for fewer."
            )
    records = [
        PromptRecord(prompt, id=f"{category}-{number}")
        for category, prompts in chosen.items()
        for number, prompt in enumerate(prompts)
    ]
    return PromptSuite(source, records, {p: {name} for name, prompts in chosen.items() for p in prompts})


def _read_json(path: Path, what: str) -> list[Any]:
    if not path.is_file():
        raise InputError(f"The file {path} of {what} does not exist: check the path.")
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} holds no list of objects, which {what} has: check the file.")
    return rows


def _collect(source: str, rows: list[tuple[str, set[str]]]) -> PromptSuite:
    """One record a prompt; the categories of a prompt that stands several times are joined."""
    categories: dict[str, set[str]] = {}
    for prompt, names in rows:
        categories.setdefault(prompt, set()).update(names)
    records = [PromptRecord(prompt, id=str(number)) for number, prompt in enumerate(categories)]
    return PromptSuite(source, records, categories)


def _vbench_suite(source: str, path: Path) -> PromptSuite:
    rows = []
    for number, row in enumerate(_read_json(path, "VBench"), 1):
        prompt = row.get("prompt_en") if isinstance(row, dict) else None
        dimensions = row.get("dimension") if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not prompt.strip() or not isinstance(dimensions, list):
            raise InputError(
                f'{path}, entry {number}: expected {{"prompt_en": …, "dimension": […]}}, as in VBench_full_info.json.'
            )
        rows.append((prompt.strip(), {str(name) for name in dimensions}))
    return _collect(source, rows)


def _compbench_suite(source: str, path: Path) -> PromptSuite:
    files = visible_files(path, [".json"]) or visible_files(path, [".txt"]) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path} holds no .json or .txt file of T2V-CompBench: check the path.")
    rows: list[tuple[str, set[str]]] = []
    for file in files:
        category = re.sub(r"^\d+_", "", file.stem)
        if file.suffix.lower() == ".json":
            for number, row in enumerate(_read_json(file, "T2V-CompBench"), 1):
                prompt = row.get("prompt") if isinstance(row, dict) else None
                if not isinstance(prompt, str) or not prompt.strip():
                    raise InputError(f"{file}, entry {number}: expected an object with a text `prompt`.")
                rows.append((prompt.strip(), {category}))
        else:
            rows += [(record.prompt, {category}) for record in read_prompts(file)]
    return _collect(source, rows)
