"""The training side of LoRA: which layers, float32 master weights, the adapter-free reference, one adapter to
save."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from trl import ModelConfig, get_peft_config

from generator.adapters.adapters import LoraAdapter, component_of, concatenate_adapters, merged_adapter
from generator.base import VideoGenerator
from generator.one_or_several import as_list
from generator.output import InputError
from generator.training.checks import check

logger = logging.getLogger(__name__)

ADAPTER_NAME = "default"


@dataclass
class LoraArguments:
    """Low-rank adaptation, with TRL's names."""

    use_peft: bool = field(
        default=True,
        metadata={
            "help": "Train LoRA adapters; without it all weights of the transformer are trained (AnimateDiff and "
            "Video LDM: those of the layers along time)."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int | None = field(
        default=None,
        metadata={"help": "Scale of the adapters; their change is multiplied by alpha / r. Unset: 2 r."},
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters (SFT only)."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the linear layers to adapt. Unset: the model family's own list."},
    )
    use_rslora: bool = field(
        default=False,
        metadata={"help": "Scale by alpha / sqrt(r) (rank-stabilised LoRA) instead of alpha / r."},
    )

    def __post_init__(self) -> None:
        if self.lora_target_modules is not None:
            self.lora_target_modules = as_list(self.lora_target_modules)
        check(self.lora_r >= 1, "lora_r", self.lora_r, "at least 1")
        check(self.lora_alpha is None or self.lora_alpha >= 1, "lora_alpha", self.lora_alpha, "at least 1")
        check(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "at least 0 and below 1")

    def in_effect(self) -> dict[str, Any]:
        """All fields, with the scale that stands for an unset one."""
        return {**vars(self), "lora_alpha": self.scale}

    @property
    def scale(self) -> int:
        """`lora_alpha`, or 2 r where it is unset."""
        return 2 * self.lora_r if self.lora_alpha is None else self.lora_alpha


def add_lora(generator: VideoGenerator, arguments: LoraArguments, seed: int) -> list[str]:
    """Freezes the transformer and adds trainable LoRA layers in float32; returns the names of the adapted
    layers.

    Raises:
        InputError: the target names match no layer.
    """
    transformer: Any = generator.transformer
    targets = arguments.lora_target_modules or generator.lora_target_modules
    configuration: Any = get_peft_config(
        ModelConfig(
            use_peft=True,
            lora_r=arguments.lora_r,
            lora_alpha=arguments.scale,
            lora_dropout=arguments.lora_dropout,
            lora_target_modules=list(targets),
            use_rslora=arguments.use_rslora,
        )
    )
    assert configuration is not None
    if list(targets) != ["all-linear"]:
        configuration.target_modules = set(targets)  # TRL makes a regular expression of a single name
    configuration.task_type = None
    configuration.exclude_modules = generator.idle_layers
    transformer.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            transformer.add_adapter(configuration, ADAPTER_NAME)
    except ValueError as error:
        linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
        raise InputError(
            f"The LoRA target modules {targets} match no layer of {generator.name} ({error}): name some of its linear "
            f"layers, such as {', '.join(linear[:4])}."
        ) from None
    matched = [name for name, module in transformer.named_modules() if isinstance(module, LoraLayer)]
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            vars(module)["_cast_input_dtype"] = _cast_unless_autocast
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            # PEFT puts it beside the base weight, which may live in the host's memory.
            parameter.data = parameter.data.to(generator.device, torch.float32)
    logger.info("LoRA of rank %d on %d layers: %s", arguments.lora_r, len(matched), ", ".join(matched))
    return matched


def train_all_weights(generator: VideoGenerator) -> None:
    """Makes all weights of the transformer trainable but those that the velocity does not depend on, or, where the
    family names them, those that its training is about."""
    idle, trained = generator.idle_layers, generator.trained_weights
    for name, parameter in generator.transformer.named_parameters():
        chosen = trained is None or re.fullmatch(trained, name) is not None
        parameter.requires_grad_(chosen and (idle is None or re.fullmatch(idle, name) is None))


def _cast_unless_autocast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """PEFT casts a layer's input to the adapter's float32, of which autocast would at once keep another copy."""
    if x is None or x.dtype == dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(dtype)


@contextmanager
def adapters_disabled(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model (wrapped by DDP or DeepSpeed or not) computes the reference policy.

    Only the layers' switch is set. PEFT's own `enable_adapters` also clears and sets `requires_grad` of every
    weight, which engines that registered gradient hooks must not see.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before):
            layer._disable_adapters = value


def trained_adapter(
    generator: VideoGenerator, state_dict: dict[str, Tensor] | None = None, prefix: str = ""
) -> LoraAdapter:
    """The one adapter that turns the model on disk into the trained model: what was loaded before, plus LoRA.

    Args:
        state_dict: weights gathered from an engine, keyed by `prefix` and the name in the transformer; the
            transformer's own where not given.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in generator.transformer.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if state_dict is None:
            layer: Any = module
            down, up = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
        else:
            down = state_dict[f"{prefix}{name}.lora_A.{ADAPTER_NAME}.weight"]
            up = state_dict[f"{prefix}{name}.lora_B.{ADAPTER_NAME}.weight"]
        scaling = module.scaling[ADAPTER_NAME]
        pairs[name] = (down.detach().float().cpu().clone(), up.detach().float().cpu() * scaling)
    trained = LoraAdapter(pairs, component=component_of(generator.transformer))
    before = merged_adapter(generator)
    return trained if before is None else concatenate_adapters([before, trained])
