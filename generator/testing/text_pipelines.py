"""Tiny random pipelines of the models that make videos from text; see `generator.testing.pipelines`."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from generator.native.text_encoder import build_tokenizer
from generator.testing.qwen_tokenizer import qwen_tokenizer

TinyPipeline = tuple[Callable[[], Any], tuple[int, int, int]]
"""A builder, and `(frames, height, width)` of its tiny video."""

WORDS = ("a", "the", "red", "blue", "circle", "square", "moves", "left", "right", "on", "dark", "background")


def _t5_tokenizer() -> Any:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.model_max_length = 512
    return tokenizer


def _t5(vocabulary: int, size: int = 32) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=size, d_kv=8, d_ff=2 * size, num_layers=2, num_heads=4)
    )


def _wan_vae(**changes: Any) -> AutoencoderKLWan:
    config: dict[str, Any] = {
        "base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
    }  # fmt: skip
    return AutoencoderKLWan(**{**config, **changes})


def _wan_transformer(channels: int = 16, kind: Any = WanTransformer3DModel, **changes: Any) -> Any:
    config: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": channels,
        "out_channels": channels, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip
    return kind(**{**config, **changes})


def tiny_wan(
    vae: AutoencoderKLWan | None = None,
    experts: int = 1,
    kind: Any = WanPipeline,
    transformer: dict[str, Any] | None = None,
    **pipeline: Any,
) -> Any:
    """A Wan pipeline of the class `kind`, with changes to its transformers' configuration."""
    tokenizer = _t5_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )
    vae = vae or _wan_vae()
    transformers = [_wan_transformer(vae.config.z_dim, **(transformer or {})) for _ in range(experts)]
    return kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=transformers[0],
        transformer_2=transformers[1] if experts == 2 else None,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        **pipeline,
    )


def _wan22_a14b() -> WanPipeline:
    return tiny_wan(experts=2, boundary_ratio=0.875)


def _wan22_ti2v() -> WanPipeline:
    vae = _wan_vae(
        z_dim=48, in_channels=12, out_channels=12, is_residual=True, patch_size=2, latents_mean=[0.1] * 48,
        latents_std=[0.9] * 48, scale_factor_spatial=16, scale_factor_temporal=4, decoder_base_dim=3,
    )  # fmt: skip
    return tiny_wan(vae, expand_timesteps=True)


def _wan_vace() -> WanVACEPipeline:
    changes = {"kind": WanVACETransformer3DModel, "vace_layers": [0, 1], "vace_in_channels": 96}
    return tiny_wan(kind=WanVACEPipeline, transformer=changes)


def tiny_skyreels(
    kind: Any = SkyReelsV2Pipeline, transformer: dict[str, Any] | None = None, **parts: Any
) -> Any:
    """A SkyReels V2 pipeline of the class `kind`: Wan's parts with a transformer of its own."""
    wan = tiny_wan(transformer={"kind": SkyReelsV2Transformer3DModel, **(transformer or {})})
    wan.scheduler.register_to_config(flow_shift=1.0)
    names = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    return kind(**{name: wan.components[name] for name in names}, **parts)


def _ltx() -> LTXPipeline:
    tokenizer = _t5_tokenizer()
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=1, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        decoder_spatio_temporal_scaling=(True, True, False, False), upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, shift_terminal=0.1,
    )  # fmt: skip
    return LTXPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=_t5(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def _gemma(vocabulary: int) -> Gemma3ForConditionalGeneration:
    text = Gemma3TextConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )


def tiny_ltx2(distilled: bool = False, **transformer: Any) -> LTX2Pipeline:
    """LTX-2, or 2.3 with its changes to the transformer's configuration.

    Args:
        distilled: whether the scheduler is that of the distilled models, which shifts nothing.
    """
    tokenizer = _word_tokenizer(model_max_length=1024)
    config: dict[str, Any] = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16,
        "cross_attention_dim": 32, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "num_layers": 2, "caption_channels": 16,
        "vae_scale_factors": (4, 8, 8), "rope_type": "split",
    }  # fmt: skip
    by_modality = transformer.get("use_prompt_embeddings") is False
    width, audio_width = (32, 16) if by_modality else (16, 16)
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, video_connector_num_attention_heads=1,
        video_connector_attention_head_dim=width, video_connector_num_layers=1,
        video_connector_num_learnable_registers=64, audio_connector_num_attention_heads=1,
        audio_connector_attention_head_dim=audio_width, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=64, rope_type="split",
        per_modality_projections=by_modality, video_hidden_dim=32, audio_hidden_dim=16,
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8),
        down_block_types=("LTX2VideoDownBlock3D",) * 2, decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
        downsample_type=("spatiotemporal", "spatiotemporal"), upsample_type=("spatiotemporal",) * 2,
        upsample_residual=(False, False), upsample_factor=(1, 1), patch_size=2, decoder_causal=False,
    )  # fmt: skip
    vae.latents_mean.fill_(0.1)
    vae.latents_std.fill_(0.9)
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=8, upsample_kernel_sizes=[4], upsample_factors=[2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1]],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=not distilled, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, shift_terminal=None if distilled else 0.1,
    )  # fmt: skip
    return LTX2Pipeline(
        scheduler=scheduler, vae=vae, audio_vae=audio_vae, text_encoder=_gemma(len(tokenizer)), tokenizer=tokenizer,
        connectors=connectors, transformer=LTX2VideoTransformer3DModel(**{**config, **transformer}), vocoder=vocoder,
    )  # fmt: skip


