"""Share of the card's matrix ceiling that training reaches.

    python -m benchmarks.generator.training_efficiency --device cuda

The ceiling is measured: the best of square bfloat16 matrix products. Training runs the whole recipe of `vidalign
pretrain` (data from the pool, text encoder, loss, clipping, optimiser, average); only the operations of the
transformer's blocks count, three times those of the forward pass, none twice.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.generator.short_training import Clips, collect, encode, new_pipeline, rows_from_pool, train
from generator import load_generator
from generator.pretraining.config import PretrainConfig
from generator.pretraining.latent_pool import LatentPool


def forward_operations(blocks: nn.Module, segments: Sequence[int]) -> float:
    """Floating-point operations of the blocks' matrix products for clips of these numbers of tokens.

    Two for each weight of a linear layer and token, and 4 d n² for full attention of width d among n tokens.
    """
    linear = sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Linear))
    attention = sum(m.to_q.out_features for m in blocks.modules() if hasattr(m, "to_q"))
    return 2.0 * linear * sum(segments) + 4.0 * attention * sum(n * n for n in segments)


def matrix_ceiling(device: torch.device, sizes: Sequence[int], seconds: float) -> float:
    """Operations a second of the best square matrix product."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        a @ b
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / len(sizes):
            for _ in range(8):
                a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 8
        best = max(best, 2.0 * size**3 * count / (time.perf_counter() - start))
    return best


def efficiency(
    config: PretrainConfig,
    vae: Any,
    clips: Clips,
    pool: LatentPool,
    device: torch.device,
    warmup: float,
    seconds: float,
) -> dict[str, float]:
    """Tokens and operations a second of training with `config`; `warmup` seconds more come first and do not count."""
    pipeline = new_pipeline(config, vae, device)
    rows = rows_from_pool(pool, clips.stream, pipeline, config, lambda: 0.0)
    operations = tokens = 0.0
    for _ in range(8):  # the mean row: operations of a token depend on the length of its clip
        ends = rows.draw().layout.full.query_ends.diff().tolist()
        operations += 3 * forward_operations(pipeline.transformer.blocks, ends)
        tokens += sum(ends)
    run = train(pipeline, config, pool, clips.stream, device, warmup + seconds)
    late = [seconds for seconds in run.times if seconds >= warmup]
    per_second = (len(late) - 1) * config.transformer_tokens / (late[-1] - late[0])
    return {"tokens_per_second": per_second, "operations_per_second": per_second * operations / tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 384, 512, 768])
    parser.add_argument("--num_layers", type=int, default=13)
    parser.add_argument(
        "--tokens", type=int, default=32_768, help="Tokens of a batch, which is one packed row."
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="That are timed.")
    parser.add_argument(
        "--warmup", type=float, default=30.0, help="Seconds before, for compiling; a quarter without."
    )
    parser.add_argument("--compile", action="store_true", help="Also with torch.compile of the blocks.")
    parser.add_argument("--collect_seconds", type=float, default=15.0)
    parser.add_argument("--batches", type=int, default=500, help="Batches of scenes, at most.")
    parser.add_argument("--num_workers", type=int, default=12)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    sizes = (4096, 8192) if device.type == "cuda" else (512,)
    ceiling = matrix_ceiling(device, sizes, 2.0)
    print(f"ceiling of matrix products: {ceiling / 1e12:.3g} TFLOP/s\n", flush=True)
    config = PretrainConfig(
        output_dir="",
        transformer_tokens=arguments.tokens,
        num_layers=arguments.num_layers,
        num_workers=arguments.num_workers,
        pack=True,
    )
    generator = load_generator("nano", device=device)
    least = min(24 if device.type == "cuda" else 8, arguments.batches)
    clips = collect(
        generator.pipeline.tokenizer,
        config,
        arguments.collect_seconds,
        min(least, arguments.batches),
        arguments.batches,
    )
    pool = encode(clips, generator.pipeline, config, device)
    rows = []
    print(
        "| width | blocks compiled | tokens a second | TFLOP/s | share of the ceiling |\n|---|---|---|---|---|"
    )
    for width in arguments.widths:
        for compiled in (False, True) if arguments.compile else (False,):
            changed = replace(config, hidden_size=width, compile_blocks=compiled)
            seconds = (arguments.warmup if compiled else arguments.warmup / 4, arguments.seconds)
            found = efficiency(changed, generator.pipeline.vae, clips, pool, device, *seconds)
            share = found["operations_per_second"] / ceiling
            rows.append({"width": width, "compiled": compiled, "share": share, **found})
            print(
                f"| {width} | {'yes' if compiled else 'no'} | {found['tokens_per_second']:,.0f} | "
                f"{found['operations_per_second'] / 1e12:.3g} | {share:.1%} |",
                flush=True,
            )
    if arguments.output:
        arguments.output.write_text(json.dumps({"ceiling": ceiling, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
