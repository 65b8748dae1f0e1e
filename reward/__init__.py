"""Judges videos: preferences, reward models, prompt-adherence evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from generator.output import InputError

if TYPE_CHECKING:
    import torch

    from generator.base import VideoGenerator
    from reward.models.base import RewardModel

__all__ = ["load_reward"]


def load_reward(
    name_or_path: str | Path,
    device: str | torch.device | None = None,
    generator: VideoGenerator | None = None,
) -> RewardModel:
    """Loads what judges videos.

    Args:
        name_or_path: the folder of a trained reward model; `world`, the verifier of the built-in world; or
            `module:function`, a function `(videos, prompts) -> scores`.
        device: where a trained model goes.
        generator: the trunk of a latent model, in place of loading it by the stored name. It must not be the
            generator that is being trained.

    Raises:
        InputError: there is no such reward.
    """
    from reward.models.base import FunctionReward, WorldReward, import_function
    from reward.models.latent import MODEL_TYPE, LatentRewardModel, read_reward_config

    name = str(name_or_path)
    if name == "world":
        return WorldReward()
    path = Path(name)
    if path.is_dir():
        kind = read_reward_config(path).get("model_type")
        if kind == "vlm":
            from reward.models.vlm import VLMRewardModel

            return VLMRewardModel.from_pretrained(path, device=device)
        if kind != MODEL_TYPE:
            raise InputError(
                f"{path} holds a reward model of the unknown type {kind!r}: {MODEL_TYPE!r} and 'vlm' are known."
            )
        return LatentRewardModel.from_pretrained(path, device=device, generator=generator)
    if ":" in name and "/" not in name:
        return FunctionReward(import_function(name), name)  # type: ignore[arg-type]
    raise InputError(
        f"There is no reward {name!r}: give the folder of a trained reward model, `world`, or "
        "module:function."
    )
