"""Trains a latent reward model on K-way rankings.

The order of things: rankings are split by prompt → every video is read and encoded once → the frozen trunk's
features are kept → the head (and a LoRA of the trunk, where asked for) is trained on the likelihood of the
rankings → the epoch with the lowest validation loss is kept → scores are normalised → tie threshold and
temperature are chosen on the validation split → figures are measured on held-out prompts.
"""

from __future__ import annotations

import copy
import hashlib
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, set_seed

from generator.base import VideoGenerator
from generator.demonstrations import Demonstration
from generator.output import InputError, write_json
from reward.losses import LOSSES
from reward.matching_training import DemonstrationMatching
from reward.metrics import Pairs, evaluate_pairs, pairs_of_rankings
from reward.models.latent import Features, LatentRewardConfig, LatentRewardModel
from reward.preferences import DIMENSIONS, Ranking, split_by_prompt
from reward.ranking_data import EncodedVideos, RankingCollator, RankingDataset, encode_videos
from reward.reward_config import RewardConfig


class RankingLikelihood(nn.Module):
    """A loss of `reward.losses` with its tie parameter, which is learned where the loss has one."""

    def __init__(self, loss_type: str) -> None:
        super().__init__()
        self.loss_type = loss_type
        # softplus(0.54) = 1, so theta starts at 2 and nu at 1: both say that ties are neither rare nor the
        # rule.
        start = torch.tensor(0.5413)
        self.tie = nn.Parameter(start) if loss_type in ("rao_kupper", "davidson") else None

    def parameters_of_loss(self) -> dict[str, Tensor]:
        if self.tie is None:
            return {}
        strength = F.softplus(self.tie)
        return {"theta": 1 + strength} if self.loss_type == "rao_kupper" else {"nu": strength}

    def forward(self, scores: Tensor, ranks: Tensor) -> Tensor:
        """Mean loss of the rankings that the loss can learn from; `scores` and `ranks` are `[batch, K]`."""
        loss = LOSSES[self.loss_type](scores, ranks, **self.parameters_of_loss())
        judged = ranks >= 0
        informative = judged.sum(1) > 1
        if self.loss_type == "bradley_terry":
            highest = torch.where(judged, ranks, ranks.new_full((), -1)).amax(1)
            lowest = torch.where(judged, ranks, ranks.new_full((), 10**9)).amin(1)
            informative = informative & (highest > lowest)
        return (loss * informative).sum() / informative.sum().clamp(min=1)


