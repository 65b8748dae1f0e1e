"""Training engines, DDP, DeepSpeed and FSDP: with `bf16`, bfloat16 is for the products alone under each of them.

By themselves DeepSpeed and accelerate's FSDP round more than products: weights that are kept in float32, LoRA's among
them, and what a network is called with, so that the timestep 798.63 arrives as 800.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from transformers import Trainer, TrainingArguments

from generator.output import InputError
from generator.training.gradient_traffic import reduce_once

logger = logging.getLogger(__name__)

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_ENABLED = ("true", "1")


@dataclass
class EngineArguments(TrainingArguments):
    """`transformers.TrainingArguments` whose `bf16` means products in bfloat16, whatever the engine.

    Under DeepSpeed `bf16` is false once this is made, since the `Trainer` would have all weights and inputs rounded;
    `bfloat16_products` says what was asked for. Without an accelerator the CPU is used.

    Raises:
        InputError: 16-bit floats other than bfloat16 with DeepSpeed or FSDP, an evaluation that rounds the weights, or
            a DeepSpeed configuration that cannot be read.
    """

    def __post_init__(self) -> None:
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is set, but it rounds the trained weights themselves: leave it out; bf16 holds for "
                    "evaluations too."
                )
        if not torch.accelerator.is_available():
            self.use_cpu = True
        fsdp = bool(self.fsdp) or _is_set("ACCELERATE_USE_FSDP")
        if fsdp and (self.fp16 or _mixed_precision() == "fp16"):
            raise InputError("fp16 is set with FSDP, which is for bfloat16 here: use --bf16 true instead.")
        self._autocast = False
        if self.deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED"):
            self._prepare_deepspeed()
        else:
            super().__post_init__()

    @property
    def bfloat16_products(self) -> bool:
        """True where matrix products are computed in bfloat16."""
        return self._autocast or self.bf16

    def to_dict(self) -> dict[str, Any]:
        """The arguments as they were given, `bf16` too."""
        return {**super().to_dict(), "bf16": self.bfloat16_products}

    def _prepare_deepspeed(self) -> None:
        """Makes the arguments with DeepSpeed's own autocast in place of its bfloat16 weights."""
        if self.use_cpu:
            leave_out_inference_kernel()
        send_scalars()
        given: Any = self.deepspeed
        named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        config = read_deepspeed_config(given or ("" if named == "none" else named))
        wanted = "fp16" if self.fp16 else "bf16" if self.bf16 else _mixed_precision()
        self._autocast = products_in_bfloat16(config, wanted)
        self.bf16 = False
        if given:
            self.deepspeed = with_autocast(config, self._autocast)
        with _environment(_PRECISION, "no"):
            super().__post_init__()
        self.deepspeed = given
        if not given:
            # Made from the launcher's configuration, which the plugin has read by itself.
            plugin: Any = self.deepspeed_plugin
            held = plugin.deepspeed_config
            changed = with_autocast(held, self._autocast)
            held.clear()
            held.update(changed)


class EngineTrainer(Trainer):
    """A `Trainer` with `EngineArguments`, under whose engines `bf16` rounds products alone.

    Products are rounded wherever the model is called, in rollouts too, which do not go through the engine. Gradients
    of few weights are reduced once an optimiser step.
    """

    args: EngineArguments

    @property
    def trains_alike(self) -> bool:
        """True where each backward pass reaches all trained weights, on every process, so that DDP need not search
        each step's graph for those that it does not reach."""
        return False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.bfloat16_products:
            model: Any = self.model
            model.forward = in_bfloat16(model.forward, self.args.device.type)

    def create_accelerator_and_postprocess(self) -> None:
        state: dict[str, Any] = PartialState._shared_state
        if state.get("distributed_type") == DistributedType.MULTI_CPU and _is_set("ACCELERATE_USE_FSDP"):
            # accelerate takes this road to FSDP from GPUs only, and would quietly take DDP on a CPU.
            state["distributed_type"] = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()
        plugin = getattr(AcceleratorState(), "fsdp_plugin", None)
        if plugin is not None:
            # It is a warning of in-place changes to what a module returns; neither trainers nor families make any.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            plugin.mixed_precision_policy = unrounded_policy(plugin.fsdp_version)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        built = super()._build_accelerator_args(**kwargs)
        if self.args.ddp_find_unused_parameters is None:
            for handler in built["kwargs_handlers"]:
                if isinstance(handler, DistributedDataParallelKwargs):
                    handler.find_unused_parameters = not self.trains_alike
        return built

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.args.gradient_accumulation_steps > 1 and self.is_deepspeed_enabled:
            model: Any = self.model
            reduce_once(self.accelerator, model.parameters())
        return super().training_step(*args, **kwargs)


