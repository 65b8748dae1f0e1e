"""Rewards that read special tokens of a Qwen2-VL: weights as published, their positions, pixels to patches.

VideoReward and HPSv3 build the embeddings themselves and call the language model without positions, for which the
version of transformers that both pin (4.45.2) counts 0, 1, 2, … on all three rotary axes. Their checkpoints therefore
need *sequential* positions: with Qwen2-VL's own (M-RoPE), which current versions of transformers fill in, the scores
are others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generator.one_or_several import as_list
from generator.output import InputError
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import torch_device
from reward.models.named.sharing import LastForward
from reward.models.vlm_loading import QwenPreparation, VideoBudget, fit_size

State = dict[str, Tensor]

TEXT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}  # fmt: skip
"""Dimensions of the language models, so that a checkpoint that holds all weights needs no further file."""

_RENAMED = (
    (re.compile(r"^model\.visual\."), "visual."),
    (re.compile(r"^model\.language_model\."), "language_model."),
    (re.compile(r"^model\.(embed_tokens|layers|norm)\."), r"language_model.\1."),
)
_ADAPTER = re.compile(r"^(.*)\.lora_([AB])(?:\.default)?\.weight$")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        InputError: it holds none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{folder} holds no tokenizer ({reason}): fetch the whole repository.") from error


def placement(request: RewardRequest) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a request; bfloat16 on GPUs and float32 elsewhere where it names none."""
    device = torch_device(request)
    named = request.options.get("dtype")
    default = torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, getattr(torch, named) if named else default


def current_names(state: Mapping[str, Tensor]) -> State:
    """Weights by the names that `Qwen2VLModel` and `rm_head` have now.

    Takes the prefix and the layers of PEFT away (`base_model.model.`, `.base_layer`, `.modules_to_save.default`) and
    translates the names of transformers 4.45 (`visual.*`, `model.layers.*`) and of a whole model
    (`model.language_model.*`). The output layer `lm_head` is left out: it is tied, or no reward reads it.
    """
    found: State = {}
    for name, value in state.items():
        plain = name.removeprefix("module.").removeprefix("base_model.model.")
        plain = plain.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        for pattern, replacement in _RENAMED:
            plain, count = pattern.subn(replacement, plain)
            if count:
                break
        if not plain.startswith("lm_head.") and ".original_module." not in plain:
            found[plain] = value
    return found


