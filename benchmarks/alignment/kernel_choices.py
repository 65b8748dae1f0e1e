"""Seconds of the parts of a PPO iteration on Wan by attention kernel and by decoding setting.

    python -m benchmarks.alignment.kernel_choices                    # on a GPU
    python -m benchmarks.alignment.kernel_choices --tiny             # on a CPU

Random weights of Wan 2.1 1.3B, 33 frames of 240x416, eager mode: in each setting a guided call of 8 videos without
gradients, as sampling makes it, one of a step with LoRA's gradients, and decoding 8 videos. The second of two counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignment.lora import LoraArguments, add_lora
from benchmarks.alignment.engine_modes import add_to
from benchmarks.alignment.random_wan import PROMPTS, TINY_SIZE, build_generator
from generator.families.wan import WanGenerator
from generator.inputs.conditions import repeat

SIZE = (33, 240, 416)
BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3")
DECODING = ("as it is", "cudnn.benchmark", "channels last", "channels last, cudnn.benchmark", "compiled")


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, float | None]:
    """Seconds of the second of two calls, and its peak memory in GB (None without a GPU)."""
    seconds = 0.0
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def calls_of(generator: WanGenerator, latents: Tensor) -> dict[str, Callable[[], Any]]:
    """A call as sampling makes it, and one of a step of the update with its backward pass."""
    conditions = generator.encode_prompts(PROMPTS[:1])

    def velocity(rows: int) -> Tensor:
        sigma = torch.full((rows,), 0.7, device=latents.device)
        given = latents[:1].expand(rows, *latents.shape[1:])
        with torch.autocast(latents.device.type, torch.bfloat16):
            return generator.velocity(given, sigma, repeat(conditions, rows))

    def sampling() -> None:
        with torch.no_grad():
            velocity(2 * len(latents))

    return {
        f"sampling, {2 * len(latents)} rows": sampling,
        "update, 2 rows": lambda: velocity(2).square().mean().backward(),
    }


def prepare_decoding(generator: WanGenerator, setting: str, plain: Callable[..., Any]) -> None:
    """Puts the autoencoder into one of `DECODING`; `plain`: its decoder's own forward."""
    vae = generator.pipeline.vae
    torch.backends.cudnn.benchmark = "cudnn.benchmark" in setting
    for parameter in vae.parameters():
        if parameter.dim() == 5:
            last = "channels last" in setting
            layout = torch.channels_last_3d if last else torch.contiguous_format
            parameter.data = parameter.data.contiguous(memory_format=layout)
    vae.decoder.forward = torch.compile(plain, dynamic=False) if setting == "compiled" else plain


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--lora_r", type=int, default=64)
    parser.add_argument("--json", help="Append the figures to this file, a line a setting.")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = build_generator("tiny" if arguments.tiny else "1.3B", device, dtype)
    size = TINY_SIZE if arguments.tiny else SIZE
    latents = torch.randn(arguments.videos, *generator.latent_shape(*size), device=device)
    decoder = generator.pipeline.vae.decoder.forward
    print("| part | setting | s | peak GB |\n|---|---|---|---|", flush=True)

    def show(part: str, setting: str, call: Callable[[], Any]) -> None:
        found: dict[str, Any] = {"part": part, "setting": setting}
        try:
            found["seconds"], found["peak"] = timed(call, device)
        except Exception as error:  # a kernel that this machine lacks
            found["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        figures = found.get("failed") or f"{found['seconds']:.3f} | {found['peak'] or 0:.1f}"
        print(f"| {part} | {setting} | {figures} |", flush=True)
        add_to(arguments.json, found)

    for setting in DECODING:
        prepare_decoding(generator, setting, decoder)
        show(f"decoding, {arguments.videos} videos", setting, lambda: generator.decode(latents))
    add_lora(generator, LoraArguments(lora_r=arguments.lora_r), seed=0)
    for backend in BACKENDS:
        try:
            generator.set_attention_backend(backend)
        except Exception as error:  # a kernel that this machine lacks
            print(f"| attention | {backend} | {str(error).splitlines()[0]} |", flush=True)
            continue
        for part, call in calls_of(generator, latents).items():
            show(part, backend, call)


if __name__ == "__main__":
    main()
