"""The command that is sensible after one that has ended, ready to be run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.output import InputError
from generator.passwords import holds_password

if TYPE_CHECKING:
    from alignment.lora import LoraArguments
    from alignment.stages.arguments import GeneratorArguments
    from alignment.trainers.base_config import AlignmentConfig

SIZES = ("num_frames", "height", "width")
REWRITING = ("rewriter", "rewriter_model", "rewriter_instruction", "rewriter_failures")
WORLD_PROMPTS = "world:test:8"


def show_next(*words: Any) -> None:
    """Prints `vidalign` with these words as the next command, unless a password is in them."""
    if any(holds_password(str(word)) for word in words):
        return
    print(f"Next:\n  {shlex.join(['vidalign', *map(str, words)])}", flush=True)


def new_folder(beside: str | Path, suffix: str) -> str:
    """A folder that does not exist yet, named like `beside` with a suffix."""
    beside = Path(beside)
    wanted = beside.with_name(f"{beside.name}-{suffix}") if beside.name else Path(suffix)
    number = 2
    while wanted.exists():
        wanted = wanted.with_name(f"{beside.name}-{suffix}-{number}")
        number += 1
    return str(wanted)


def given_flags(arguments: Any, names: Sequence[str]) -> list[str]:
    """Flags and values of the fields `names` that differ from their defaults."""
    defaults = {field.name: field.default for field in fields(arguments)}
    words: list[str] = []
    for name in names:
        value = getattr(arguments, name, None)
        if value is not None and value != defaults.get(name):
            values = value if isinstance(value, list) else [value]
            words += [
                f"--{name}",
                *(str(each).lower() if isinstance(each, bool) else str(each) for each in values),
            ]
    return words


def _loading(model: GeneratorArguments) -> list[str]:
    files = ("base_adapter", "transformer", "transformer_2", "flow_shift")
    kept = ("dtype", "quantization", "text_encoder_device", "offload_weights", "tiling")
    return given_flags(model, (*files, *kept))


def prompt_file(dataset: str) -> str:
    """The prompts of a folder of demonstrations, or some of the built-in world where it has no list of them."""
    from generator.data.demonstrations import METADATA

    metadata = Path(dataset) / METADATA
    return str(metadata) if metadata.is_file() else WORLD_PROMPTS


def prompts_of(source: str) -> list[str]:
    """The prompts of a file or of the built-in world."""
    from generator.data.prompts import read_prompts

    return [record.prompt for record in read_prompts(source)]


def are_of_the_world(prompts: Sequence[str]) -> bool:
    """Returns whether the verifier of the built-in world can judge videos of all prompts."""
    from generator.world import check_prompts

    try:
        check_prompts(prompts)
    except InputError:
        return False
    return True


def show_generation(
    model: GeneratorArguments,
    lora: LoraArguments,
    config: AlignmentConfig,
    prompts: str,
    size: Any,
    more: Sequence[str] = (),
) -> None:
    """After training: four videos of each prompt with what was trained, to be ranked.

    Args:
        prompts: file or source of prompts.
        size: what has the fields `SIZES` that were given.
        more: further words of the command.
    """
    folder = str(config.output_dir)
    show_next(
        "generate",
        *_trained(model, lora, folder),
        "--prompts",
        prompts,
        "--num_videos_per_prompt",
        4,
        *given_flags(size, SIZES),
        *more,
        "--output_dir",
        new_folder(folder, "videos"),
    )


def show_comparison(
    model: GeneratorArguments,
    lora: LoraArguments,
    config: AlignmentConfig,
    prompts: Sequence[str],
    source: str,
    size: Any,
    rewriting: Any = None,
) -> None:
    """After alignment: the comparison with the base model on prompts of the built-in world, if these are; else videos.

    Args:
        prompts: that were trained on.
        source: the file that they are from, which is a prompt file too.
        size: what has the fields `SIZES` that were given.
        rewriting: what has the fields `REWRITING` that the policy was trained with, if anything.
    """
    rewriter = [] if rewriting is None else given_flags(rewriting, REWRITING)
    if not lora.use_peft or not are_of_the_world(prompts):
        is_prompt_file = source.startswith("world:") or Path(source).suffix.lower() in {".jsonl", ".txt"}
        show_generation(model, lora, config, source if is_prompt_file else WORLD_PROMPTS, size, rewriter)
        return
    folder = str(config.output_dir)
    name = Path(folder).resolve().name
    before = [path for path in model.adapter or [] if Path(path).resolve().name not in ("base", name)]
    show_next(
        "evaluate",
        "--model",
        model.model,
        "--adapter",
        *(before if len(before) == 1 else []),
        f"trained={folder}" if name == "base" or not name[:1].isalnum() else folder,
        "--prompts",
        "world:test:128",
        *_loading(model),
        *given_flags(size, SIZES),
        *rewriter,
        "--output_dir",
        new_folder(folder, "evaluation"),
    )


def _trained(model: GeneratorArguments, lora: LoraArguments, folder: str) -> list[str]:
    if lora.use_peft:
        return ["--model", model.model, "--adapter", folder, *_loading(model)]
    # All weights are in the folder then, with what was merged into them.
    kept = replace(model, base_adapter=None, transformer=None, transformer_2=None)
    return ["--model", folder, *_loading(kept)]
