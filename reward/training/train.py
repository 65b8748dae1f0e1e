"""From rankings and a configuration to a saved reward model, or an ensemble of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from generator.adapters.loaded_from import loaded_from, sources_of
from generator.base import VideoGenerator
from generator.data.demonstrations import Demonstration
from generator.hardware.zero3 import whole_weights, zero_stage
from generator.output import InputError, write_json
from generator.provenance import file_hash, versions
from generator.training.checkpoints import newest_checkpoint
from reward.models.ensemble import MEMBER, EnsembleRewardModel
from reward.models.latent import MODEL_TYPE, LatentRewardConfig, LatentRewardModel
from reward.models.storage import read_reward_config, reward_folder
from reward.preferences import Ranking, in_known_order, split_rankings
from reward.training.matching_pretraining import DemonstrationMatching
from reward.training.near_miss_pretraining import RankingPretraining
from reward.training.ranking_data import EncodedVideos
from reward.training.reward_config import RewardConfig
from reward.training.reward_trainer import RewardTrainer


def build_reward_model(
    generator: VideoGenerator,
    config: RewardConfig,
    rankings: Sequence[Ranking],
    trunk_adapter: str | Path | None = None,
    has_demonstrations: bool = False,
) -> LatentRewardModel:
    """An untrained reward model on the blocks of `generator`, with one head for each dimension of the
    rankings."""
    architecture = config.architecture
    if architecture == "auto":
        architecture = "matching" if has_demonstrations else "pooled"
    matching = architecture == "matching"
    found = {ranking.dimension for ranking in rankings}
    dimensions = config.dimensions or in_known_order(found)
    missing = [name for name in dimensions if name not in found]
    if missing:
        raise InputError(
            f"The rankings have no dimension {missing[0]!r}, only {', '.join(sorted(found))}: name one of these."
        )
    defaults = generator.defaults
    size = (
        config.num_frames or defaults.num_frames,
        config.height or defaults.height,
        config.width or defaults.width,
    )
    generator.check_size(*size)
    set_seed(config.seed)
    return LatentRewardModel(
        LatentRewardConfig(
            base_model=generator.name,
            dimensions=tuple(dimensions),
            architecture=architecture,
            num_blocks=config.num_blocks,
            sigmas=tuple(config.sigmas) or ((0.1,) if matching else (0.1, 0.4)),
            num_queries=config.num_queries,
            hidden_size=config.hidden_size or (64 if matching else 128),
            dropout=config.dropout,
            noise_levels=tuple(config.noise_levels) if config.noise_conditioned else (),
            gaussian=config.loss_type == "gaussian_bradley_terry",
            implicit_evidence=config.implicit_evidence,
            evidence_sigmas=tuple(config.evidence_sigmas),
            evidence_draws=config.evidence_draws,
            decoded_frames=config.decoded_frames,
            lora_rank=config.lora_rank,
            lora_target_modules=tuple(config.lora_target_modules),
            full_trunk=config.full_trunk,
            num_frames=size[0],
            height=size[1],
            width=size[2],
        ),
        generator,
        trunk_adapter=trunk_adapter,
    )


def continued_reward_model(
    folder: str | Path, generator: VideoGenerator, config: RewardConfig, rankings: Sequence[Ranking]
) -> LatentRewardModel:
    """The reward model in `folder`, to learn on from its weights; its trunk is trained as it was.

    Raises:
        InputError: the folder holds no latent reward model, `generator` is not its trunk, the loss needs variances
            that it does not have, or the rankings have none of its dimensions.
    """
    stored = read_reward_config(reward_folder(folder))
    if stored.get("model_type") != MODEL_TYPE or config.ensemble > 1:
        raise InputError(
            f"--weights_from {folder} with --ensemble {config.ensemble} is a model of type "
            f"{stored.get('model_type')!r}, but only single latent models learn on: train the members one by one and "
            "join their folders with commas."
        )
    set_seed(config.seed)
    model = LatentRewardModel.from_pretrained(reward_folder(folder), generator=generator)
    if model.config.gaussian != (config.loss_type == "gaussian_bradley_terry"):
        raise InputError(
            f"The model in {folder} has {'' if model.config.gaussian else 'no '}variances, but --loss_type is "
            f"{config.loss_type}: use {'' if model.config.gaussian else 'another than '}gaussian_bradley_terry."
        )
    found = sorted({ranking.dimension for ranking in rankings})
    if not set(found) & set(model.dimensions):
        raise InputError(
            f"The model in {folder} judges {', '.join(model.dimensions)}, but the rankings have only "
            f"{', '.join(found)}: give others, or leave --weights_from off."
        )
    model.name = generator.name
    return model


def pretrain(
    teacher: RankingPretraining, config: RewardConfig, max_seconds: float = float("inf")
) -> dict[str, float]:
    """Teaches a model the rankings of `--pretraining` as `config` says; see `RankingPretraining.train`."""
    rate = config.pretraining_learning_rate
    return teacher.train(
        config.pretraining_steps,
        config.pretraining_batch_size,
        rate,
        0.4 * rate if teacher.model.config.full_trunk else rate,
        config.seed,
        config.bfloat16_products,
        max_seconds,
        not config.disable_tqdm,
    )


@dataclass
class RewardSplits:
    """The rankings by what they are for; no prompt stands in two of them."""

    train: list[Ranking]
    validation: list[Ranking]
    held_out: list[Ranking]


def train_reward_model(
    generator: VideoGenerator,
    rankings: Sequence[Ranking],
    config: RewardConfig,
    trunk_adapter: str | Path | None = None,
    source: str | Path | None = None,
    latents: dict[Path, Tensor] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    demonstrations: Sequence[Demonstration] = (),
    pretraining: Sequence[Ranking] = (),
    weights_from: str | Path | None = None,
) -> tuple[LatentRewardModel | EnsembleRewardModel, dict[str, Any]]:
    """Trains a reward model (or an ensemble), writes it with `metrics.json` and `training.json` to
    `config.output_dir`.

    Args:
        generator: the trunk; an instance of its own, not the policy's (see `LatentRewardModel`).
        rankings: from `reward.formats.read_preferences`.
        config: see `RewardConfig`.
        trunk_adapter: folder of the adapter that `generator` was loaded with, if any.
        source: the rankings file, whose hash is stored.
        latents: already known latents of video files, which then are not read.
        callbacks: further callbacks of the trainer.
        demonstrations: videos that show what their prompts say; the matching head learns from them first.
        pretraining: rankings that the model learns from before those, such as of `generator.world.near_misses`.
        weights_from: name of a reward model that comes with the package, or folder of a latent reward model, that
            learns on; what it is made of comes from there, and `generator` must be its trunk.

    Returns:
        The model in evaluation mode and the figures of `metrics.json`:
        `{dimension: {train, held_out: {accuracy: {mean, low, high, n, clusters}, accuracy_with_ties, …}}}`.
    """
    if config.ensemble > 1 and zero_stage(config):
        raise InputError(
            "--ensemble trains several models in one process, which DeepSpeed refuses: train the members one by one "
            "with other --seed and join their folders with commas, or use --accelerate_config multi_gpu."
        )
    splits = RewardSplits(
        *split_rankings(rankings, config.held_out_fraction, config.validation_fraction, config.seed)
    )
    material = _Material(
        generator,
        rankings,
        splits,
        trunk_adapter,
        latents,
        callbacks,
        demonstrations,
        pretraining,
        weights_from,
    )
    output_dir = Path(str(config.output_dir))
    model: LatentRewardModel | EnsembleRewardModel
    if config.ensemble == 1:
        trainer, metrics = _train_one(material, config)
        model, first = trainer.reward_model, trainer
    else:
        model, metrics, first = _train_ensemble(material, config)
    with whole_weights(first.reward_model.parameters()):
        if first.is_world_process_zero():
            model.save_pretrained(output_dir)
    if first.is_world_process_zero():
        write_json(output_dir / "metrics.json", metrics)
        write_json(output_dir / "training.json", _training_record(material, config, source, metrics))
    return model.eval(), metrics


@dataclass(frozen=True)
class _Material:
    """Inputs that all members of an ensemble have in common; see `train_reward_model`."""

    generator: VideoGenerator
    rankings: Sequence[Ranking]
    splits: RewardSplits
    trunk_adapter: str | Path | None
    latents: dict[Path, Tensor] | None
    callbacks: list[TrainerCallback] | None
    demonstrations: Sequence[Demonstration]
    pretraining: Sequence[Ranking]
    weights_from: str | Path | None


def _training_record(
    material: _Material, config: RewardConfig, source: str | Path | None, metrics: dict[str, Any]
) -> dict[str, Any]:
    """The content of `training.json`: all that the model was made from."""
    rankings, splits = material.rankings, material.splits
    return {
        "base_model": material.generator.name,
        "trunk_adapter": None if material.trunk_adapter is None else str(material.trunk_adapter),
        "trunk_files": sources_of(material.generator).options(),
        **loaded_from(material.generator),
        "preferences": None
        if source is None
        else {"file": str(source), "sha256": file_hash(source), "rankings": len(rankings)},
        "weights_from": None if material.weights_from is None else str(material.weights_from),
        "demonstrations": len(material.demonstrations),
        "pretraining_rankings": len(material.pretraining),
        "rankings_without_order": sum(not ranking.has_order for ranking in rankings),
        "split": {
            name: len({ranking.prompt for ranking in part})
            for name, part in (
                ("train", splits.train),
                ("validation", splits.validation),
                ("held_out", splits.held_out),
            )
        },
        "arguments": config.to_sanitized_dict(),
        "versions": versions(),
        "metrics": metrics,
    }


def _train_one(
    material: _Material,
    config: RewardConfig,
    encoded: EncodedVideos | None = None,
) -> tuple[RewardTrainer, dict[str, Any]]:
    if material.weights_from is not None:
        model = continued_reward_model(material.weights_from, material.generator, config, material.rankings)
    else:
        model = build_reward_model(
            material.generator,
            config,
            material.rankings,
            material.trunk_adapter,
            bool(material.demonstrations),
        )
    teacher = None
    if material.pretraining and (config.replay_weight or config.resume_from_checkpoint is None):
        teacher = RankingPretraining(
            model, material.pretraining, "plackett_luce", config.encode_batch_size, material.latents
        )
    if teacher is not None and config.resume_from_checkpoint is None:
        taught = pretrain(teacher, config)
        print(
            f"Pretraining: {taught['rankings_seen']} rankings seen in {taught['seconds']:.0f} s, pair accuracy "
            f"{taught['accuracy']:.3f} at the end."
        )
    matching = None
    if material.demonstrations:
        matching = DemonstrationMatching(
            model,
            material.demonstrations,
            config.matching_batch_size,
            config.seed,
            config.encode_batch_size,
            material.latents,
        )
        if config.resume_from_checkpoint is None:
            matching.pretrain(config.matching_steps, config.matching_learning_rate, not config.disable_tqdm)
    trainer = RewardTrainer(
        model,
        config,
        material.splits.train,
        eval_dataset=material.splits.validation,
        test_dataset=material.splits.held_out,
        latents=material.latents,
        matching=matching,
        replay=teacher,
        callbacks=material.callbacks,
        encoded=encoded,
        pretrained=bool(material.pretraining) or material.weights_from is not None,
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    return trainer, trainer.finish()


def _train_ensemble(
    material: _Material,
    config: RewardConfig,
) -> tuple[EnsembleRewardModel, dict[str, Any], RewardTrainer]:
    """Members that differ in their initial weights, the order of the data and dropout; the trunk is shared, and the
    videos are encoded once."""
    members, scores, each = [], [], []
    encoded: EncodedVideos | None = None
    first: RewardTrainer | None = None
    for number in range(config.ensemble):
        own = copy.copy(config)
        own.seed, own.data_seed = config.seed + number, None
        folder = Path(str(config.output_dir)) / f"{MEMBER}-{number}"
        own.output_dir = str(folder)
        # A member that was trained to its end before an interruption goes on from its own newest state too.
        own.resume_from_checkpoint = newest_checkpoint(folder) if config.resume_from_checkpoint else None
        trainer, metrics = _train_one(material, own, encoded)
        first, encoded = first or trainer, trainer.encoded
        members.append(trainer.reward_model)
        scores.append(trainer.all_scores())
        each.append(metrics)
    assert first is not None
    stacked = torch.stack(scores)
    figures = first.measure(stacked.mean(0))
    for dimension in members[0].dimensions:
        accuracies = [
            member[dimension]["held_out"]["accuracy"]["mean"]
            for member in each
            if member[dimension]["held_out"]
        ]
        figures[dimension]["members"] = accuracies
    figures["disagreement"] = {
        name: float(stacked[:, :, number].std(0).mean()) for number, name in enumerate(members[0].dimensions)
    }
    figures["loss"] = each[0]["loss"]
    ensemble = EnsembleRewardModel(members, str(config.output_dir))
    for name in ensemble.dimensions:
        train = figures[name]["train"]
        if train is not None:
            ensemble.temperature[name] = train["temperature"]
            ensemble.tie_threshold[name] = train["tie_threshold"]
    return ensemble, figures, first