def merge_adapters(state: State, alpha: float, rank_stabilised: bool = False) -> State:
    """Adds LoRA pairs to the weights that they belong to: W + α/r · B A, in float32 (α/√r where rank-stabilised).

    Args:
        state: as of `current_names`.
        alpha: numerator of the scale; r is read from the shapes.

    Raises:
        InputError: a pair is incomplete, or has no weight.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    merged: State = {}
    for name, value in state.items():
        found = _ADAPTER.match(name)
        if found:
            pairs.setdefault(found.group(1), {})[found.group(2)] = value
        else:
            merged[name] = value
    for layer, pair in pairs.items():
        weight = f"{layer}.weight"
        if set(pair) != {"A", "B"} or weight not in merged:
            raise InputError(
                f"The checkpoint has an adapter of {layer} without "
                f"{weight if weight not in merged else 'its other half'}: it is incomplete; fetch it again."
            )
        rank = pair["A"].shape[0]
        scale = alpha / (rank**0.5 if rank_stabilised else rank)
        change = pair["B"].float() @ pair["A"].float()
        merged[weight] = merged[weight].float() + scale * change
    return merged


def text_config(name: str, folder: Path | None = None) -> Any:
    """The configuration of a Qwen2-VL: of a folder, of the Hugging Face cache, or as known for the published sizes.

    Args:
        name: folder or hub id.
        folder: a folder that is looked into first.

    Raises:
        InputError: it is at none of these places.
    """
    from transformers import Qwen2VLConfig

    for place in (folder, Path(name)):
        if place is not None and (place / "config.json").is_file():
            return Qwen2VLConfig.from_pretrained(place)
    if name in TEXT_SIZES:
        sizes = dict(TEXT_SIZES[name])
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        text = {**sizes, "rope_parameters": rope, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
        vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": sizes["hidden_size"]}
        return Qwen2VLConfig(
            text_config=text, vision_config=vision, image_token_id=151655, video_token_id=151656,
            vision_start_token_id=151652, vision_end_token_id=151653,
        )  # fmt: skip
    try:
        return Qwen2VLConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The configuration of {name}, which the checkpoint names as its base, cannot be had: give its folder as "
            "base=FOLDER."
        ) from error


def load_backbone(config: Any, weights: State, dtype: torch.dtype, place: str) -> nn.Module:
    """`Qwen2VLModel` with these weights; its vocabulary is that of the embeddings.

    Args:
        weights: as of `current_names`, without the head.
        place: what they were read from, for messages.

    Raises:
        InputError: a weight is missing, unknown, or of another shape.
    """
    from transformers import Qwen2VLModel

    embeddings = weights.get("language_model.embed_tokens.weight")
    if embeddings is not None:
        config.text_config.vocab_size = embeddings.shape[0]
    with torch.device("meta"):
        expected = {name: value.shape for name, value in Qwen2VLModel(config).state_dict().items()}
    wrong = sorted(set(expected) ^ set(weights))
    wrong += [name for name in set(expected) & set(weights) if expected[name] != weights[name].shape]
    if wrong:
        name = wrong[0]
        found, wanted = ((tuple(each[name]) if name in each else "nothing") for each in (
            {key: value.shape for key, value in weights.items()}, expected))  # fmt: skip
        raise InputError(
            f"{place} does not fit its configuration: {len(wrong)} weights differ, first {name} ({found} found, "
            f"{wanted} expected); check its base model, or fetch it again."
        )
    model = Qwen2VLModel.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    return model.requires_grad_(False).eval()


def in_eight_bits(pixels: Tensor) -> Tensor:
    """Pixels clamped to [0, 1] and rounded to 8 bits, as files hold them; gradients pass straight through."""
    rounded = (pixels.detach() * 255).round().clamp(0, 255) / 255
    return pixels + (rounded - pixels).detach() if pixels.requires_grad else rounded


def eight_bit_resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames `[n, 3, …]` in [-1, 1] as pixels in [0, 1] of another size, as torchvision resizes 8-bit tensors (bicubic,
    antialiased, rounded)."""
    return in_eight_bits(_resized(in_eight_bits((frames.float() + 1) / 2), height, width))


