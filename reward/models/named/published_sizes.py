"""Dimensions of the published models behind rewards by name, and these models without weights (on the meta device).

For forecasts of memory and for measurements with random weights; loading reads the sizes from the files themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reward.models.named.hpsv3 import BASE_MODEL as QWEN_7B
from reward.models.named.qwen_rewards import text_config
from reward.models.named.videoalign import BASE_MODEL as QWEN_2B

CLIP_H: Mapping[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "projection_dim": 1024,
    },
}  # fmt: skip
"""`laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, of which PickScore and HPSv2 are fine-tuned."""
CLIP_L: Mapping[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14, "projection_dim": 768,
    },
}  # fmt: skip
"""`openai/clip-vit-large-patch14`, and the blocks of ViCLIP."""
SIGLIP_SO: Mapping[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 14,
}  # fmt: skip
"""Vision half of `google/siglip-so400m-patch14-384`."""
BLIP_L: Mapping[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
"""Vision half of ImageReward."""
PROMPT_TOKENS: Mapping[str, int] = {"videoalign": 888, "hpsv3": 576}
"""Tokens of the prompt texts, which are not shipped: their characters divided by 4.5."""


def vision_model(name: str, dtype: torch.dtype) -> nn.Module | None:
    """The part that looks at pixels of the reward `name`, frozen and on the meta device; None where it has none."""
    import transformers

    kinds: dict[str, tuple[str, Any]] = {
        **dict.fromkeys(("pickscore", "hpsv2"), ("CLIPVisionModelWithProjection", CLIP_H["vision_config"])),
        **dict.fromkeys(("clip", "aesthetic"), ("CLIPVisionModelWithProjection", CLIP_L["vision_config"])),
        **dict.fromkeys(("siglip", "aesthetic-v2.5"), ("SiglipVisionModel", SIGLIP_SO)),
        "imagereward": ("BlipVisionModel", BLIP_L),
        "viclip": ("CLIPVisionModelWithProjection", CLIP_L["vision_config"]),
    }
    if name in ("videoalign", "hpsv3"):
        config = text_config(QWEN_2B if name == "videoalign" else QWEN_7B)
        kind: Any = transformers.Qwen2VLModel
    elif name in kinds:
        kind = getattr(transformers, kinds[name][0])
        config = kind.config_class(**kinds[name][1])
    else:
        return None
    with torch.device("meta"):
        model: nn.Module = kind._from_config(config, dtype=dtype)
    return model.requires_grad_(False).eval()