class RankingModel(nn.Module):
    """Reward model and likelihood together: what the optimiser sees."""

    def __init__(self, reward_model: LatentRewardModel, loss_type: str) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.likelihood = RankingLikelihood(loss_type)

    def forward(
        self,
        videos: Tensor,
        ranks: Tensor,
        dimension: Tensor,
        evidence: Tensor,
        text: Tensor,
        tokens: Tensor | None = None,
        is_video: Tensor | None = None,
        latents: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and scores `[batch, K]`; arguments as `RankingCollator` makes them."""
        if tokens is None or is_video is None:
            assert latents is not None
            assert conditions is not None
            tokens, is_video = self.reward_model.trunk_tokens(latents, conditions)
        raw = self.reward_model(Features(tokens, is_video, evidence, text))
        raw = raw[videos].take_along_dim(dimension[:, None, None, None], dim=3).squeeze(3)
        # Each noise level is scored on its own, which augments the data; the score in use is their mean.
        loss = torch.stack([self.likelihood(scores, ranks) for scores in raw.unbind(dim=2)]).mean()
        return loss, raw.mean(dim=2)


class KeepBest(TrainerCallback):
    """Remembers the weights with the lowest validation loss, restores them, and stops when nothing gets
    better.

    The memory does not outlive the process: after a resume, the best evaluation since the resume is kept.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model = model
        self.patience = patience
        self.best_loss = float("inf")
        self.best_epoch: float | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.waited = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None:
            return
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = loss, state.epoch, 0
            self.best_weights = copy.deepcopy(self.model.state_dict())
        else:
            self.waited += 1
            if self.patience and self.waited >= self.patience:
                control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


class RewardTrainer(Trainer):
    """`transformers.Trainer` for K-way rankings.

    Args:
        model: the untrained reward model.
        args: see `RewardConfig`.
        train_dataset: rankings to learn from.
        eval_dataset: rankings of other prompts for choosing the epoch, the tie threshold and the
            temperature; may be empty.
        test_dataset: rankings of yet other prompts for the final figures; may be empty.
        latents: already known latents of video files, which then need not be read.
        matching: demonstrations whose contrastive loss is added to that of the rankings, so that the matching
            they taught is not forgotten.
    """

    def __init__(
        self,
        model: LatentRewardModel,
        args: RewardConfig,
        train_dataset: Sequence[Ranking],
        eval_dataset: Sequence[Ranking] = (),
        test_dataset: Sequence[Ranking] = (),
        latents: dict[Path, Tensor] | None = None,
        matching: DemonstrationMatching | None = None,
        **kwargs: Any,
    ) -> None:
        self.reward_model = model
        self.matching = matching
        everything = [*train_dataset, *eval_dataset, *test_dataset]
        self.encoded: EncodedVideos = encode_videos(
            model, everything, args.encode_batch_size, latents, progress=not args.disable_tqdm
        )
        train, validation, test = (
            RankingDataset(rankings, self.encoded, model.dimensions)
            for rankings in (train_dataset, eval_dataset, test_dataset)
        )
        if not any(ranking.has_order for ranking in train.rankings):
            raise InputError(
                f"None of the {len(train)} training rankings has an order in {', '.join(model.dimensions)}: "
                "add rankings, hold out less, or name other dimensions."
            )
        self.test_rankings = test
        rows = torch.unique(torch.cat([item["videos"] for item in train.items]))
        model.fit_evidence_scale(self.encoded.evidence[rows])
        self._training_rows = rows
        self._running: dict[str, list[float]] = defaultdict(list)
        if not len(validation):
            args.eval_strategy = "no"
        elif matching is not None:
            # What demonstrations taught may already be the best that validation sees.
            args.eval_on_start = True
        self.ranking_model = RankingModel(model, args.loss_type)
        self.train_rankings, self.validation_rankings = train, validation
        self.loss_type = args.loss_type
        super().__init__(
            model=self.ranking_model,
            args=args,
            data_collator=RankingCollator(self.encoded),
            train_dataset=train,
            eval_dataset=validation if len(validation) else None,
            **kwargs,
        )
        self.keep_best = KeepBest(self.ranking_model, args.early_stopping_patience)
        if args.select_best and len(validation):
            self.add_callback(self.keep_best)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss, scores = model(**inputs)
        if model.training:
            margins = _margins(scores.detach(), inputs["ranks"])
            if len(margins):
                self._running["rewards/accuracies"].append(float((margins > 0).float().mean()))
                self._running["rewards/margins"].append(float(margins.mean()))
            for name, value in self.ranking_model.likelihood.parameters_of_loss().items():
                self._running[f"loss/{name}"].append(value.item())
            if self.matching is not None:
                contrast = self.matching.loss()
                self._running["loss/matching"].append(contrast.item())
                loss = loss + contrast
        return (loss, {"scores": scores}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        with torch.no_grad():
            loss, _ = model(**self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update({name: float(np.mean(values)) for name, values in self._running.items() if values})
            self._running.clear()
        super().log(logs, start_time)

    @torch.no_grad()
    def raw_scores(self, rows: Tensor, batch_size: int = 256) -> Tensor:
        """Raw scores `[rows, dimensions]` of encoded videos, on the CPU."""
        model = self.reward_model.eval()
        parts = []
        for chunk in rows.split(batch_size):
            evidence, text = self.encoded.evidence[chunk], self.encoded.text[chunk]
            if self.encoded.features is not None:
                features = self.encoded.features[chunk]
            else:
                conditions = {name: value[chunk] for name, value in self.encoded.conditions.items()}
                tokens = model.trunk_tokens(self.encoded.latents[chunk], conditions)
                features = Features(*tokens, evidence.to(model.device), text.to(model.device))
            parts.append(model(features.to(model.device)).mean(dim=1).cpu())
        return torch.cat(parts)

    def finish(self) -> dict[str, Any]:
        """Stores score normalisation and temperature in the model; returns the figures on held-out
        prompts."""
        model = self.reward_model
        raw = self.raw_scores(self._training_rows)
        model.score_mean.copy_(raw.mean(0))
        model.score_std.copy_(raw.std(0, correction=0).clamp(min=1e-6))
        scores = model.normalise(
            self.raw_scores(torch.arange(len(self.encoded.index))).to(model.device)
        ).cpu()
        metrics: dict[str, Any] = {}
        for number, dimension in enumerate(model.dimensions):
            train, validation, test = (
                _scored_pairs(split, scores[:, number], number)
                for split in (self.train_rankings, self.validation_rankings, self.test_rankings)
            )
            calibration, source = (validation, "validation") if len(validation) else (train, "train")
            figures: dict[str, Any] = {"train": evaluate_pairs(train, calibration) if len(train) else None}
            figures["held_out"] = evaluate_pairs(test, calibration) if len(test) else None
            figures["calibrated_on"] = source
            metrics[dimension] = figures
            if figures["train"] is not None:
                model.config.temperature[dimension] = figures["train"]["temperature"]
        metrics["best_epoch"] = self.keep_best.best_epoch
        metrics["loss"] = {
            "type": self.loss_type,
            **{
                name: value.item()
                for name, value in self.ranking_model.likelihood.parameters_of_loss().items()
            },
        }
        return metrics


def _margins(scores: Tensor, ranks: Tensor) -> Tensor:
    """Score differences, preferred minus other, of all untied judged pairs in a batch."""
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)
    return (scores[:, :, None] - scores[:, None, :])[better]


def _scored_pairs(split: RankingDataset, scores: Tensor, dimension: int) -> Pairs:
    chosen = [(i, r) for i, r in zip(split.items, split.rankings) if int(i["dimension"]) == dimension]
    return pairs_of_rankings(
        [scores[item["videos"]].numpy() for item, _ in chosen],
        [ranking.ranks for _, ranking in chosen],
        [ranking.prompt for _, ranking in chosen],
    )


def split_rankings(
    rankings: Sequence[Ranking], held_out_fraction: float, validation_fraction: float, seed: int
) -> tuple[list[Ranking], list[Ranking], list[Ranking]]:
    """`(train, validation, held_out)` by prompt; splits that there are too few prompts for stay empty."""
    prompts = len({ranking.prompt for ranking in rankings})
    rest, held_out = split_by_prompt(rankings, held_out_fraction if prompts >= 2 else 0.0, seed)
    remaining = len({ranking.prompt for ranking in rest})
    share = validation_fraction / max(1e-9, 1 - held_out_fraction)
    enough = validation_fraction > 0 and remaining >= 4
    train, validation = split_by_prompt(rest, min(share, 0.5) if enough else 0.0, seed + 1)
    return train, validation, held_out


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("vidalign", "torch", "transformers", "diffusers", "peft", "accelerate", "numpy", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
    dimensions = config.dimensions or [name for name in DIMENSIONS if name in found]
    missing = [name for name in dimensions if name not in found]
    if missing:
        raise InputError(
            f"The rankings have no dimension {missing[0]!r}, only {', '.join(sorted(found))}: name one of "
            "these."
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
            implicit_evidence=config.implicit_evidence,
            evidence_sigmas=tuple(config.evidence_sigmas),
            evidence_draws=config.evidence_draws,
            lora_rank=config.lora_rank,
            lora_target_modules=tuple(config.lora_target_modules),
            num_frames=size[0],
            height=size[1],
            width=size[2],
        ),
        generator,
        trunk_adapter=trunk_adapter,
    )


def train_reward_model(
    generator: VideoGenerator,
    rankings: Sequence[Ranking],
    config: RewardConfig,
    trunk_adapter: str | Path | None = None,
    source: str | Path | None = None,
    latents: dict[Path, Tensor] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    demonstrations: Sequence[Demonstration] = (),
) -> tuple[LatentRewardModel, dict[str, Any]]:
    """Trains a reward model, writes it with `metrics.json` and `training.json` to `config.output_dir`.

    Args:
        generator: the trunk; an instance of its own, not the policy's (see `LatentRewardModel`).
        rankings: from `reward.preferences.read_rankings`.
        config: see `RewardConfig`.
        trunk_adapter: folder of the adapter that `generator` was loaded with, if any.
        source: the rankings file, whose hash is stored.
        latents: already known latents of video files, which then are not read.
        callbacks: further callbacks of the trainer.
        demonstrations: videos that show what their prompts say; the matching head learns from them first.

    Returns:
        The model in evaluation mode and the figures of `metrics.json`:
        `{dimension: {train, held_out: {accuracy: {mean, low, high, n, clusters}, accuracy_with_ties, …}}}`.
    """
    model = build_reward_model(generator, config, rankings, trunk_adapter, bool(demonstrations))
    train, validation, held_out = split_rankings(
        rankings, config.held_out_fraction, config.validation_fraction, config.seed
    )
    matching = None
    if demonstrations:
        matching = DemonstrationMatching(
            model,
            demonstrations,
            config.matching_batch_size,
            config.seed,
            config.encode_batch_size,
            latents,
        )
        if config.resume_from_checkpoint is None:
            matching.pretrain(config.matching_steps, config.matching_learning_rate, not config.disable_tqdm)
    trainer = RewardTrainer(
        model,
        config,
        train,
        eval_dataset=validation,
        test_dataset=held_out,
        latents=latents,
        matching=matching,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    metrics = trainer.finish()
    if trainer.is_world_process_zero():
        output_dir = Path(str(config.output_dir))
        model.save_pretrained(output_dir)
        write_json(output_dir / "metrics.json", metrics)
        write_json(
            output_dir / "training.json",
            {
                "base_model": generator.name,
                "trunk_adapter": None if trunk_adapter is None else str(trunk_adapter),
                "preferences": None
                if source is None
                else {"file": str(source), "sha256": file_hash(source), "rankings": len(rankings)},
                "demonstrations": len(demonstrations),
                "rankings_without_order": sum(not ranking.has_order for ranking in rankings),
                "split": {
                    name: len({ranking.prompt for ranking in part})
                    for name, part in (("train", train), ("validation", validation), ("held_out", held_out))
                },
                "arguments": config.to_sanitized_dict(),
                "versions": versions(),
                "metrics": metrics,
            },
        )
    return model.eval(), metrics
