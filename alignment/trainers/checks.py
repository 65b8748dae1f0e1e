"""Checks that a method, and what is asked of it, go with a generator, before anything is encoded or made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from generator.base import VideoGenerator
from generator.hardware.context_parallel import check_shares_tokens
from generator.hardware.offloading import is_offloaded
from generator.output import InputError

if TYPE_CHECKING:
    from alignment.lora import LoraArguments
    from alignment.trainers.base_config import AlignmentConfig


def check_trainable(
    generator: VideoGenerator,
    args: AlignmentConfig,
    lora: LoraArguments,
    method: str,
    shows_first_frames: bool,
) -> None:
    """Raises `InputError` where a method, or what is asked of it, does not go with the model.

    Args:
        method: name for messages.
        shows_first_frames: whether models that need an image are shown the first frames of the training videos.
    """
    if generator.image is not None and not shows_first_frames:
        raise InputError(
            f"{generator.name} animates images, which {method} does not show it: use another method, or a model that "
            "also makes videos from text, such as LTX-Video or Wan 2.2 TI2V."
        )
    if is_offloaded(generator.transformer) and (args.compile_blocks or not lora.use_peft):
        raise InputError(
            "offload_weights is for LoRA without compile_blocks: set use_peft to true and compile_blocks to false, "
            "or leave offload_weights out."
        )
    if getattr(args, "pack", False) and generator.packing is None:
        raise InputError(
            f"pack is set, but {generator.name} takes clips of one size at a time: leave it out, which makes batches "
            "of examples of one size."
        )
    check_shares_tokens(generator, args.context_parallel)
    _check_targets(generator, lora)


def _check_targets(generator: VideoGenerator, lora: LoraArguments) -> None:
    """PEFT complains itself where none of several names matches, but only once the layers are added."""
    if not lora.use_peft or not lora.lora_target_modules:
        return
    modules: Any = dict(generator.transformer.named_modules())
    for target in lora.lora_target_modules:
        if target != "all-linear" and not any(
            name == target or name.endswith(f".{target}") for name in modules
        ):
            linear = [name for name, module in modules.items() if hasattr(module, "in_features")]
            raise InputError(
                f"The LoRA target module {target!r} matches no layer of {generator.name}: name some of its linear "
                f"layers, such as {', '.join(linear[:4])}."
            )
