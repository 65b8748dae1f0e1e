"""Motion adapters of AnimateDiff from folders and files, and image models that they animate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, MotionAdapter
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from safetensors import SafetensorError, safe_open
from torch import Tensor

from generator.output import InputError
from generator.weight_files.state_dicts import read_state_dict

WEIGHTS_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
MOTION_MODULES = ".motion_modules."
"""In the names of all weights of motion modules, and of no others."""
POSITIONS = 32
"""Frames that a motion module has positions for, where a file does not say."""


def motion_weights_file(path: str | Path) -> Path:
    """File with the weights of a motion adapter: the file itself, or that of a folder or of its `motion_adapter/`.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for folder in (path, path / "motion_adapter"):
        for name in WEIGHTS_NAMES:
            if (folder / name).is_file():
                return folder / name
    raise InputError(
        f"The motion adapter {path} was not found, but must be a folder with {WEIGHTS_NAMES[0]} or a file of weights: "
        "give the path of one."
    )


def read_motion_adapter(path: str | Path, dtype: torch.dtype) -> MotionAdapter:
    """Motion modules from a folder of diffusers, or from a file (.safetensors, .ckpt) with diffusers' or its authors'
    names.

    Raises:
        InputError: it is missing, damaged, or holds no motion modules.
    """
    file = motion_weights_file(path)
    if file.name in WEIGHTS_NAMES and (file.parent / "config.json").is_file():
        try:
            return MotionAdapter.from_pretrained(file.parent, dtype=dtype)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unreadable(path, str(error)) from error
    weights = _authors_names(read_state_dict(file, "a motion adapter", inside="state_dict"))
    config = adapter_config(weights)
    if config is None:
        raise _unreadable(path, "it has no layers of motion modules")
    adapter = MotionAdapter(**config)
    known = adapter.state_dict()
    missing = known.keys() - weights.keys()
    wrong = [name for name in weights if name not in known or known[name].shape != weights[name].shape]
    missing = {name for name in missing if "pos_embed" not in name}
    if missing or wrong:
        raise _unreadable(path, f"its layer {sorted([*missing, *wrong])[0]} is not one of a motion adapter")
    adapter.load_state_dict({**known, **weights})
    return adapter.to(dtype)


def _unreadable(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"The motion adapter {path} cannot be read ({reason}): give a folder or file of one, such as "
        "mm_sd_v15_v2.ckpt."
    )


def _authors_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by diffusers' names; tables of positions, which are computed, are left out."""
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    converted = convert_animatediff_checkpoint_to_diffusers(plain)
    return {
        name: value
        for name, value in converted.items()
        if "motion_modules" in name and "pos_embed" not in name
    }


def adapter_config(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of `MotionAdapter` that the shapes of its weights tell; None where there are no motion modules.

    Args:
        weights: by diffusers' names.
    """
    widths: dict[int, int] = {}
    layers: dict[int, int] = {}
    for name, value in weights.items():
        match = re.match(r"down_blocks\.(\d+)\.motion_modules\.(\d+)\.norm\.weight", name)
        if match:
            block, layer = int(match[1]), int(match[2])
            widths[block] = value.shape[0]
            layers[block] = max(layers.get(block, 0), layer + 1)
    if not widths or sorted(widths) != list(range(len(widths))):
        return None
    return {
        "block_out_channels": tuple(widths[block] for block in sorted(widths)),
        "motion_layers_per_block": layers[0],
        "motion_max_seq_length": POSITIONS,
        "use_motion_mid_block": any(name.startswith("mid_block.") for name in weights),
    }


def motion_adapter(config: Any, weights: Mapping[str, Tensor]) -> MotionAdapter:
    """The motion modules of a U-Net by its configuration and its weights, as diffusers saves and loads them."""
    own = {name: value for name, value in weights.items() if MOTION_MODULES in name}
    adapter = MotionAdapter(
        block_out_channels=config.block_out_channels,
        motion_layers_per_block=config.layers_per_block,
        motion_transformer_layers_per_block=config.temporal_transformer_layers_per_block,
        motion_transformer_layers_per_mid_block=config.temporal_transformer_layers_per_mid_block,
        motion_num_attention_heads=config.motion_num_attention_heads,
        motion_norm_num_groups=config.norm_num_groups,
        motion_max_seq_length=config.motion_max_seq_length,
        use_motion_mid_block=config.use_motion_mid_block,
    ).to(next(iter(own.values())).dtype)
    adapter.load_state_dict(own)
    return adapter


def read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Weights in a component's folder whose names begin with `prefix`; those of a variant only if there are no others.

    Raises:
        RuntimeError: there are none.
    """
    for pattern in (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model-*.safetensors",
        "*.safetensors",
    ):
        found: dict[str, Tensor] = {}
        for file in sorted(folder.glob(pattern)):
            with safe_open(file, framework="pt") as weights:
                names = [name for name in weights.keys() if name.startswith(prefix)]  # noqa: SIM118
                found |= {name: weights.get_tensor(name) for name in names}
        if found:
            return found
    raise RuntimeError(f"{folder} has no .safetensors file with {prefix}*")


def animation_scheduler(scheduler: Any) -> DDIMScheduler:
    """DDIM with the noise levels that motion adapters were trained with: betas that rise linearly, nothing clipped.

    Args:
        scheduler: of the image model.
    """
    return DDIMScheduler.from_config(
        scheduler.config, beta_schedule="linear", steps_offset=1, clip_sample=False, set_alpha_to_one=True
    )