def pillow_resize(frames: Tensor, height: int, width: int) -> Tensor:
    """As `eight_bit_resize`, but as Pillow does: first the width, then the height, and both are rounded."""
    pixels = in_eight_bits((frames.float() + 1) / 2)
    pixels = in_eight_bits(_resized(pixels, pixels.shape[2], width))
    return in_eight_bits(_resized(pixels, height, width))


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    if tuple(pixels.shape[2:]) == (height, width):
        return pixels
    return functional.interpolate(
        pixels, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


class QwenReader(nn.Module):
    """A Qwen2-VL and a head that reads special tokens, at sequential positions.

    Args:
        backbone: `Qwen2VLModel`.
        head: of the hidden states, in float32.
        tokenizer: with the tokens and a chat template.
        tokens: whose states are read, each exactly once in a message.
        budget: pixels of a frame.
        name: of the reward, for messages.
        resize: `(frames in [-1, 1], height, width) -> pixels in [0, 1]`.

    Attributes:
        last: what came out last, for the dimensions that share this reader.

    Raises:
        InputError: the tokenizer lacks a token or a chat template.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        tokenizer: Any,
        tokens: Sequence[str],
        budget: VideoBudget,
        name: str,
        resize: Callable[[Tensor, int, int], Tensor] = eight_bit_resize,
    ) -> None:
        super().__init__()
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        known = tokenizer.get_vocab()
        lacking = [token for token in as_list(tokens) if token not in known]
        if lacking or not tokenizer.chat_template:
            what = f"the token {lacking[0]}" if lacking else "a chat template"
            raise InputError(f"The tokenizer of {name} lacks {what}: use the one of its checkpoint.")
        self.backbone = backbone
        self.head = head.float()
        config: Any = backbone.config
        self.preparation = QwenPreparation(tokenizer, config, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        self.tokenizer = tokenizer
        self.token_ids = tokenizer.convert_tokens_to_ids(list(as_list(tokens)))
        self.video_token_id, self.image_token_id = int(config.video_token_id), int(config.image_token_id)
        self.image_pad = tokenizer.convert_ids_to_tokens(self.image_token_id)
        self.budget = budget
        self.name = name
        self.resize = resize
        self.last = LastForward()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` where a prompt holds a special token, which would be taken for the message's own."""
        special = [token for token in self.tokenizer.get_added_vocab() if token.startswith("<|")]
        for prompt in as_list(prompts):
            found = [token for token in special if token in prompt]
            if found:
                raise InputError(
                    f"The prompt {prompt[:80]!r} holds {found[0]}, which {self.name} would take for a mark of its own: "
                    "leave it out."
                )

    def video_inputs(self, videos: Sequence[Tensor], texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs for one message a video: its frames `[frames, 3, height, width]` in [-1, 1], then the text."""
        found = [self._patches(frames) for frames in videos]
        contents = [
            self.preparation.placeholder(grid, 1.0) + text
            for (_, grid), text in zip(found, texts, strict=True)
        ]
        return {
            **self._words(contents),
            "pixel_values_videos": torch.cat([flat for flat, _ in found]),
            "video_grid_thw": torch.tensor([grid for _, grid in found]),
        }

    def image_inputs(self, images: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs for one message an image `[n, 3, height, width]` in [-1, 1]: the image, then the text."""
        found = [self._patches(image.expand(self.preparation.frames, -1, -1, -1)) for image in images]
        contents = [
            self.preparation.placeholder(grid, 1.0).replace(self.preparation.pad, self.image_pad) + text
            for (_, grid), text in zip(found, texts, strict=True)
        ]
        return {
            **self._words(contents),
            "pixel_values": torch.cat([flat for flat, _ in found]),
            "image_grid_thw": torch.tensor([grid for _, grid in found]),
        }

    def _patches(self, frames: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        side = self.preparation.patch * self.preparation.merge
        height, width = fit_size(frames.shape[2], frames.shape[3], side, self.budget)
        return self.preparation.cut(self.resize(frames.to(self.device), height, width))

    def _words(self, contents: Sequence[str]) -> dict[str, Tensor]:
        texts = [self.preparation.conversation(content) for content in contents]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        ids = tokens["input_ids"]
        # 1 marks image tokens and 2 those of videos.
        kinds = (ids == self.image_token_id).int() + (ids == self.video_token_id).int() * 2
        return {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": kinds,
            "position_ids": sequential_positions(ids.shape),
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the head `[batch, tokens, outputs]`, float32, at each special token's own place."""
        dtype = next(self.backbone.parameters()).dtype
        moved = {
            name: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
        }
        return read_tokens(self.backbone, self.head, self.token_ids, moved)


def read_tokens(
    backbone: nn.Module, head: nn.Module, tokens: Sequence[int], inputs: Mapping[str, Tensor]
) -> Tensor:
    """Outputs of a head `[batch, len(tokens), outputs]` of the last hidden states at the first place of each token.

    Args:
        tokens: ids of the tokens.
        inputs: of `backbone`, on its device.
    """
    ids = inputs["input_ids"]
    # A trainer's autocast is in force where rollouts are judged; scores are to be those of upstream.
    with torch.autocast(ids.device.type, enabled=False):
        hidden = backbone(**inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        places = [(ids == token).int().argmax(1) for token in tokens]
        states = torch.stack([hidden[rows, place] for place in places], dim=1)
        return head(states.float())


def sequential_positions(shape: Iterable[int]) -> Tensor:
    """Positions 0, 1, 2, … `[3, batch, tokens]`, the same on all three rotary axes; padding is on the right."""
    batch, tokens = shape
    return torch.arange(tokens).expand(3, batch, tokens)
