"""Memory of trained reward models that judge on the GPU: weights and what judging needs beside them.

Nothing is loaded but the built-in model, which is small. What was trained is counted by the headers of its files, the
model below it (the generator whose blocks are the trunk; the vision-language model) by its configuration. A latent
model judges once on fake tensors, with its trunk's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from alignment.memory.forecast import (
    Probe,
    find_configurations,
    image_encoder_bytes,
    is_native,
    text_encoder_bytes,
)
from alignment.memory.reward_forecast import JudgingMemory, qwen_judging
from alignment.memory.work import Work
from generator.hardware.memory_tracker import StorageTracker, WholeMasks, fused_attention, norms_in_float32
from generator.inputs.conditions import Conditions
from generator.loading import load_generator
from generator.output import InputError
from generator.weight_files.headers import weight_bytes
from reward.models.ensemble import MODEL_TYPE as ENSEMBLE
from reward.models.latent import ADAPTER_NAME, LatentRewardModel
from reward.models.latent import MODEL_TYPE as LATENT
from reward.models.latent_config import LatentRewardConfig
from reward.models.storage import PRETRAINED, WEIGHTS_NAME, config_from, read_reward_config, reward_folder
from reward.models.trunk_files import shared_trunk
from reward.models.vlm import MODEL_TYPE as VLM
from reward.models.vlm import VLMRewardConfig, message

PROMPT = "a" * 200
"""As long as a usual prompt, for the tokens of a vision-language model."""
CHARACTERS_A_TOKEN = 4.5
FORECAST_FAMILIES = ("qwen2_vl",)
"""Vision-language models whose judging is forecast; of others only the weights are."""
VLM_PRECISION = torch.bfloat16
"""Of vision-language models on a GPU (`reward.models.vlm_loading`)."""


@dataclass(frozen=True)
class TrainedReward:
    """A reward model that `vidalign reward` trained, of one member.

    Attributes:
        folder: where it is.
        config: how it was trained.
        below: key of the model below it; rewards of one key share that model's weights.
    """

    folder: Path
    config: LatentRewardConfig | VLMRewardConfig
    below: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it is asked for: its folder, or the name of one that comes with the package."""
        return self.folder.name if self.folder.parent == PRETRAINED else str(self.folder)

    @property
    def judges_latents(self) -> bool:
        """Returns whether it judges latents, and passes gradients to them."""
        return isinstance(self.config, LatentRewardConfig)

    @property
    def is_forecast(self) -> bool:
        """Returns whether there is a forecast of what judging needs."""
        return self.judges_latents or self._below().config.model_type in FORECAST_FAMILIES

    def _below(self) -> Any:
        """The vision-language model below it."""
        return _vision_language_model(self.config.base_model)

    def own_bytes(self) -> int:
        """Weights that training made: head, LoRA, tokens. A trunk that was trained whole takes the place of the
        trunk's weights; LoRA layers behind the last block that is read are not counted."""
        own = weight_bytes(
            self.folder / WEIGHTS_NAME, counts=lambda name: not name.startswith("trunk_weights.")
        )
        adapters = sorted((self.folder / ADAPTER_NAME).glob("*.safetensors"))
        return own + sum(weight_bytes(file) for file in adapters)

    def below_bytes(self) -> int:
        """Weights of the model below: of a generator the transformer, the autoencoder and the encoders of text and
        images, which all stay on the GPU."""
        if isinstance(self.config, VLMRewardConfig):
            return sum(parameter.nbytes for parameter in self._below().parameters())
        return _generator_bytes(self.config.base_model)

    def judging(self, num_frames: int, height: int, width: int, fps: float) -> JudgingMemory:
        """Memory beside the weights to judge one video of this size in frames and pixels; none where that cannot be
        forecast."""
        if isinstance(self.config, LatentRewardConfig):
            return _latent_judging(self.folder, num_frames, height, width)
        if not self.is_forecast:
            return JudgingMemory()
        words = round(len(message(PROMPT, self.config.dimensions)) / CHARACTERS_A_TOKEN)
        video = torch.empty(3, num_frames, height, width, device="meta")
        return JudgingMemory(
            qwen_judging(self._below().model, VLM_PRECISION, video, fps, self.config.budget, words)
        )


def trained_rewards(folders: Sequence[str]) -> list[TrainedReward]:
    """The trained reward models that judge together as one reward, those of ensembles one by one.

    Args:
        folders: outputs of `vidalign reward`, or names of models that come with the package.

    Raises:
        InputError: one holds no reward model, or one of an unknown type.
    """
    found: list[TrainedReward] = []
    for number, name in enumerate(folders):
        folder = reward_folder(name)
        stored = read_reward_config(folder)
        kind = stored.get("model_type")
        if kind == ENSEMBLE:
            members = [folder / member for member in stored["members"]]
            configs = [config_from(read_reward_config(member), LatentRewardConfig) for member in members]
            found += [
                TrainedReward(*each, (str(folder), str(number)))
                for each in zip(members, configs, strict=True)
            ]
        elif kind == LATENT:
            key = shared_trunk(folder)
            unique = () if key is not None else (str(folder), str(number))
            found.append(TrainedReward(folder, config_from(stored, LatentRewardConfig), key or unique))
        elif kind == VLM:
            key = (str(folder), str(number))
            found.append(TrainedReward(folder, config_from(stored, VLMRewardConfig), key))
        else:
            raise InputError(
                f"{folder} holds a reward model of the unknown type {kind!r}: {LATENT!r}, {ENSEMBLE!r} and {VLM!r} "
                "are known."
            )
    return found