def _ltx23() -> LTX2Pipeline:
    return tiny_ltx2(
        gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True,
        use_prompt_embeddings=False, perturbed_attn=True,
    )  # fmt: skip


def tiny_cogvideox(
    kind: Any = CogVideoXPipeline, vae_changes: dict[str, Any] | None = None, **transformer: Any
) -> Any:
    """A CogVideoX pipeline of the class `kind`, with changes to the configurations of autoencoder and transformer."""
    tokenizer = _t5_tokenizer()
    config: dict[str, Any] = {
        "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2,
        "text_embed_dim": 32, "num_layers": 1, "sample_width": 2, "sample_height": 2, "sample_frames": 9,
        "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 16,
    }  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8,) * 4, latent_channels=4,
        layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4, **(vae_changes or {}),
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing", set_alpha_to_one=True,
        clip_sample=False,
    )  # fmt: skip
    return kind(
        tokenizer=tokenizer, text_encoder=_t5(len(tokenizer)), vae=vae,
        transformer=CogVideoXTransformer3DModel(**{**config, **transformer}), scheduler=scheduler,
    )  # fmt: skip


def _cogvideox15() -> CogVideoXPipeline:
    return tiny_cogvideox(
        attention_head_dim=16, patch_size_t=2, use_rotary_positional_embeddings=True, patch_bias=False
    )


def _word_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """One token a word of `WORDS`, one for all others."""
    vocabulary = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **options,
    )


def _clip_tokenizer() -> CLIPTokenizer:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77
    )


def _hunyuan_video() -> HunyuanVideoPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1,
        norm_num_groups=4, scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )  # fmt: skip
    tokenizer, clip_tokenizer = _word_tokenizer(model_max_length=512), _clip_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
    )
    clip = CLIPTextConfig(
        vocab_size=len(clip_tokenizer), hidden_size=8, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=2, projection_dim=32, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama), tokenizer=tokenizer, transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=clip_tokenizer,
    )  # fmt: skip


def tiny_hunyuan_video15(
    kind: Any = HunyuanVideo15Pipeline, task_type: str = "t2v", **components: Any
) -> Any:
    """A tiny HunyuanVideo 1.5 of a pipeline class, which `components` go to."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, patch_size=1, patch_size_t=1, text_embed_dim=16, text_embed_2_dim=32,
        image_embed_dim=12, rope_axes_dim=(2, 2, 4), target_size=16, task_type=task_type,
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, temporal_compression_ratio=2, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    tokenizer, bytes_tokenizer = qwen_tokenizer(vae), ByT5Tokenizer()
    qwen = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default", "mrope_section": [1, 1, 2]},
    )  # fmt: skip
    return kind(
        text_encoder=Qwen2_5_VLTextModel(qwen), tokenizer=tokenizer, transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), text_encoder_2=_t5(len(bytes_tokenizer)),
        tokenizer_2=bytes_tokenizer, guider=ClassifierFreeGuidance(guidance_scale=1.0),
        **components,
    )  # fmt: skip


def _animated_parts(**unet: Any) -> dict[str, Any]:
    """Autoencoder, U-Net, motion modules and scheduler of AnimateDiff; `unet` is more of the U-Net's configuration."""
    denoiser = UNet2DConditionModel(
        sample_size=2, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **unet,
    )  # fmt: skip
    motion = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )
    return {"unet": denoiser, "motion_adapter": motion, "vae": vae, "scheduler": scheduler}


def _clip_config(tokens: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tokens, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2,
        bos_token_id=0, eos_token_id=1, projection_dim=8,
    )  # fmt: skip


def _animatediff() -> AnimateDiffPipeline:
    parts, tokenizer = _animated_parts(cross_attention_dim=8), _clip_tokenizer()
    text = CLIPTextModel(_clip_config(len(tokenizer)))
    return AnimateDiffPipeline(text_encoder=text, tokenizer=tokenizer, **parts)


def _animatediff_xl() -> AnimateDiffSDXLPipeline:
    parts = _animated_parts(
        cross_attention_dim=16, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )  # fmt: skip
    tokenizer = _clip_tokenizer()
    config = _clip_config(len(tokenizer))
    return AnimateDiffSDXLPipeline(
        text_encoder=CLIPTextModel(config), text_encoder_2=CLIPTextModelWithProjection(config), tokenizer=tokenizer,
        tokenizer_2=tokenizer, **parts,
    )  # fmt: skip


TINY_PIPELINES: dict[str, TinyPipeline] = {
    "wan": (tiny_wan, (9, 16, 16)),
    "wan2.2-a14b": (_wan22_a14b, (9, 16, 16)),
    "wan2.2-ti2v": (_wan22_ti2v, (9, 32, 32)),
    "wan-vace": (_wan_vace, (9, 16, 16)),
    "skyreels_v2": (tiny_skyreels, (9, 16, 16)),
    "ltx": (_ltx, (9, 32, 32)),
    "ltx2": (tiny_ltx2, (9, 32, 32)),
    "ltx2.3": (_ltx23, (9, 32, 32)),
    "cogvideox": (tiny_cogvideox, (9, 16, 16)),
    "cogvideox1.5": (_cogvideox15, (9, 16, 16)),
    "animatediff": (_animatediff, (4, 16, 16)),
    "animatediff_xl": (_animatediff_xl, (4, 16, 16)),
    "hunyuan_video": (_hunyuan_video, (9, 16, 16)),
    "hunyuan_video1.5": (tiny_hunyuan_video15, (9, 16, 16)),
}
"""Name -> builder, and `(frames, height, width)` of its tiny video."""
