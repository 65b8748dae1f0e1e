"""Forecasts of GPU memory against what the allocator was asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from alignment.memory.forecast import forecast, is_native
from alignment.memory.plan import ALLOWANCE
from alignment.memory.work import Work
from alignment.proof.adapters import RANK
from alignment.proof.result import Result
from alignment.proof.subject import Subject
from generator.inputs.conditions import select

LARGEST_SHARE = 1 / (1 - ALLOWANCE)
"""Of the forecast: beyond it, what `doctor` says fits a GPU would not."""
SAMPLING = "peak memory of sampling one video as a share of its forecast"
UPDATE = "peak memory of a step of LoRA as a share of its forecast"


def why_not_measured(subject: Subject, folder: Path) -> str:
    """Reason why there is nothing to compare; empty where there is."""
    if subject.generator.device.type != "cuda":
        return "not measured: the model is not on a GPU"
    if is_native(folder):
        return "not measured: the built-in model's forecast is for the CPU"
    if subject.generator.dtype != torch.bfloat16:
        return "not measured: forecasts are for weights in bfloat16"
    return ""


def check_sampling_memory(subject: Subject, folder: Path) -> list[Result]:
    """Sampling and decoding of one video, without the text encoder; to be run before an adapter is added."""
    reason = why_not_measured(subject, folder)
    if reason:
        return [Result("memory", SAMPLING, note=reason)]
    guided = subject.guidance_scale != 1
    work = Work("generate", *subject.size, batch=1, decode_batch=1, guided=guided)

    def sample() -> None:
        latents = subject.sample([0])
        subject.generator.decode(latents.to(subject.generator.device))

    return [memory_result(SAMPLING, measured_peak(subject, sample), forecast(folder, work).peak)]


def check_update_memory(subject: Subject, folder: Path) -> list[Result]:
    """Two steps of AdamW on the adapter that the transformer has, with all activations kept."""
    reason = why_not_measured(subject, folder)
    if reason:
        return [Result("memory", UPDATE, note=reason)]
    generator, noise = subject.generator, subject.noise[:1]
    conditions, sigma = select(subject.conditions, [0]), noise.new_full((1,), 0.5)
    work = Work("sft", *subject.size, batch=1, lora_r=RANK)

    def train() -> None:
        trained = [weight for weight in generator.transformer.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.0)
        for _ in range(2):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = generator.velocity(noise, sigma, conditions).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return [memory_result(UPDATE, measured_peak(subject, train), forecast(folder, work).peak)]


def measured_peak(subject: Subject, work: Callable[[], None]) -> int:
    """Most bytes that were allocated on the GPU at a time during `work`, with what lay there before."""
    device = subject.generator.device
    subject.generator.release_text_encoder()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def memory_result(what: str, measured: int, expected: int) -> Result:
    """The measured peak as a share of the forecast."""
    note = f"{measured / 1e9:.2f} GB measured, {expected / 1e9:.2f} GB forecast"
    return Result("memory", what, measured / expected, LARGEST_SHARE, note)
