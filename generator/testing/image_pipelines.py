"""Tiny random pipelines of the models that need an image; see `generator.testing.pipelines`."""

from __future__ import annotations

from typing import Any

from diffusers import (
    CogVideoXImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    WanImageToVideoPipeline,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from generator.testing.text_pipelines import (
    TinyPipeline,
    tiny_cogvideox,
    tiny_hunyuan_video15,
    tiny_skyreels,
    tiny_wan,
)

# 16 channels of noise, 4 of the mask and 16 of the image.
_WAN_21_I2V = {"in_channels": 36, "out_channels": 16, "image_dim": 4, "added_kv_proj_dim": 24}


def _clip(kind: Any = CLIPVisionModel) -> dict[str, Any]:
    encoder = CLIPVisionConfig(
        hidden_size=4, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=4,
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    return {
        "image_encoder": kind(encoder),
        "image_processor": CLIPImageProcessor(crop_size=size, size=size),
    }


def _wan_i2v() -> WanImageToVideoPipeline:
    return tiny_wan(kind=WanImageToVideoPipeline, transformer=_WAN_21_I2V, **_clip())


def _skyreels_i2v() -> SkyReelsV2ImageToVideoPipeline:
    return tiny_skyreels(SkyReelsV2ImageToVideoPipeline, _WAN_21_I2V, **_clip(CLIPVisionModelWithProjection))


def _wan22_i2v_a14b() -> WanImageToVideoPipeline:
    return tiny_wan(
        kind=WanImageToVideoPipeline,
        experts=2,
        transformer={"in_channels": 36, "out_channels": 16},
        boundary_ratio=0.9,
    )


def _cogvideox_i2v() -> CogVideoXImageToVideoPipeline:
    return tiny_cogvideox(
        CogVideoXImageToVideoPipeline,
        in_channels=8,
        use_rotary_positional_embeddings=True,
        attention_head_dim=16,
    )


def _cogvideox15_i2v() -> CogVideoXImageToVideoPipeline:
    changes: dict[str, Any] = {
        "attention_head_dim": 16, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 8, "time_embed_dim": 8,
        "use_rotary_positional_embeddings": True,
    }  # fmt: skip
    return tiny_cogvideox(
        CogVideoXImageToVideoPipeline, {"invert_scale_latents": True}, in_channels=8, **changes
    )


def _hunyuan_video15_i2v() -> HunyuanVideo15ImageToVideoPipeline:
    encoder = SiglipVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    return tiny_hunyuan_video15(
        HunyuanVideo15ImageToVideoPipeline,
        "i2v",
        image_encoder=SiglipVisionModel(encoder),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )


TINY_IMAGE_PIPELINES: dict[str, TinyPipeline] = {
    "wan-i2v": (_wan_i2v, (9, 16, 16)),
    "wan2.2-i2v-a14b": (_wan22_i2v_a14b, (9, 16, 16)),
    "skyreels_v2-i2v": (_skyreels_i2v, (9, 16, 16)),
    "cogvideox-i2v": (_cogvideox_i2v, (9, 16, 16)),
    "cogvideox1.5-i2v": (_cogvideox15_i2v, (9, 16, 16)),
    "hunyuan_video1.5-i2v": (_hunyuan_video15_i2v, (9, 16, 16)),
}
"""Name -> builder, and `(frames, height, width)` of its tiny video."""