def total_bytes(rewards: Sequence[TrainedReward]) -> int:
    """Weights of rewards that are loaded together, each model below them once."""
    below = {each.below: each for each in rewards}
    return sum(each.own_bytes() for each in rewards) + sum(each.below_bytes() for each in below.values())


@cache
def _generator_bytes(base_model: str) -> int:
    folder = find_configurations(base_model)
    if is_native(folder):
        generator = load_generator(folder, device="cpu")
        parts = [part for part in generator.pipeline.components.values() if isinstance(part, nn.Module)]
        return sum(parameter.nbytes for part in parts for parameter in part.parameters())
    probe = _whole(folder, (0, 0, 0))
    encoders = sum(text_encoder_bytes(folder, torch.bfloat16).values())
    encoders += image_encoder_bytes(folder, probe.family)
    return round(probe.weight_bytes()) * (2 if probe.experts else 1) + probe.autoencoder_bytes() + encoders


def _whole(folder: Path, size: tuple[int, int, int]) -> Probe:
    """The pipeline in `folder` with all its blocks, on fake tensors."""
    work = Work("generate", *size)
    return Probe(folder, work, Probe(folder, work, {}).blocks_in_full)


@cache
def _vision_language_model(base_model: str) -> nn.Module:
    """The model as its configuration describes it, without weights.

    Raises:
        InputError: there is no such model.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(base_model)
        with torch.device("meta"):
            model: nn.Module = AutoModelForImageTextToText.from_config(config, dtype=VLM_PRECISION)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{base_model}, on which a reward model was trained, is no vision-language model of transformers "
            f"({reason}): put it back, or download it."
        ) from error
    return model.requires_grad_(False).eval()


@cache
def _latent_judging(folder: Path, num_frames: int, height: int, width: int) -> JudgingMemory:
    config = config_from(read_reward_config(folder), LatentRewardConfig)
    trunk = find_configurations(config.base_model)
    size = num_frames, height, width
    if is_native(trunk):
        return _measured(LatentRewardModel.from_pretrained(folder, device="cpu"), size)
    probe = _whole(trunk, size)
    with probe.mode, WholeMasks(), _without_values(probe):
        model = LatentRewardModel(replace(config, base_model=str(trunk)), probe.generator).eval()
        for parameter in model.trunk_lora.values():  # as PEFT moves them, which fake ones cannot be
            parameter.data = parameter.data.to(probe.generator.dtype)

        def judge(gradients: bool) -> int:
            latents, _, conditions = probe.inputs(1)
            return probe.measure(lambda: _judge(model, latents.clone(), conditions, gradients))

        return JudgingMemory(judge(False), judge(True), of_latents=True)


@contextmanager
def _without_values(probe: Probe) -> Iterator[None]:
    """Inside, the probe's generator encodes any prompt to conditions of the longest, and nothing asks for its hash."""
    generator = probe.generator
    size = {"num_frames": probe.work.num_frames, "height": probe.work.height, "width": probe.work.width}
    generator.defaults = replace(generator.defaults, **size)

    def encode(prompts: Sequence[str]) -> Conditions:
        return probe.inputs(len(prompts))[2]

    with (
        mock.patch.object(generator, "encode_prompts", encode),
        mock.patch("reward.models.latent.match_fingerprints"),
        mock.patch.object(nn.Module, "to", lambda module, *_, **__: module),
    ):
        yield


def _measured(model: LatentRewardModel, size: tuple[int, int, int]) -> JudgingMemory:
    """Memory that a model on the CPU makes while it judges."""
    generator = model.generator
    latents = torch.zeros(1, *generator.latent_shape(*size))
    conditions = generator.encode_prompts(["a big red circle moves left"])

    def judge(gradients: bool) -> int:
        with fused_attention(), StorageTracker() as tracker:
            _judge(model, latents.clone(), conditions, gradients)
        return tracker.peak

    return JudgingMemory(judge(False), judge(True), of_latents=True)


def _judge(model: LatentRewardModel, latents: Tensor, conditions: Conditions, gradients: bool) -> None:
    with torch.set_grad_enabled(gradients), norms_in_float32():
        scores = model.score_latents(latents.requires_grad_(gradients), conditions)
        if gradients:
            torch.stack(list(scores.values())).sum().backward()
