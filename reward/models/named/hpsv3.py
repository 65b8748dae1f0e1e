"""`hpsv3`: human preference of single frames, HPSv3 (arXiv 2508.03789), a Qwen2-VL 7B with a head of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from generator.output import InputError
from generator.weight_files.state_dicts import read_state_dict
from reward.models.base import RewardModel
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import FrameReward
from reward.models.named.places import files_of, folder_of, identify
from reward.models.named.qwen_rewards import (
    QwenReader,
    State,
    current_names,
    load_backbone,
    load_tokenizer,
    pillow_resize,
    placement,
    text_config,
)
from reward.models.named.sharing import shared
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
    state = current_names(read_state_dict(weights, "hpsv3"))
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
        backbone,
        build_head(head, str(weights)).to(device),
        tokenizer,
        [TOKEN],
        BUDGET,
        "hpsv3",
        pillow_resize,
    )
    return reader.eval()


class HPSv3Reward(FrameReward):
    """Preference of single frames; the mean of the two outputs, not the spread.

    Args:
        text: the prompt text with its placeholder, see `TEXT`.
    """

    def __init__(self, request: RewardRequest, reader: QwenReader, text: str) -> None:
        super().__init__(request, reader.device, frames=5, batch_size=4)
        self.reader, self.text = reader, text

    def check_prompts(self, prompts: Sequence[str]) -> None:
        self.reader.check_prompts(prompts)

    def frame_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        self.check_prompts(prompts)
        inputs = self.reader.image_inputs(frames, [TEXT.fill(self.text, prompt) for prompt in prompts])
        return self.reader(inputs)[:, 0, 0]


def load(request: RewardRequest) -> RewardModel:
    """HPSv3 of the hub or of a folder or file.

    Raises:
        InputError: weights, tokenizer or the prompt text are not at hand.
    """
    options = request.options
    text = TEXT.load(options.get("template"))
    weights = next(iter(files_of(request).values()))
    base = options.get("base")
    tokenizer = Path(base) if base else folder_of(files_of(request, request.entry.weights[1]))
    device, dtype = placement(request)
    reader = shared(
        ("hpsv3", weights.resolve(), base, device, dtype),
        lambda: load_reader(weights, base or BASE_MODEL, tokenizer, dtype, device),
    )
    model = HPSv3Reward(request, reader, text)
    return identify(
        model, request, [weights], frames=model.frames, reduce=model.reduce, template_sha256=TEXT.sha256
    )
