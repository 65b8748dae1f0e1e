"""Names of layers as other tools spell them, typed here from their files."""

from __future__ import annotations

import pytest

from generator.testing.pipelines import build_tiny_pipeline
from generator.weight_files.release_names import LayerNames

DOUBLE, SINGLE = "transformer_blocks.0", "single_transformer_blocks.0"
SPELLINGS = {
    "hunyuan_video": {
        "double_blocks.0.img_attn.qkv": [f"{DOUBLE}.attn.to_{part}" for part in "qkv"],
        "double_blocks_0_txt_attn_qkv": [f"{DOUBLE}.attn.add_{part}_proj" for part in "qkv"],
        "double_blocks.0.txt_mlp.2": [f"{DOUBLE}.ff_context.net.2"],
        "double_blocks_0_img_mlp_0": [f"{DOUBLE}.ff.net.0.proj"],
        "double_blocks.0.img_mod.lin": [f"{DOUBLE}.norm1.linear"],
        "double_blocks.0.img_attn.norm.query_norm": [f"{DOUBLE}.attn.norm_q"],
        "single_blocks.0.norm.key_norm": [f"{SINGLE}.attn.norm_k"],
        "single_blocks.0.modulation.lin": [f"{SINGLE}.norm.linear"],
        "single_blocks.0.linear1": [f"{SINGLE}.attn.to_{part}" for part in "qkv"] + [f"{SINGLE}.proj_mlp"],
        "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
        "txt_in.c_embedder.out_layer": ["context_embedder.time_text_embed.text_embedder.linear_2"],
        "txt_in.individual_token_refiner.blocks.0.self_attn.proj": [
            "context_embedder.token_refiner.refiner_blocks.0.attn.to_out.0"
        ],
    },
    "hunyuan_video1.5": {
        "double_blocks.0.img_attn_q": [f"{DOUBLE}.attn.to_q"],
        "double_blocks.0.txt_attn.qkv": [f"{DOUBLE}.attn.add_{part}_proj" for part in "qkv"],
        "byt5_in.fc2": ["context_embedder_2.linear_2"],
        "vision_in.proj.3": ["image_embedder.linear_2"],
    },
    "ltx": {
        "patchify_proj": ["proj_in"],
        "adaln_single.emb.timestep_embedder.linear_1": ["time_embed.emb.timestep_embedder.linear_1"],
        "transformer_blocks.0.attn1.q_norm": [f"{DOUBLE}.attn1.norm_q"],
    },
    "ltx2.3": {
        "audio_patchify_proj": ["audio_proj_in"],
        "audio_adaln_single.linear": ["audio_time_embed.linear"],
        "prompt_adaln_single.linear": ["prompt_adaln.linear"],
        "av_ca_a2v_gate_adaln_single.linear": ["av_cross_attn_video_a2v_gate.linear"],
        "av_ca_audio_scale_shift_adaln_single.linear": ["av_cross_attn_audio_scale_shift.linear"],
        "transformer_blocks.0.scale_shift_table_a2v_ca_audio": [
            "transformer_blocks.0.audio_a2v_cross_attn_scale_shift_table"
        ],
        "transformer_blocks.0.audio_attn1.k_norm": [f"{DOUBLE}.audio_attn1.norm_k"],
    },
    "wan": {"blocks.0.norm3": ["blocks.0.norm2"], "blocks_1_ffn_0": ["blocks.1.ffn.net.0.proj"]},
}


@pytest.mark.parametrize("family", SPELLINGS)
def test_layers_are_found_by_every_spelling(family: str) -> None:
    names = LayerNames.of(build_tiny_pipeline(family).transformer)
    for spelling, parts in SPELLINGS[family].items():
        layer = names.find(spelling)
        assert layer is not None, spelling
        assert list(layer.parts) == parts
    assert names.find("blocks.0.no_such_layer") is None
