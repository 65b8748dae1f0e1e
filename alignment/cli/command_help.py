"""The text of `--help`: the arguments of a command in groups, those of transformers that matter in our words."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

Field = dataclasses.Field[Any]

TRAINING = {
    "output_dir": "Folder of what is trained: the adapter or model, training.json and checkpoints.",
    "overwrite": "",
    "max_steps": "Optimiser steps; above 0 it takes the place of num_train_epochs.",
    "num_train_epochs": "Passes through the data.",
    "per_device_train_batch_size": "Rows of a batch on each device.",
    "gradient_accumulation_steps": "Batches whose gradients are added up before an optimiser step.",
    "learning_rate": "Peak learning rate.",
    "lr_scheduler_type": "Course of the learning rate: constant, constant_with_warmup, linear, cosine, …",
    "warmup_steps": "Steps of rising learning rate at the start; below 1, a share of all steps.",
    "weight_decay": "Pull of the weights to zero in AdamW.",
    "max_grad_norm": "Gradients of a larger norm are scaled down to it.",
    "optim": "Optimiser by transformers' name, for example adamw_torch or adamw_8bit.",
    "seed": "Seed of weights, order and noise, from 0 to 4294967295.",
    "bf16": "Compute in bfloat16, for GPUs from Ampere on.",
    "use_cpu": "Train on the CPU even where there is a GPU.",
    "gradient_checkpointing": "Compute activations again in the backward pass: less memory, slower.",
    "dataloader_num_workers": "Processes that prepare batches.",
    "save_strategy": "Moments at which checkpoints are saved: steps, epoch or no.",
    "save_steps": "Save a checkpoint every this many optimiser steps.",
    "save_total_limit": "",
    "resume_from_checkpoint": "Go on from this checkpoint folder, or from the `latest` of the output folder.",
    "eval_strategy": "Moments at which held-out data is evaluated: steps, epoch or no.",
    "eval_steps": "Evaluate every this many optimiser steps.",
    "per_device_eval_batch_size": "Rows of a batch on each device in evaluation.",
    "logging_steps": "",
    "report_to": "",
    "run_name": "Name of the run in wandb, trackio and the like.",
    "disable_tqdm": "",
}
"""The arguments of transformers that most people set, in the order of the help text, explained in our words; empty
where a field of ours takes their place, which says it itself."""


def command_help(prog: str, summary: str, example: str, dataclass_types: Sequence[type], launch: type) -> str:
    """Returns the help text of a command: its own arguments, those of training and launching, the advanced ones.

    Args:
        prog: how the command is called, for example `vidalign ppo`.
        dataclass_types: its arguments.
        launch: that one of them which says how processes are started.
    """
    width = min(shutil.get_terminal_size().columns, 110)
    parts = [f"usage: {prog} [--config FILE.yaml] [--ARGUMENT VALUE …]", summary]
    if example:
        parts.append(f"example:\n  {example}")
    training: list[str] = []
    advanced: list[str] = []
    by_name: list[str] = []
    launching = ""
    for dtype in dataclass_types:
        groups = _groups(dtype)
        block = _block(_title(dtype), [_described(field, width) for field in groups["own"]])
        if dtype is launch:
            launching = block
        else:
            parts.append(block)
        training += [_described(field, width, _own_words(dtype, field)) for field in groups["training"]]
        advanced += [_described(field, width) for field in groups["advanced"]]
        by_name += [field.name for field in groups["inherited"]]
    general = ["  --config FILE.yaml\n      Arguments as YAML; flags win over it."]
    general.append("  --verbose\n      Show what the libraries have to say.")
    if by_name:
        names = textwrap.fill(", ".join(sorted(by_name)), width - 6, break_on_hyphens=False)
        heading = "  The others of transformers.TrainingArguments, whose documentation explains them:\n"
        advanced.append(heading + textwrap.indent(names, " " * 6))
    parts += [
        _block("Training", training),
        launching,
        _block("General", general),
        _block("Advanced", advanced),
    ]
    return "\n\n".join(part for part in parts if part)


def init_fields(dtype: type) -> list[Field]:
    """The fields of a dataclass that are arguments."""
    return [field for field in dataclasses.fields(dtype) if field.init]


def _groups(dtype: type) -> dict[str, list[Field]]:
    """The fields of a dataclass by what they are about: `own` of the command; `training`, which all trainers share (of
    transformers, or of a class whose `help_group` says so);
    `advanced`, transformers' with a default or explanation of ours; `inherited` from transformers as they are."""
    groups: dict[str, list[Field]] = {"own": [], "training": [], "advanced": [], "inherited": []}
    for field in init_fields(dtype):
        owners = [cls for cls in dtype.__mro__ if field.name in inspect.get_annotations(cls)]
        foreign = [_is_foreign(cls) for cls in owners]
        if field.name in TRAINING and (any(foreign)):
            kind = "training"
        elif all(foreign):
            kind = "own" if owners[0] is dtype else "inherited"
        elif any(foreign):
            kind = "advanced"
        else:
            kind = vars(owners[-1]).get("help_group", "own")
        groups[kind].append(field)
    groups["own"].sort(key=lambda field: not _is_required(field))
    order = list(TRAINING)
    groups["training"].sort(key=lambda field: order.index(field.name) if field.name in order else len(order))
    return groups


def _is_foreign(dtype: type) -> bool:
    return dtype.__module__.startswith("transformers.")


def _own_words(dtype: type, field: Field) -> str:
    """Our explanation of a field that is transformers' as it is."""
    owner = next(cls for cls in dtype.__mro__ if field.name in inspect.get_annotations(cls))
    return TRAINING[field.name] if _is_foreign(owner) else ""


def _described(field: Field, width: int, text: str = "") -> str:
    """An argument with its explanation (`text`, or its own), choices and default."""
    text = text or " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
    if get_origin(field.type) is Literal:
        text += f" One of {', '.join(map(str, get_args(field.type)))}."
    if _is_required(field):
        text += " (required)"
    else:
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = getattr(default, "value", default)
        text += " (default: not set)" if shown in (None, "", []) else f" (default: {shown})"
    indent = " " * 6
    body = textwrap.fill(text.strip(), width, initial_indent=indent, subsequent_indent=indent)
    metavar = "" if field.type is bool else f" {field.name.upper()}"
    return f"  --{field.name}{metavar}\n{body}"


def _block(title: str, described: Iterable[str]) -> str:
    lines = list(described)
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _is_required(field: Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _title(dtype: type) -> str:
    """The first line of the docstring, or the name of the class where dataclasses wrote the docstring."""
    documentation = (dtype.__doc__ or "").strip()
    if not documentation or documentation.startswith(f"{dtype.__name__}("):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", dtype.__name__).lower()
    return documentation.splitlines()[0].rstrip(".:")
