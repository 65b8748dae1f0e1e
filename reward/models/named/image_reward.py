"""ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP reads the prompt and looks at the image, linear layers score its
first token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generator.one_or_several import as_list
from generator.output import InputError
from generator.weight_files.state_dicts import read_state_dict
from reward.models.named.entry import RewardRequest
from reward.models.named.frame_entries import BERT_TOKENIZER
from reward.models.named.frames import (
    CLIP_MEAN,
    CLIP_STD,
    FrameReward,
    crop_to_side,
    normalised,
    torch_device,
    torch_dtype,
    warn_of_cut_prompts,
)
from reward.models.named.places import files_of, folder_of, identify
from reward.models.named.sharing import shared
from reward.models.named.state_dicts import linear_layers, load_exactly

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores on upstream's validation data; scores are given in these units."""

TOKENS = 35
"""Tokens of a prompt that are read."""

VISION_HEADS, TEXT_HEADS = 16, 12

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under `blip.` with the names of `BlipForImageTextRetrieval`."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith("blip.") or name.endswith("position_ids"):
            continue
        name = name.removeprefix("blip.")
        if not name.startswith("visual_encoder."):
            found[name] = value
            continue
        name = name.removeprefix("visual_encoder.")
        stem, _, kind = name.rpartition(".")
        if name in _VISION:
            target = _VISION[name]
        elif stem in _VISION:
            target = f"{_VISION[stem]}.{kind}"
        else:
            _, number, part = stem.split(".", 2)
            target = f"encoder.layers.{number}.{_BLOCK.get(part, part)}.{kind}"
        found[f"vision_model.{target}"] = value
    return found


class ImageReward(FrameReward):
    """Judges frames for a prompt.

    Args:
        blip: `BlipForImageTextRetrieval`, of which the matching head is not used.
        head: linear layers on the hidden state of the first token.
        tokenizer: of `bert-base-uncased`.
    """

    def __init__(self, request: RewardRequest, blip: Any, head: nn.Module, tokenizer: Any) -> None:
        super().__init__(request, torch_device(request))
        self.blip, self.head, self.tokenizer = blip, head.to(self.device), tokenizer
        self.side = blip.config.vision_config.image_size

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Warns where prompts are longer than the 35 tokens that are read."""
        distinct = list(dict.fromkeys(as_list(prompts)))
        ids = self.tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        warn_of_cut_prompts(self.name, [len(each) for each in ids], TOKENS)

    def frame_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        pixels = normalised(crop_to_side(frames, self.side, rounded=True), CLIP_MEAN, CLIP_STD)
        images = self.blip.vision_model(pixel_values=pixels.to(self.blip.dtype)).last_hidden_state
        words = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        hidden = self.blip.text_encoder(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=self.device),
        ).last_hidden_state
        return (self.head(hidden[:, 0].float())[:, 0] - MEAN) / STD


def load_image_reward(request: RewardRequest) -> FrameReward:
    """ImageReward from the published `ImageReward.pt`."""
    from transformers import BertTokenizer

    files = files_of(request)
    path = next(iter(files.values()))
    device, dtype = torch_device(request), torch_dtype(request)

    def load() -> nn.Module:
        state = read_state_dict(path, request.entry.name)
        blip = _blip(state, path)
        head = {key.removeprefix("mlp."): value for key, value in state.items() if key.startswith("mlp.")}
        blip.reward_head = linear_layers(head, "layers", path)
        blip = blip.to(device, dtype)
        blip.reward_head.float()
        return blip

    blip: Any = shared(("ImageReward", path.resolve(), str(device), dtype), load)
    tokenizer = BertTokenizer.from_pretrained(folder_of(files_of(request, BERT_TOKENIZER)))
    reward = ImageReward(request, blip, blip.reward_head, tokenizer)
    shown = {"frames": reward.frames, "reduce": reward.reduce, "dtype": str(dtype).split(".")[1]}
    return identify(reward, request, [path], **shown)


def _blip(state: Mapping[str, Tensor], path: Path) -> Any:
    """The frozen model, float32, whose sizes but the heads follow from the weights."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    weights = renamed(state)
    try:
        patches = weights["vision_model.embeddings.patch_embedding.weight"]
        positions = weights["vision_model.embeddings.position_embedding"].shape[1]
        words = weights["text_encoder.embeddings.word_embeddings.weight"]
        config = BlipConfig(
            image_text_hidden_size=len(weights["vision_proj.weight"]),
            vision_config={
                "hidden_size": len(patches),
                "intermediate_size": len(weights["vision_model.encoder.layers.0.mlp.fc1.weight"]),
                "num_hidden_layers": _count(weights, "vision_model.encoder.layers."),
                "num_attention_heads": VISION_HEADS,
                "image_size": round((positions - 1) ** 0.5) * patches.shape[-1],
                "patch_size": patches.shape[-1],
                "layer_norm_eps": 1e-6,
            },
            text_config={
                "vocab_size": words.shape[0],
                "hidden_size": words.shape[1],
                "encoder_hidden_size": len(patches),
                "intermediate_size": len(weights["text_encoder.encoder.layer.0.intermediate.dense.weight"]),
                "num_hidden_layers": _count(weights, "text_encoder.encoder.layer."),
                "num_attention_heads": TEXT_HEADS,
                "max_position_embeddings": len(weights["text_encoder.embeddings.position_embeddings.weight"]),
                "layer_norm_eps": 1e-12,
            },
        )
    except KeyError as error:
        raise InputError(f"{path} is not ImageReward.pt: {error} is missing.") from error
    model = BlipForImageTextRetrieval(config)
    load_exactly(model, {name: value.float() for name, value in weights.items()}, path, unused=r"itm_head\.")
    return model


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}
    return len(numbers)
