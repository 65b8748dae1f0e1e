"""Profile of a GPU: seconds of kernels by kind, and the share of time in which none runs."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignment.lora import adapters_disabled
from alignment.trainers.ppo_trainer import PPOTrainer

KINDS = (
    ("communication", r"nccl"),
    ("attention", r"flash|fmha|sdpa|attention"),
    ("convolution", r"conv|fprop|dgrad|wgrad|winograd|im2col|vol2col"),
    ("matrix product", r"gemm|nvjet|cutlass|matmul|splitk|\bmm\b|cublas|addmm|linear"),
    ("copy and cast", r"memcpy|memset|copy|catarray|\bcat\b|_to_copy"),
    ("norm", r"norm"),
    ("compiled elementwise", r"^triton_"),
    ("elementwise", r"elementwise|vectorized|reduce|mul|add|fill"),
)
"""Kinds of kernels, of which the first that matches a name counts; LoRA's products are matrix products too."""
OTHER = "other"


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran; both times in seconds."""

    name: str
    start: float
    seconds: float


@dataclass(frozen=True)
class Part:
    """A part of the measured time, of which the GPU had finished what came before; both times in seconds."""

    name: str
    start: float
    end: float


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    lowered = name.lower()
    return next((kind for kind, pattern in KINDS if re.search(pattern, lowered)), OTHER)


def busy_seconds(kernels: Iterable[Kernel]) -> float:
    """Seconds in which at least one of the kernels ran."""
    busy, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda each: each.start):
        end = kernel.start + kernel.seconds
        busy += max(0.0, end - max(kernel.start, until))
        until = max(until, end)
    return busy


def divided(kernels: Iterable[Kernel], parts: Sequence[Part]) -> dict[str, list[Kernel]]:
    """The kernels of each part, by the innermost part that they began in; those outside of all are left out."""
    found: dict[str, list[Kernel]] = {part.name: [] for part in parts}
    inner_first = sorted(parts, key=lambda part: part.end - part.start)
    for kernel in kernels:
        own = next((part for part in inner_first if part.start <= kernel.start < part.end), None)
        if own is not None:
            found[own.name].append(kernel)
    return found


def wall_seconds(parts: Sequence[Part]) -> dict[str, float]:
    """Seconds of each part, without those of the parts inside it."""
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        inside = [other for other in parts if part != other and _within(other, part)]
        outer = [
            each for each in inside if not any(_within(each, other) for other in inside if each != other)
        ]
        seconds[part.name] += part.end - part.start - sum(each.end - each.start for each in outer)
    return dict(seconds)


def _within(inner: Part, outer: Part) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def profile_text(kernels: Sequence[Kernel], parts: Sequence[Part], top: int = 20) -> str:
    """Tables of kinds of kernels in each part, of idle time, and of the `top` kernels by time."""
    by_part, seconds = divided(kernels, parts), wall_seconds(parts)
    kinds = [*(kind for kind, _ in KINDS), OTHER]
    lines = [f"| part | s | no kernel runs | kernels | µs a kernel | {' | '.join(kinds)} |"]
    lines.append("|---" * (5 + len(kinds)) + "|")
    for name, own in by_part.items():
        wall, busy = seconds[name], busy_seconds(own)
        spent: Counter[str] = Counter()
        for kernel in own:
            spent[kind_of(kernel.name)] += kernel.seconds
        mean = 1e6 * sum(kernel.seconds for kernel in own) / max(1, len(own))
        shares = " | ".join(f"{spent[kind]:.2f}" for kind in kinds)
        idle = max(0.0, 1 - busy / max(wall, 1e-9))
        lines.append(f"| {name} | {wall:.2f} | {idle:.0%} | {len(own)} | {mean:.1f} | {shares} |")
    lines += ["", "| kernel | kind | calls | s |", "|---|---|---|---|"]
    calls: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for own in by_part.values():
        for kernel in own:
            calls[kernel.name] += 1
            total[kernel.name] += kernel.seconds
    for name, spent_seconds in total.most_common(top):
        shown = name.replace("|", "/")[:100]
        lines.append(f"| `{shown}` | {kind_of(name)} | {calls[name]} | {spent_seconds:.3f} |")
    lost = len(kernels) - sum(map(len, by_part.values()))
    lines += ["", f"{lost} of {len(kernels)} kernels lie outside of the parts."] if lost else []
    return "\n".join(lines) + "\n"


class Recorder:
    """Records what runs on the GPU between `begin` and `end`; on a CPU, the operators in place of kernels.

    Operators of the CPU are not recorded beside a GPU, since that would slow down the launches that are looked for.
    """

    def __init__(self, device: torch.device) -> None:
        kind = torch.profiler.ProfilerActivity
        self.on_gpu = device.type == "cuda"
        self._profile: Any = torch.profiler.profile(activities=[kind.CUDA if self.on_gpu else kind.CPU])
        self.parts: list[Part] = []
        self.running = False

    def begin(self) -> None:
        """Starts to record."""
        self._profile.start()
        self.running = True

    def note(self, name: str, start_ns: int, end_ns: int) -> None:
        """Remembers a part by the times, of `time.time_ns`, at which it began and ended."""
        if self.running:
            self.parts.append(Part(name, start_ns / 1e9, end_ns / 1e9))

    def end(self) -> None:
        """Stops recording."""
        self.running = False
        self._profile.stop()

    def kernels(self) -> list[Kernel]:
        """Kernels that ran, in no order."""
        wanted = torch.autograd.DeviceType.CUDA if self.on_gpu else torch.autograd.DeviceType.CPU
        return [
            Kernel(event.name(), event.start_ns() / 1e9, event.duration_ns() / 1e9)
            for event in self._profile.profiler.kineto_results.events()
            if event.device_type() == wanted and not getattr(event, "is_user_annotation", bool)()
        ]


def write_profile(file: Path, trainer: PPOTrainer, recorder: Recorder) -> None:
    """Prints and writes what was recorded of an iteration, and what LoRA adds to a call of the network."""
    text = profile_text(recorder.kernels(), recorder.parts)
    with_lora, without = (call_seconds(trainer, recorder.on_gpu, disabled) for disabled in (False, True))
    text += f"\nA guided call of sampling: {with_lora:.3f} s with LoRA, {without:.3f} s without.\n"
    print(text, flush=True)
    file.write_text(text, encoding="utf-8")


@torch.no_grad()
def call_seconds(trainer: PPOTrainer, on_gpu: bool, disabled: bool, calls: int = 3) -> float:
    """Mean seconds of a guided call as sampling makes it, after one that compiles.

    Args:
        disabled: whether the LoRA layers are off.
    """
    args, device = trainer.args, trainer.args.device
    prompts = trainer.prompts_of(0).repeat_interleave(args.num_generations)[: args.rollout_batch_size]
    velocity = trainer.plan.velocity(prompts, trainer.policy)
    latents = torch.randn(len(prompts), *trainer.plan.latent_shape, device=device)
    sigma, times = torch.full((len(prompts),), 0.7, device=device), []
    with (
        adapters_disabled(trainer.policy) if disabled else nullcontext(),
        trainer.compute_loss_context_manager(),
    ):
        for _ in range(calls + 1):
            velocity(latents, sigma)
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter())
    return (times[-1] - times[0]) / calls
