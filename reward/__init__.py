"""Judges videos: preferences, reward models, prompt-adherence evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from generator.one_or_several import as_list
from generator.output import InputError

if TYPE_CHECKING:
    import torch

    from generator.base import VideoGenerator
    from reward.models.base import RewardModel

__all__ = ["load_reward"]


def load_reward(
    name_or_path: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    generator: VideoGenerator | None = None,
) -> RewardModel:
    """Loads what judges videos.

    Args:
        name_or_path: a name of the registry such as `pickscore` or `videoalign:TA:FOLDER` (see
            `reward.models.named.registry`), among them `world`, the verifier of the built-in world; `nano-reward` or
            `nano-v1-reward`, trained models that come with the package; the folder of a trained reward model or
            ensemble; several of these, in a list or joined by commas, which judge together; `module:function`, a
            function `(videos, prompts) -> scores`; or the address `http://…` of `vidalign reward serve`. A folder in
            the current one that is called as a reward is written `./NAME`.
        device: where a trained model goes.
        generator: the trunk of a latent model, in place of loading it by the stored name. It must not be the
            generator that is being trained.

    Raises:
        InputError: there is no such reward.
    """
    several = as_list(name_or_path)
    if len(several) > 1:
        return _ensemble([str(each) for each in several], device, generator)
    name = str(several[0]) if several else ""
    if name.startswith(("http://", "https://")):
        from reward.service.client import RemoteReward

        return RemoteReward(name)
    path = Path(name)
    own_folder = path.is_dir()
    if own_folder and ("/" in name or isinstance(several[0], Path)):
        return _load_folder(path, device, generator)
    from reward.models.named import registry

    if registry.find(name) is not None:
        return registry.load(name, device)
    from reward.models.storage import built_in_rewards, reward_folder

    if name in built_in_rewards():
        return _load_folder(reward_folder(name), device, generator, name)
    if own_folder:
        return _load_folder(path, device, generator)
    if "," in name:
        return _ensemble(name.split(","), device, generator)
    if ":" in name and "/" not in name:
        from reward.models.base import FunctionReward
        from reward.models.user_functions import import_function

        return FunctionReward(import_function(name), name)  # type: ignore[arg-type]
    near = registry.nearest(name)
    raise InputError(
        f"There is no reward {name!r}{f' (did you mean {near}?)' if near else ''}: give the folder of a trained reward "
        "model, several with commas between them, module:function, the address of `vidalign reward serve`, or one of "
        f"the names {', '.join(built_in_rewards())}, {registry.names_text()}."
    )


def _ensemble(
    names: Sequence[str], device: str | torch.device | None, generator: VideoGenerator | None
) -> RewardModel:
    from reward.models.ensemble import EnsembleRewardModel

    return EnsembleRewardModel(_load_members(names, device, generator), ",".join(names))


def _load_folder(
    path: Path, device: str | torch.device | None, generator: VideoGenerator | None, name: str = ""
) -> RewardModel:
    """The trained reward in a folder, called as its path where no name is given."""
    from reward.models import ensemble, latent, storage

    loaders = {
        latent.MODEL_TYPE: latent.LatentRewardModel.from_pretrained,
        ensemble.MODEL_TYPE: ensemble.EnsembleRewardModel.from_pretrained,
    }
    kind = storage.read_reward_config(path).get("model_type")
    if kind == "vlm":
        from reward.models.vlm import VLMRewardModel

        return VLMRewardModel.from_pretrained(path, device=device)
    if kind not in loaders:
        raise InputError(
            f"{path} holds a reward model of the unknown type {kind!r}: {', '.join(map(repr, loaders))} and 'vlm' "
            "are known."
        )
    found = loaders[kind](path, device=device, generator=generator)
    found.name = name or found.name
    return found


def _load_members(
    names: Sequence[str], device: str | torch.device | None, generator: VideoGenerator | None
) -> list[RewardModel]:
    """The rewards of several names; latent models on the same frozen trunk share one generator."""
    from reward.models import storage
    from reward.models.latent import LatentRewardModel
    from reward.models.trunk_files import shared_trunk

    members: list[RewardModel] = []
    trunks: dict[tuple[str, str], VideoGenerator] = {}
    for name in (part.strip() for part in names if part.strip()):
        trunk = shared_trunk(storage.reward_folder(name))
        member = load_reward(name, device, generator if trunk is None else trunks.get(trunk, generator))
        if isinstance(member, LatentRewardModel) and trunk is not None:
            trunks[trunk] = member.generator
        members.append(member)
    return members
