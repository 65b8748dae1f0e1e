"""`vidalign doctor --model M`: which method fits a GPU, with which flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alignment.memory.asked_rewards import Rewards
from alignment.memory.forecast import (
    configured_generator,
    find_configurations,
    forecast,
    is_native,
    text_encoder_bytes,
)
from alignment.memory.work import Forecast, Work
from generator.hardware.compute import copying_share

ALLOWANCE = 0.10
"""Share of the GPU left for the CUDA context, fragments of the allocator and kernels' workspaces."""

Options = list[tuple[str, dict[str, Any]]]
"""Flags and what they change, from the fastest to the smallest."""

PLAIN: tuple[str, dict[str, Any]] = ("", {})
QUANTISED: Options = [
    ("--quantization 8bit", {"quantization": "8bit"}),
    ("--quantization 4bit", {"quantization": "4bit"}),
]
WEIGHTS_OFFLOADED: tuple[str, dict[str, Any]] = ("--offload_weights true", {"offload_weights": True})
ACTIVATIONS_OFFLOADED: tuple[str, dict[str, Any]] = (
    "--activation_offloading true",
    {"activation_offloading": True},
)
ONE_BRANCH: tuple[str, dict[str, Any]] = (
    "--unconditional_gradient false",
    {"unconditional_gradient": False},
)
CHEAP_COPIES = 1.25
"""Share of the computing up to which copies of offloaded weights are preferred to rounded weights: above 1 they make a
pass slower."""
CHECKPOINTING: Options = [("--gradient_checkpointing true", {"checkpointed_share": 1.0})]
TILING: Options = [("--tiling true", {"tiling": True})]


def options_of(method: str, copying: float = float("inf"), guided: bool = True) -> Options:
    """Options that a method can be run with. Tiling is for those that decode. Last come activations in host memory, and
    for `ppo` an unconditional branch that is not trained.

    Args:
        copying: `copying_share` of the videos.
        guided: whether videos are sampled with classifier-free guidance.
    """
    first = CHECKPOINTING if method != "generate" else []
    first = [*first, *(TILING if method in ("generate", "ppo", "backprop") else [])]
    options: Options = [PLAIN]
    for more in first:
        options.append(_joined(options[-1], more))
    smallest = options[-1]
    cheap = copying <= CHEAP_COPIES
    weights = [WEIGHTS_OFFLOADED, *QUANTISED] if cheap else [*QUANTISED, WEIGHTS_OFFLOADED]
    options += [_joined(smallest, more) for more in weights]
    if method != "generate":
        options.append(_joined(_joined(smallest, WEIGHTS_OFFLOADED), ACTIVATIONS_OFFLOADED))
    if method == "ppo" and guided:
        options.append(_joined(options[-1], ONE_BRANCH))
    return options


