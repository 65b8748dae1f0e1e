"""Forecast against measured memory of training steps on Wan's architectures.

    python -m benchmarks.alignment.memory_forecast                      # on one GPU
    python -m benchmarks.alignment.memory_forecast --num_processes 2    # context parallelism, on two
    python -m benchmarks.alignment.memory_forecast --only 14B           # settings with this in their name

Without a GPU only the forecasts are printed. With one, each setting runs a step of LoRA training with random weights in
eager mode (two of 1.3B), and the largest memory that PyTorch allocated stands beside the forecast. Settings that share
tokens run as `--num_processes` processes; the first one's memory counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alignment.lora import LoraArguments, add_lora
from alignment.memory.forecast import Work
from alignment.trainers.base_trainer import Policy, evenly_spread
from benchmarks.alignment.engine_modes import add_to, run_mode
from benchmarks.alignment.forecasts import forecast_gb
from benchmarks.alignment.random_wan import PROMPTS, build_generator, pretend_accelerator
from generator.families.wan import WanGenerator
from generator.hardware.context_parallel import ContextGroup
from generator.inputs.conditions import repeat
from generator.output import InputError

SMALL, LARGE = (33, 240, 416), (81, 480, 832)


def _large(method: str, **more: Any) -> Work:
    ppo = {"rollout_batch": 1, "decode_batch": 1, "tiling": True} if method == "ppo" else {}
    return Work(method, *LARGE, lora_r=64, checkpointed_share=1.0, **ppo, **more)


SETTINGS: list[tuple[str, Work]] = [
    ("1.3B", Work("sft", *SMALL, batch=1, lora_r=64)),
    ("1.3B", Work("sft", *SMALL, batch=4, lora_r=64)),
    ("1.3B", Work("sft", *SMALL, batch=1, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("sft", *SMALL, batch=8, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("sft", *SMALL, batch=2, lora_r=64, checkpointed_share=0.5)),
    ("1.3B", Work("dpo", *SMALL, batch=1, lora_r=64)),
    ("1.3B", Work("dpo", *SMALL, batch=2, lora_r=64, checkpointed_share=1.0)),
    ("1.3B", Work("ppo", *SMALL, lora_r=64)),
    ("1.3B", Work("ppo", *SMALL, lora_r=64, unconditional_gradient=False)),
    ("1.3B", _large("sft")),
    ("1.3B", Work("generate", *SMALL, batch=8, decode_batch=0)),
    ("1.3B", Work("generate", *SMALL, batch=1, decode_batch=1)),
    ("1.3B", Work("generate", *SMALL, batch=1, decode_batch=1, tiling=True)),
    ("14B", _large("sft")),
    ("14B", _large("sft", offload_weights=True)),
    ("14B", _large("sft", quantization="8bit")),
    ("14B", _large("dpo")),
    ("14B", _large("ppo", offload_weights=True)),
]
SHARED: list[tuple[str, Work]] = [
    ("1.3B", _large("sft")),
    ("14B", _large("sft")),
    ("14B", _large("dpo")),
]
"""Settings whose tokens are shared out."""
TINY: list[tuple[str, Work]] = [
    ("tiny", Work("ppo", 5, 16, 32, rollout_batch=2, decode_batch=1)),
    ("tiny", Work("sft", 5, 16, 32, offload_weights=True, checkpointed_share=1.0)),
    ("tiny", Work("generate", 5, 16, 32, batch=1, decode_batch=1, tiling=True)),
    ("tiny", Work("sft", 5, 16, 32, batch=1)),
    ("tiny", Work("dpo", 5, 16, 32, batch=1, checkpointed_share=1.0)),
]


TINY_SHARED = [("tiny", Work("sft", 5, 16, 32, checkpointed_share=1.0))]


@dataclass
class Setting:
    """A setting.

    Attributes:
        architecture: of `random_wan.ARCHITECTURES`.
        work: of each process.
    """

    architecture: str
    work: Work

    @property
    def name(self) -> str:
        """Words for what is done, by which `--only` chooses."""
        work = self.work
        parts = [f"{self.architecture} {work.method}", f"{work.num_frames} x {work.height} x {work.width}"]
        parts += [f"batch {work.batch}"]
        parts += [f"{work.checkpointed_share:.0%} checkpointed"] if work.checkpointed_share else []
        if work.method in ("ppo", "generate"):
            parts += [f"{work.decode_batch} decoded" + (" in tiles" if work.tiling else "")]
        parts += [f"{work.rollout_batch} sampled"] if work.method == "ppo" else []
        parts += ["conditional branch alone"] if not work.unconditional_gradient else []
        parts += ["offloaded"] if work.offload_weights else []
        parts += [work.quantization] if work.quantization else []
        parts += [f"shared by {work.context_parallel}"] if work.context_parallel > 1 else []
        return ", ".join(parts)


def chosen_settings(only: str | None, tiny: bool, processes: int) -> list[Setting]:
    """The settings with `only` in their name, or all tiny ones; with several processes, those that share tokens."""
    if processes > 1:
        of_several = TINY_SHARED if tiny else SHARED
        settings = [Setting(name, replace(work, context_parallel=processes)) for name, work in of_several]
    else:
        settings = [Setting(*each) for each in (TINY if tiny else SETTINGS)]
    return [each for each in settings if tiny or only is None or only in each.name]


def measured(setting: Setting) -> tuple[int, float]:
    """Peak bytes allocated in the largest part of a step, and seconds of its last run."""
    work, device = setting.work, _device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = build_generator(setting.architecture, device, dtype, work.offload_weights, work.quantization)
    if work.tiling:
        generator.save_decoding_memory()
    conditions = generator.encode_prompts(PROMPTS[:1])
    generator.pipeline.text_encoder.to("cpu")
    if work.method == "generate":
        return _sampled(generator, conditions, work, work.batch)
    peak, seconds, _optimizer = _updated(generator, conditions, setting)  # whose averages stay
    if work.method == "ppo":
        peak = max(peak, _sampled(generator, conditions, work, work.rollout_batch)[0])
    return peak, seconds


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _updated(
    generator: WanGenerator, conditions: Any, setting: Setting
) -> tuple[int, float, torch.optim.Optimizer]:
    """The same of the update: of two on a small model, of which the first warms up, else of one; and its optimiser."""
    work, device = setting.work, generator.device
    both = work.method == "dpo" or (work.method == "ppo" and work.guided and work.unconditional_gradient)
    batch = work.batch * (2 if both else 1)
    conditions = repeat(conditions, batch)
    add_lora(generator, LoraArguments(lora_r=work.lora_r), seed=0)
    if work.context_parallel > 1:
        ContextGroup(work.context_parallel, device).share_tokens(generator)
    chosen = None
    if work.checkpointed_share < 1:
        chosen = evenly_spread(generator.blocks(), work.checkpointed_share)
    policy = Policy(generator.transformer, checkpointed=chosen)
    if work.checkpointed_share:
        policy.gradient_checkpointing_enable()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=device.type == "cuda")
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its averages
    optimizer.zero_grad()
    random = torch.Generator(device).manual_seed(0)
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    for _ in range(1 if setting.architecture.endswith("14B") else 2):
        start = _clock(device)
        _forget_peak(device)
        latents = torch.randn(batch, *shape, device=device, generator=random)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            velocity = generator.velocity(
                latents, torch.full((batch,), 0.7, device=device), conditions, policy
            )
            loss = velocity.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        end = _clock(device)
    return _peak(device), end - start, optimizer


@torch.no_grad()
def _sampled(generator: WanGenerator, conditions: Any, work: Work, videos: int) -> tuple[int, float]:
    """The same of one guided step of the sampler, and of decoding `work.decode_batch` videos."""
    rows, device = 2 * videos, generator.device
    conditions = repeat(conditions, rows)
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    for _ in range(2):
        start = _clock(device)
        _forget_peak(device)
        latents = torch.randn(rows, *shape, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=work.method == "ppo"):
            generator.velocity(latents, torch.full((rows,), 0.7, device=device), conditions)
        if work.decode_batch:
            generator.decode(latents[: work.decode_batch])
        end = _clock(device)
    return _peak(device), end - start


def result(setting: Setting, measures: bool) -> dict[str, Any]:
    """Forecast and, where `measures`, measured peak in GB, and seconds of a step."""
    found: dict[str, Any] = {"setting": setting.name, "forecast": None, "peak": None, "failed": ""}
    if _is_first():
        found["forecast"] = forecast_gb(setting.architecture, setting.work)
    if not measures:
        return found
    try:
        peak, found["seconds"] = measured(setting)
        found["peak"] = peak / 1e9 or None
    except torch.cuda.OutOfMemoryError:
        found["failed"] = "out of memory"
    except InputError as error:
        found["failed"] = str(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    peak, seconds = found["peak"], found.get("seconds")
    error = f"{found['forecast'] / peak - 1:+.0%}" if peak else "–"
    shown = found["failed"] or ("–" if peak is None else f"{peak:.2f}")
    return (
        f"| {found['setting']} | {found['forecast']:.2f} | {shown} | {error} "
        f"| {'–' if seconds is None else f'{seconds:.2f}'} |"
    )


def worker(arguments: argparse.Namespace, settings: list[Setting]) -> None:
    """Measures settings in this process, one of several where it was started so."""
    measures = torch.cuda.is_available() or arguments.tiny
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(_device())
        else:
            pretend_accelerator()
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    found = []
    for setting in settings:
        found.append(result(setting, measures))
        if _is_first():
            print(row(found[-1]), flush=True)
            if arguments.several:  # for the process that has started this one
                Path(arguments.json).write_text(json.dumps(found), encoding="utf-8")
            else:
                add_to(arguments.json, found[-1])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="Tiny settings, which run on a CPU too.")
    parser.add_argument("--only", help="Only settings with this in their name, for example 14B or dpo.")
    parser.add_argument("--num_processes", type=int, default=1, help="Above 1: that share out tokens.")
    parser.add_argument("--json", help="Append the figures to this file, a line a setting.")
    parser.add_argument("--several", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = chosen_settings(arguments.only, arguments.tiny, arguments.num_processes)
    if arguments.several:
        worker(arguments, settings)
        return
    print("| setting | forecast GB | measured GB | error | s a step |\n|---|---|---|---|---|", flush=True)
    if arguments.num_processes == 1:
        worker(arguments, settings)
        return
    words = ["--several", "--num_processes", str(arguments.num_processes)]
    words += ["--tiny"] if arguments.tiny else []
    words += ["--only", arguments.only] if arguments.only else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "shared.json"
        done = run_mode(__file__, "multi_gpu", arguments.num_processes, words, report)
    for found in done.get("results", []):
        print(row(found), flush=True)
        add_to(arguments.json, found)
    if "failed" in done:
        print(f"{done['failed']}:\n{done['said']}", flush=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
