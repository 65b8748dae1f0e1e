"""Wan with random weights of the published sizes, made on the device in a second or two; nothing is downloaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from generator.families.wan import WanGenerator
from generator.hardware.offloading import offload_linear_layers
from generator.loading import quantization_options
from generator.native.text_encoder import build_tokenizer

WAN_1_3B: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
"""`transformer/config.json` of Wan-AI/Wan2.1-T2V-1.3B-Diffusers."""

WAN_14B = {**WAN_1_3B, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
"""`transformer/config.json` of Wan-AI/Wan2.1-T2V-14B-Diffusers, and of both experts of Wan2.2-T2V-A14B-Diffusers."""

WAN_TINY = {
    **WAN_1_3B,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
}

ARCHITECTURES = {
    "1.3B": WAN_1_3B,
    "14B": WAN_14B,
    "A14B": WAN_14B,
    "tiny": WAN_TINY,
    "tiny-A14B": WAN_TINY,
}
BOUNDARY = 0.875
"""Noise level at which the first expert of Wan 2.2 A14B hands over to the second, by `model_index.json`."""

PROMPTS = ["a red circle moves left on the dark background", "a blue square moves right"]
TINY_SIZE = (5, 16, 32)
"""Frames, height and width with `--tiny`: 16 tokens."""


@contextmanager
def _made_as(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside, modules are made on the device, and in a type, at once: 14B in float32 would take 57 GB before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _transformer(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    with _made_as(device, dtype):
        transformer: Any = WanTransformer3DModel(**config)
    for name, value in [*transformer.named_parameters(), *transformer.named_buffers()]:
        if any(part in name for part in transformer._keep_in_fp32_modules):
            value.data = value.data.float()
    return transformer


def build_generator(
    architecture: str,
    device: torch.device,
    dtype: torch.dtype,
    offload_weights: bool = False,
    quantization: str | None = None,
) -> WanGenerator:
    """A Wan generator with random weights of `ARCHITECTURES[architecture]`, its parts in the types that
    `load_generator` gives them.

    Its text encoder is a stand-in of the same width: prompts are encoded once before the first iteration.

    Args:
        offload_weights, quantization: as in `load_generator`.

    Raises:
        InputError: bitsandbytes or a GPU is missing for `quantization`.
    """
    torch.manual_seed(0)
    config = ARCHITECTURES[architecture]
    tiny, experts = architecture.startswith("tiny"), architecture.endswith("A14B")
    options = quantization_options(quantization, "WanPipeline", dtype)
    vae_config = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} if tiny else {}
    tokenizer = build_tokenizer(sorted({word for prompt in PROMPTS for word in prompt.split()}))
    tokenizer.model_max_length = 512
    encoder = UMT5Config(
        vocab_size=len(tokenizer), d_model=config["text_dim"], d_kv=8, d_ff=64, num_layers=1, num_heads=4
    )
    transformers = [_transformer(config, device, dtype) for _ in range(2 if experts else 1)]
    with device:
        vae = AutoencoderKLWan(**vae_config).to(dtype)
        text_encoder = UMT5EncoderModel(encoder).to(dtype)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformers[0],
        scheduler=scheduler,
        **({"transformer_2": transformers[1], "boundary_ratio": BOUNDARY} if experts else {}),
    )
    pipeline.set_progress_bar_config(disable=True)
    for module in (*transformers, vae, text_encoder):
        module.requires_grad_(False).eval()
    if options:
        for module in transformers:
            quantise(module, options["quantization_config"].quant_mapping["transformer"], device)
    generator = WanGenerator(pipeline, f"Wan {architecture}, random weights")
    if offload_weights:
        offload_linear_layers(generator.blocks())
    return generator


def quantise(transformer: Any, config: Any, device: torch.device) -> None:
    """Gives a transformer the quantised linear layers that diffusers makes while it reads weights from files.

    Args:
        config: diffusers' `BitsAndBytesConfig`.
    """
    import bitsandbytes
    from diffusers.quantizers.bitsandbytes import replace_with_bnb_linear

    weights = {name: m.weight.data for name, m in transformer.named_modules() if type(m) is nn.Linear}
    biases = {name: m.bias for name, m in transformer.named_modules() if name in weights}
    replace_with_bnb_linear(transformer, list(transformer._keep_in_fp32_modules), quantization_config=config)
    for name, module in transformer.named_modules():
        if not isinstance(module, bitsandbytes.nn.Linear8bitLt | bitsandbytes.nn.Linear4bit):
            continue
        kind = type(module.weight)
        given = {"has_fp16_weights": False} if kind is bitsandbytes.nn.Int8Params else module.weight.__dict__
        module.weight = kind(weights.pop(name).cpu(), requires_grad=False, **given).to(device)
        module.bias = biases[name]
    transformer.is_quantized = True
    transformer.is_loaded_in_8bit = bool(config.load_in_8bit)
    transformer.is_loaded_in_4bit = bool(config.load_in_4bit)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags with which a model of random weights is asked for."""
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="1.3B")
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--offload_weights", action="store_true", help="Blocks' weights on the host.")
    parser.add_argument("--activation_offloading", action="store_true", help="Activations on the host.")
    parser.add_argument("--quantization", choices=["8bit", "4bit"], help="Needs bitsandbytes.")


def tiny_architecture(architecture: str) -> str:
    """The architecture that stands in for another with `--tiny`."""
    return "tiny-A14B" if architecture.endswith("A14B") else "tiny"


def pretend_accelerator() -> None:
    """Lets processes of a CPU share out tokens, to try that out: diffusers divides by the number of GPUs."""
    if torch.accelerator.device_count() == 0:
        torch.accelerator.device_count = lambda: 1
