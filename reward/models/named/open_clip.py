"""CLIP weights with OpenCLIP's names as a `CLIPModel` of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.output import InputError
from reward.models.named.state_dicts import load_exactly

HEADS = 16
"""Attention heads of both encoders of ViT-H-14; weights do not say them."""

_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names as those of transformers: projections transposed, the stacked query, key and value taken apart.

    Buffers without weights (`attn_mask`) are left out; unknown names stay, so that loading them is refused.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        block = _BLOCK.fullmatch(name)
        if name in _NAMES:
            found[_NAMES[name]] = value
        elif name == "visual.proj":
            found["visual_projection.weight"] = value.T.contiguous()
        elif name == "text_projection":
            found["text_projection.weight"] = value.T.contiguous()
        elif stem in _NORMS:
            found[f"{_NORMS[stem]}.{kind}"] = value
        elif block is not None:
            side, number, part, kind = block.groups()
            target = f"{'vision' if side else 'text'}_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                for letter, third in zip("qkv", value.chunk(3)):
                    found[f"{target}.self_attn.{letter}_proj.{kind}"] = third
            else:
                found[f"{target}.{_PARTS.get(part, part)}.{kind}"] = value
        elif name != "attn_mask":
            found[name] = value
    return found


def clip_of_open_clip(state: Mapping[str, Tensor], path: Path) -> Any:
    """The frozen `CLIPModel` of a ViT-H-14 state dictionary, float32; all sizes but the heads follow from the weights.

    Raises:
        InputError: the keys are not OpenCLIP's.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        model = CLIPModel(CLIPConfig(**_sizes(state)))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} does not hold a CLIP model with OpenCLIP's names ({error}).") from error
    load_exactly(model, {name: value.float() for name, value in renamed(state).items()}, path)
    return model


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    patches = state["visual.conv1.weight"]
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, width = state["token_embedding.weight"].shape
    layers = [match for match in map(_BLOCK.fullmatch, state) if match is not None]
    vision, text = (
        {
            "num_hidden_layers": 1 + max(int(match[2]) for match in layers if bool(match[1]) is of_vision),
            "num_attention_heads": HEADS,
            "hidden_act": "gelu",
        }
        for of_vision in (True, False)
    )
    dimensions = state["visual.proj"].shape[1]
    return {
        "projection_dim": dimensions,
        "vision_config": {
            **vision,
            "hidden_size": len(patches),
            "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
            "image_size": side * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "projection_dim": dimensions,
        },
        "text_config": {
            **text,
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
            "max_position_embeddings": len(state["positional_embedding"]),
            "projection_dim": dimensions,
            # The end of a text is its largest token, which OpenCLIP looks for.
            "eos_token_id": 2,
        },
    }
