"""Forecast against measured memory of training steps on Wan's architecture.

    python -m benchmarks.alignment.memory_forecast

Without a GPU only the forecasts are printed. With one, each setting runs two optimiser steps of LoRA training with
random weights in eager mode, and the largest memory that PyTorch allocated stands beside the forecast.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from alignment.lora import LoraArguments, add_lora
from alignment.memory.forecast import Work, forecast
from alignment.trainers.base_trainer import Policy, evenly_spread
from benchmarks.alignment.ppo_iteration import ARCHITECTURES, PROMPTS, build_generator
from generator.families.wan import WanGenerator
from generator.inputs.conditions import repeat

SETTINGS: list[tuple[str, Work]] = [
    ("1.3B", Work("sft", 33, 240, 416, batch=1, lora_r=64)),
    ("1.3B", Work("sft", 33, 240, 416, batch=4, lora_r=64)),
    ("1.3B", Work("sft", 33, 240, 416, batch=1, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("sft", 33, 240, 416, batch=8, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("sft", 33, 240, 416, batch=2, lora_r=64, checkpointed_share=0.5)),
    ("1.3B", Work("dpo", 33, 240, 416, batch=1, lora_r=64)),
    ("1.3B", Work("dpo", 33, 240, 416, batch=2, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("sft", 81, 480, 832, batch=1, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("generate", 33, 240, 416, batch=8, decode_batch=0)),
    ("1.3B", Work("generate", 33, 240, 416, batch=1, decode_batch=1)),
    ("1.3B", Work("generate", 33, 240, 416, batch=1, decode_batch=1, tiling=True)),
    ("14B", Work("sft", 81, 480, 832, batch=1, lora_r=64, checkpointed_share=1.0)),
]
TINY = [
    ("tiny", Work("generate", 5, 16, 32, batch=1, decode_batch=1, tiling=True)),
    ("tiny", Work("sft", 5, 16, 32, batch=1)),
    ("tiny", Work("dpo", 5, 16, 32, batch=1, checkpointed_share=1.0)),
]


def write_configurations(architecture: str, folder: Path) -> Path:
    """The pipeline's configurations alone, as a download without weights has them."""
    generator = build_generator(architecture, torch.device("meta"), torch.bfloat16)
    pipeline = generator.pipeline
    for name in ("transformer", "vae", "scheduler"):
        getattr(pipeline, name).save_config(folder / name)
    index: dict[str, Any] = {
        name: ["diffusers", type(getattr(pipeline, name)).__name__]
        for name in ("transformer", "vae", "scheduler")
    }
    index |= {"_class_name": "WanPipeline", "text_encoder": [None, None], "tokenizer": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def measured(architecture: str, work: Work) -> tuple[int, float]:
    """Peak bytes allocated and seconds of the second of two steps."""
    device = torch.device("cuda")
    generator = build_generator(architecture, device, torch.bfloat16)
    if work.method == "generate":
        return _generated(generator, work)
    branches = 2 if work.method == "dpo" else 1
    batch = work.batch * branches
    conditions = repeat(generator.encode_prompts(PROMPTS[:1]), batch)
    generator.pipeline.text_encoder.to("cpu")
    add_lora(generator, LoraArguments(lora_r=work.lora_r), seed=0)
    chosen = None
    if work.checkpointed_share < 1:
        chosen = evenly_spread(generator.blocks(), work.checkpointed_share)
    policy = Policy(generator.transformer, checkpointed=chosen)
    if work.checkpointed_share:
        policy.gradient_checkpointing_enable()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    for _ in range(2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        latents = torch.randn(batch, *shape, device=device)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            velocity = generator.velocity(
                latents, torch.full((batch,), 0.7, device=device), conditions, policy
            )
            loss = velocity.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), time.perf_counter() - start


def _method(work: Work) -> str:
    if work.method != "generate":
        return work.method
    decoding = (
        f", {work.decode_batch} decoded" + (" in tiles" if work.tiling else "") if work.decode_batch else ""
    )
    return f"a step of sampling{decoding}"


@torch.no_grad()
def _generated(generator: WanGenerator, work: Work) -> tuple[int, float]:
    """The same of one guided step of the sampler, and of decoding `work.decode_batch` videos."""
    if work.tiling:
        generator.save_decoding_memory()
    rows = 2 * work.batch
    conditions = repeat(generator.encode_prompts(PROMPTS[:1]), rows)
    generator.pipeline.text_encoder.to("cpu")
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    for _ in range(2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        latents = torch.randn(rows, *shape, device=generator.device)
        generator.velocity(latents, torch.full((rows,), 0.7, device=generator.device), conditions)
        if work.decode_batch:
            generator.decode(latents[: work.decode_batch])
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="Two tiny settings, for a CPU.")
    parser.add_argument(
        "--architecture", choices=sorted(ARCHITECTURES), help="Only the settings of this one."
    )
    arguments = parser.parse_args()
    settings = TINY if arguments.tiny else SETTINGS
    print("| model | method | size | batch | checkpointed | forecast GB | measured GB | error | s a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for architecture, work in settings:
        if arguments.architecture not in (None, architecture):
            continue
        with tempfile.TemporaryDirectory() as folder:
            expected = forecast(write_configurations(architecture, Path(folder)), work).peak / 1e9
        found, seconds = "–", "–"
        error = "–"
        if torch.cuda.is_available():
            try:
                peak, took = measured(architecture, work)
                found, seconds, error = (
                    f"{peak / 1e9:.1f}",
                    f"{took:.2f}",
                    f"{expected * 1e9 / peak - 1:+.0%}",
                )
            except torch.cuda.OutOfMemoryError:
                found = "out of memory"
            gc.collect()
            torch.cuda.empty_cache()
        print(
            f"| Wan {architecture} | {_method(work)} | {work.num_frames} x {work.height} x {work.width} | {work.batch} "
            f"| {work.checkpointed_share:.0%} | {expected:.2f} | {found} | {error} | {seconds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
