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
        name_or_path: the folder of a trained reward model or ensemble; several folders joined by commas, which judge
            together; `world`, the verifier of the built-in world; `module:function`, a function `(videos, prompts)
            -> scores`; or the address `http://…` of `vidalign reward serve`.
        device: where a trained model goes.
        generator: the trunk of a latent model, in place of loading it by the stored name. It must not be the
            generator that is being trained.

    Raises:
        InputError: there is no such reward.
    """
    from reward.models.base import FunctionReward, WorldReward, import_function

    name = str(name_or_path)
    if name == "world":
        return WorldReward()
    if name.startswith(("http://", "https://")):
        from reward.remote import RemoteReward

        return RemoteReward(name)
    path = Path(name)
    if path.is_dir():
        return _load_folder(path, device, generator)
    if "," in name:
        from reward.models.ensemble import EnsembleRewardModel

        members = [load_reward(part.strip(), device, generator) for part in name.split(",") if part.strip()]
        return EnsembleRewardModel(members, name)
    if ":" in name and "/" not in name:
        return FunctionReward(import_function(name), name)  # type: ignore[arg-type]
    raise InputError(
        f"There is no reward {name!r}: give the folder of a trained reward model, several with commas between them, "
        "`world`, module:function, or the address of `vidalign reward serve`."
    )


def _load_folder(
    path: Path, device: str | torch.device | None, generator: VideoGenerator | None
) -> RewardModel:
    from reward.models import ensemble, latent

    loaders = {
        latent.MODEL_TYPE: latent.LatentRewardModel.from_pretrained,
        ensemble.MODEL_TYPE: ensemble.EnsembleRewardModel.from_pretrained,
    }
    kind = latent.read_reward_config(path).get("model_type")
    if kind not in loaders:
        raise InputError(
            f"{path} holds a reward model of the unknown type {kind!r}: {' and '.join(map(repr, loaders))} are known."
        )
    return loaders[kind](path, device=device, generator=generator)