def in_bfloat16(forward: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """`forward` under autocast to bfloat16; accelerate does this for DDP alone, and only once training starts."""

    @functools.wraps(forward)
    def rounded(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(*args, **kwargs)

    return rounded


def unrounded_policy(fsdp_version: int) -> Any:
    """FSDP's policy that casts neither parameters nor inputs nor outputs and adds gradients up in float32; what is
    computed in bfloat16 is autocast's business."""
    if fsdp_version == 1:
        from torch.distributed.fsdp import MixedPrecision

        return MixedPrecision(cast_forward_inputs=False, cast_root_forward_inputs=False)
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)


def leave_out_inference_kernel() -> None:
    """Keeps DeepSpeed from compiling a kernel on a CPU that only its inference calls.

    `deepspeed.comm` otherwise builds `deepspeed_shm_comm` when it first starts on a machine: this takes a minute or
    two, and fails without a compiler.
    """
    if importlib.util.find_spec("deepspeed") is None:
        return
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def send_scalars() -> None:
    """Has DeepSpeed send weights without a dimension too, such as alpha gates, when it starts; it views all as bytes,
    which these cannot be."""
    if importlib.util.find_spec("deepspeed") is None:
        return
    from deepspeed.runtime.engine import DeepSpeedEngine

    plain = DeepSpeedEngine._broadcast_model
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def sending(engine: Any) -> None:
        scalars = [weight for weight in engine.module.parameters() if weight.dim() == 0]
        for weight in scalars:
            weight.data = weight.data[None]
        try:
            plain(engine)
        finally:
            for weight in scalars:
                weight.data = weight.data[0]

    DeepSpeedEngine._broadcast_model = sending


def read_deepspeed_config(source: Any) -> dict[str, Any]:
    """A copy of a DeepSpeed configuration, given as a dictionary or the path of a JSON file; empty for "".

    Raises:
        InputError: there is no such file, or it holds no JSON object.
    """
    if isinstance(source, dict) or not source:
        return json.loads(json.dumps(source or {}))
    try:
        config = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is not a DeepSpeed configuration ({error}): name a JSON file, such as "
            "deepspeed/zero2.json in alignment/cli/configs."
        ) from error
    if not isinstance(config, dict):
        raise InputError(
            f"{source} is not a DeepSpeed configuration, as it is no JSON object: correct the file."
        )
    return config


def products_in_bfloat16(config: dict[str, Any], wanted: str) -> bool:
    """Returns whether arguments and DeepSpeed configuration together ask for bfloat16.

    Args:
        config: the configuration, whose blocks `bf16` and `torch_autocast` ask for it too.
        wanted: what the arguments ask for: `no`, `bf16` or `fp16`.

    Raises:
        InputError: they ask for another 16-bit type.
    """
    autocast = config.get("torch_autocast") or {}
    half = _enabled(autocast) and autocast.get("dtype", "bfloat16") not in ("bfloat16", "bf16")
    if wanted == "fp16" or _enabled(config.get("fp16")) or half:
        raise InputError(
            "fp16 is asked for with DeepSpeed, which would round the trained weights to it: use --bf16 true and take "
            "fp16 out of the DeepSpeed configuration."
        )
    if _enabled(config.get("bf16")):
        logger.warning(
            "The DeepSpeed configuration's block bf16 would round weights and inputs; products are computed in "
            "bfloat16 by torch_autocast instead, as with --bf16 true."
        )
    return wanted == "bf16" or _enabled(config.get("bf16")) or _enabled(autocast)


def with_autocast(config: dict[str, Any], enabled: bool) -> dict[str, Any]:
    """A DeepSpeed configuration in which all weights keep their type, with or without autocast to bfloat16.

    Gradients are added up in their own type: the default would round those of linear layers before.
    """
    changed = {
        name: value for name, value in config.items() if name not in ("bf16", "fp16", "torch_autocast")
    }
    if enabled:
        block = {
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
            **(config.get("torch_autocast") or {}),
        }
        changed["torch_autocast"] = {**block, "enabled": True}
    return changed


def _enabled(block: Any) -> bool:
    return isinstance(block, dict) and str(block.get("enabled", False)).lower() in _ENABLED


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in _ENABLED


def _mixed_precision() -> str:
    return os.environ.get(_PRECISION, "no").lower()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    held = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if held is None:
            del os.environ[name]
        else:
            os.environ[name] = held