def _joined(
    first: tuple[str, dict[str, Any]], more: tuple[str, dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    return f"{first[0]} {more[0]}".strip(), {**first[1], **more[1]}


COMMON = "--bf16 true --per_device_train_batch_size 1"
ONE_AT_A_TIME = {
    "generate": "--batch_size 1",
    "ppo": "--rollout_batch_size 1 --reward_batch_size 1 --monitor_videos 1",
}


def plan(
    model: str,
    size: tuple[int | None, int | None, int | None],
    lora_r: int,
    gpu_memory: float | None,
    rewards: Rewards | None = None,
    context_parallel: int = 1,
) -> dict[str, Any]:
    """Memory that each method needs on `model`, and the first of `options_of` it that fits.

    Args:
        size: frames, height, width; the model's own where None.
        gpu_memory: GB of the GPU to plan for, or None to list every option.
        rewards: what judges in `ppo` and, where they pass gradients to pixels, in `backprop`.
        context_parallel: GPUs that share out the tokens of each video in training.

    Returns:
        `{"size", "text_encoders", "methods": {method: [{"flags", "peak", "resident", "transient", "fits"}]}, "lines"}`
        with sizes in bytes; an option of a training method that fits also has `largest_batch`, the most videos (pairs,
        denoising steps) in one backward pass, one that offloads `copying`, see `copying_share`.

    Raises:
        InputError: the model is unknown, of a family that cannot be forecast, or cannot make or share out this size.
    """
    folder = find_configurations(model)
    native, generator = is_native(folder), configured_generator(folder)
    defaults = generator.defaults
    own = (defaults.num_frames, defaults.height, defaults.width)
    frames, height, width = (given or usual for given, usual in zip(size, own))
    guided = defaults.guidance_scale != 1
    work = Work("generate", frames, height, width, batch=1, decode_batch=1, guided=guided, lora_r=lora_r)
    copying = copying_share(generator, generator.latent_shape(frames, height, width))
    usable = None if gpu_memory is None else gpu_memory * 1e9 * (1 - ALLOWANCE)
    methods: dict[str, list[dict[str, Any]]] = {}
    rewards = rewards or Rewards()
    planned = ("generate", "sft", "dpo", "ppo", *(("backprop",) if rewards.gradients and not native else ()))
    for method in tqdm(planned, desc="Forecasting", unit="method", leave=False):
        asked = replace(work, method=method, rollout_batch=1)
        if method in ("ppo", "backprop"):
            asked = rewards.of(asked, defaults.fps)
        if method != "generate":
            asked = replace(asked, context_parallel=context_parallel)
        of_a_process = copying * asked.context_parallel  # which computes its part with all weights
        options = [PLAIN] if native else options_of(method, of_a_process, guided)
        methods[method] = _tried(folder, asked, options, usable, of_a_process)
    encoders = text_encoder_bytes(folder)
    heading = f"{frames} frames of {height}x{width}, LoRA of rank {lora_r}" + (", guided" if guided else "")
    common = "float32 on the CPU, --per_device_train_batch_size 1" if native else COMMON
    common += f" --context_parallel {context_parallel}, each GPU" if context_parallel > 1 else ""
    lines = [
        f"{heading}; training with {common}",
        *_lines(methods, generator.shares_tokens),
        *_reward_lines(rewards, work, defaults.fps),
        *_text_encoder_lines(encoders, usable),
    ]
    return {"size": [frames, height, width], "text_encoders": encoders, "methods": methods, "lines": lines}


def _tried(
    folder: Path, asked: Work, options: Options, usable: float | None, copying: float
) -> list[dict[str, Any]]:
    """Forecasts of the options, up to the first that fits `usable` bytes."""
    tried: list[dict[str, Any]] = []
    plain: dict[Work, Forecast] = {}

    def on_gpu(changes: dict[str, Any]) -> Work:
        """The work with its weights there, whose forecast is in `plain`."""
        where = ("quantization", "offload_weights")
        kind = replace(asked, **{name: value for name, value in changes.items() if name not in where})
        if kind not in plain:
            plain[kind] = forecast(folder, kind)
        return kind

    seen: set[str] = set()
    for flags, changes in options:
        if changes.get("tiling") and asked.method != "backprop":  # whose update decodes
            untiled = _without_tiling(flags, changes)
            if not _decoding_decides(plain[on_gpu(untiled[1])]):
                flags, changes = untiled
        if flags in seen:
            continue
        seen.add(flags)
        kind = on_gpu(changes)
        found = plain[kind]
        if "quantization" in changes:
            found = found.quantised(changes["quantization"])
        elif "offload_weights" in changes:
            found = found.offloaded()
        fits = None if usable is None else found.peak <= usable
        text = " ".join(part for part in (flags, ONE_AT_A_TIME.get(asked.method, "")) if part)
        tried.append(_option(text, found, fits))
        if "offload_weights" in changes:
            tried[-1]["copying"] = copying
        if fits and usable is not None and asked.method != "generate":
            two = forecast(folder, replace(kind, batch=2))
            growth = two.transient["update"] - plain[kind].transient["update"]
            tried[-1]["largest_batch"] = largest_batch(found, growth, usable)
        if fits:
            break
    return tried


def _without_tiling(flags: str, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    [(flag, _)] = TILING
    return " ".join(flags.replace(flag, "").split()), {k: v for k, v in changes.items() if k != "tiling"}


def _decoding_decides(found: Forecast) -> bool:
    """Returns whether decoding needs the most of all parts of the work."""
    return max(found.transient.values()) == found.transient.get("decoding")


def largest_batch(found: Forecast, growth: float, usable: float) -> int:
    """The largest micro-batch whose update fits `usable` bytes.

    Args:
        found: with a batch of 1.
        growth: bytes that the update needs for each further member of the batch.
    """
    free = usable - sum(found.resident.values()) - found.transient["update"]
    return 1 + max(0, int(free // max(growth, 1)))


def _option(flags: str, found: Forecast, fits: bool | None) -> dict[str, Any]:
    return {
        "flags": flags,
        "peak": found.peak,
        "resident": found.resident,
        "transient": found.transient,
        "fits": fits,
    }


def _lines(methods: dict[str, list[dict[str, Any]]], shares_tokens: bool) -> list[str]:
    lines = []
    for method, options in methods.items():
        shown = options
        if options[-1]["fits"]:
            shown = options[-1:]
        elif options[-1]["fits"] is False:
            shown = [min(options, key=lambda option: option["peak"])]
        for option in shown:
            mark = {None: "  ", True: "ok", False: "--"}[option["fits"]]
            flags = f"  {option['flags']}" if option["flags"] else ""
            if option.get("largest_batch", 1) > 1:
                flags += f"  (up to --per_device_train_batch_size {option['largest_batch']})"
            if "copying" in option:
                flags += (
                    f"  (copies take about {option['copying']:.0%} of the time of the computing beside it)"
                )
            lines.append(f"{mark}  {method:<8} {option['peak'] / 1e9:6.1f} GB{flags}")
        if shown[-1]["fits"] is False:
            flags = "--context_parallel or " if shares_tokens else ""
            several = ", or several GPUs with " + flags + "--accelerate_config zero3"
            several = "" if method == "generate" else several
            lines.append(f"      more than this GPU has: smaller videos{several}")
    return lines


def _reward_lines(rewards: Rewards, work: Work, fps: float) -> list[str]:
    """Lines of what each reward needs to judge one video, which is part of the forecast of `ppo` and `backprop`."""
    scored = rewards.judging(work, fps)
    passed = rewards.judging(replace(work, method="backprop"), fps)
    lines = []
    for (name, score), (_, gradient) in zip(scored, passed, strict=True):
        if score.scoring:
            to = "latents" if score.of_latents else "pixels"
            text = f"{name} needs {score.scoring / 1e9:.2f} GB beside its weights to judge a video"
            passing = f", {gradient.gradients / 1e9:.2f} GB with gradients to its {to}"
            lines.append(text + (passing if gradient.gradients else ""))
        else:
            lines += [f"{name}: its weights are in the forecast, what it needs to judge a video is not"] * (
                name in rewards.unmeasured
            )
    if rewards.weight_bytes:
        lines.append(f"weights of the rewards {rewards.weight_bytes / 1e9:.2f} GB, those shared counted once")
    return lines


def _text_encoder_lines(encoders: dict[str, int], usable: float | None) -> list[str]:
    if not encoders:
        return []
    total = sum(encoders.values())
    text = f"text encoder {total / 1e9:.1f} GB as stored, freed once the prompts are encoded"
    if usable is not None and total > usable:
        text += "; it does not fit: --text_encoder_device cpu"
    return [text]
