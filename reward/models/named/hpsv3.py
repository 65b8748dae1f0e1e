"""`hpsv3`: human preference of single frames, HPSv3 (arXiv 2508.03789), a Qwen2-VL 7B with a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from generator.output import InputError
from reward.models.named.qwen_rewards import (
    QwenReader,
    State,
    current_names,
    load_backbone,
    load_tokenizer,
    read_state,
    text_config,
)
from reward.models.named.templates import PromptText
from reward.models.vlm_loading import VideoBudget

BASE_MODEL = "Qwen/Qwen2-VL-7B-Instruct"
TOKEN = "<|Reward|>"
BUDGET = VideoBudget(max_frame_pixels=256 * 28 * 28, min_frame_pixels=256 * 28 * 28)
"""Every frame is brought to this area."""

TEXT = PromptText(
    reward="hpsv3",
    sha256="f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c",
    parts=(
        "0393599dad45a971903d1d62a3acf9bad3ccccdafa7f40f680523419e1f68b7a",
        "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
    ),
    placeholder="{text_prompt}",
    source="`pip download --no-deps hpsv3==1.0.0` (its wheel)",
)
"""The instruction with the prompt, then the question with the token."""


def build_head(state: Mapping[str, Tensor], place: str) -> nn.Module:
    """The head `rm_head.{0,3,5}`: hidden → 1024 → 16 → mean and spread, ReLU between; its dropout is off in scoring.

    Args:
        state: its weights by the names after `rm_head.`.
        place: what they were read from, for messages.

    Raises:
        InputError: weights are missing or do not fit.
    """
    expected = {f"{layer}.{kind}" for layer in (0, 3, 5) for kind in ("weight", "bias")}
    if set(state) != expected or state["5.weight"].shape[0] != 2:
        raise InputError(
            f"{place} has the head weights {', '.join(sorted(state)) or 'none'}, but HPSv3 has "
            f"{', '.join(sorted(expected))} with two outputs: give HPSv3.safetensors."
        )
    first, second, last = (state[f"{layer}.weight"].shape for layer in (0, 3, 5))
    head = nn.Sequential(
        nn.Linear(first[1], first[0]), nn.ReLU(), nn.Dropout(0.05), nn.Linear(second[1], second[0]), nn.ReLU(),
        nn.Linear(last[1], last[0]),
    )  # fmt: skip
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head.requires_grad_(False).eval()


def load_reader(
    weights: Path, base: str, tokenizer_folder: Path, dtype: torch.dtype, device: torch.device
) -> QwenReader:
    """The model of `HPSv3.safetensors`.

    Args:
        base: folder or hub id of the Qwen2-VL whose dimensions it has.
        tokenizer_folder: of the base model; the reward's token is added where it is missing.

    Raises:
        InputError: the files do not fit each other.
    """
    state = current_names(read_state(weights))
    head: State = {
        name.removeprefix("rm_head."): state.pop(name) for name in list(state) if name.startswith("rm_head.")
    }
    tokenizer = load_tokenizer(tokenizer_folder)
    if TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [TOKEN]}, replace_extra_special_tokens=False
        )
    backbone = load_backbone(text_config(base, weights.parent), state, dtype, str(weights)).to(device)
    reader = QwenReader(
        backbone, build_head(head, str(weights)).to(device), tokenizer, [TOKEN], BUDGET, "hpsv3"
    )
    return reader.eval()


def preference(reader: QwenReader, text: str, frames: Tensor, prompts: list[str]) -> Tensor:
    """Mean of the preference `[n]` of frames `[n, 3, height, width]` in [-1, 1], one prompt each; differentiable.

    Args:
        text: the prompt text with its placeholder, see `TEXT`.
    """
    inputs = reader.image_inputs(frames, [TEXT.fill(text, prompt) for prompt in prompts])
    return reader(inputs)[:, 0, 0]
