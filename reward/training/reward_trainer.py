"""Trains a latent reward model on K-way rankings.

The order of things: rankings are split by prompt → every video is read and encoded once → the frozen trunk's
features are kept → the head (and a LoRA of the trunk, where asked for) is trained on the likelihood of the
rankings → the epoch with the lowest validation loss is kept → scores are normalised → tie threshold and
temperature are chosen on the validation split → figures are measured on held-out prompts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from generator.hardware.zero3 import whole_weights, zero_stage
from generator.output import InputError, atomic_path
from generator.training.checkpoints import CheckpointingTrainer
from reward.metrics import Pairs, evaluate_pairs, pairs_of_rankings
from reward.models.latent import LatentRewardModel
from reward.preferences import Ranking
from reward.training.matching_pretraining import DemonstrationMatching
from reward.training.near_miss_pretraining import RankingPretraining
from reward.training.ranking_data import EncodedVideos, RankingCollator, RankingDataset, encode_videos
from reward.training.ranking_model import RankingLikelihood, RankingModel, with_trunk_tokens
from reward.training.reward_config import RewardConfig, with_evaluation

BEST_NAME = "best.safetensors"


class KeepBest(TrainerCallback):
    """Remembers the weights with the lowest validation loss, restores them, and stops when nothing gets
    better.

    Checkpoints hold the memory, so that a resumed run remembers what came before.

    Args:
        first_step: evaluations before it do not count. An untrained head gives every video the same score, and on few
            validation prompts that is easily the best: such a model would be of no use.
    """

    def __init__(self, model: nn.Module, patience: int, first_step: int = 0) -> None:
        self.model = model
        self.patience = patience
        self.first_step = first_step
        self.best_loss = float("inf")
        self.best_epoch: float | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.waited = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None or state.global_step < min(self.first_step, state.max_steps):
            return
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = loss, state.epoch, 0
            with whole_weights(self._trained().values()):
                self.best_weights = {name: p.detach().clone() for name, p in self._trained().items()}
        else:
            self.waited += 1
            if self.patience and self.waited >= self.patience:
                control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.best_weights is not None:
            trained = self._trained()
            with torch.no_grad(), whole_weights(trained.values(), changed=True):
                for name, value in self.best_weights.items():
                    trained[name].copy_(value)

    def save(self, folder: Path) -> None:
        """Writes the memory into a checkpoint."""
        if self.best_weights is not None:
            memory = {"loss": self.best_loss, "epoch": self.best_epoch, "waited": self.waited}
            with atomic_path(folder / BEST_NAME) as temporary:
                weights = {name: value.cpu().contiguous() for name, value in self.best_weights.items()}
                save_file(weights, temporary, metadata={"memory": json.dumps(memory)})

    def load(self, folder: Path) -> None:
        """Takes back what `save` wrote, if the checkpoint has it."""
        if not (folder / BEST_NAME).is_file():
            return
        with safe_open(folder / BEST_NAME, "pt") as file:
            memory = json.loads(file.metadata()["memory"])
        trained = self._trained()
        weights = load_file(folder / BEST_NAME)
        self.best_weights = {name: value.to(trained[name].device) for name, value in weights.items()}
        self.best_loss, self.best_epoch, self.waited = memory["loss"], memory["epoch"], memory["waited"]

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


class RankingTrainer(CheckpointingTrainer):
    """A trainer of a model that gives the loss of its inputs and its scores; evaluation needs the loss alone.

    Raises:
        InputError: with FSDP.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            raise InputError(
                "reward does not train with FSDP: use --accelerate_config zero2, zero3 or multi_gpu."
            )

    keep_best: KeepBest

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes what is trained (frozen weights come from the base model again) and the best weights so far."""
        model: Any = self.model
        if state_dict is None:
            state_dict = dict(model.state_dict())
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        own = {name: v.detach().cpu().contiguous() for name, v in state_dict.items() if name not in frozen}
        super()._save(output_dir, own)
        if self.args.should_save and output_dir is not None:
            self.keep_best.save(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the trained weights of a checkpoint."""
        folder = Path(resume_from_checkpoint)
        if not (folder / "model.safetensors").is_file():
            raise InputError(
                f"{folder} is not a checkpoint of a reward model, as it has no model.safetensors: give a checkpoint "
                "folder."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.keep_best.load(Path(checkpoint))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Frozen weights are not in checkpoints on purpose."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss, scores = model(**inputs)
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


def store_normalisation(model: Any, raw: Tensor) -> None:
    """Mean and standard deviation of raw scores `[videos, dimensions]` become the model's z-normalisation."""
    # Anew and in float32, since an engine may have brought the buffers to bfloat16.
    model.score_mean = raw.mean(0).to(model.score_mean.device)
    model.score_std = raw.std(0, correction=0).clamp(min=1e-6).to(model.score_std.device)


class RewardTrainer(RankingTrainer):
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
        replay: rankings that taught the model before; their loss is added with `args.replay_weight`.
        encoded: the videos of all these rankings where another member of an ensemble has encoded them.
        pretrained: whether the model has learned something already, which then is evaluated too.
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
        replay: RankingPretraining | None = None,
        encoded: EncodedVideos | None = None,
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        self.reward_model = model
        self.matching = matching
        self.replay = replay if args.replay_weight else None
        everything = [*train_dataset, *eval_dataset, *test_dataset]
        self.encoded = encoded or encode_videos(
            model, everything, args.encode_batch_size, latents, progress=not args.disable_tqdm
        )
        annotators = _compared_annotators(train_dataset) if args.annotator_reliability else []
        train, validation, test = (
            RankingDataset(rankings, self.encoded, model.dimensions, annotators)
            for rankings in (train_dataset, eval_dataset, test_dataset)
        )
        _check_has_order(train, model.dimensions)
        self.test_rankings = test
        rows = torch.unique(torch.cat([item["videos"] for item in train.items]))
        model.fit_evidence_scale(
            self.encoded.features.evidence[rows.to(self.encoded.features.evidence.device)]
        )
        self._training_rows = rows
        self._running: dict[str, list[float]] = defaultdict(list)
        args = with_evaluation(args, len(validation) > 0, matching is not None or pretrained)
        likelihood = RankingLikelihood(args.loss_type, annotators, prior=1 / len(train))
        self.ranking_model = RankingModel(model, likelihood.to(model.device), args.dimension_weights)
        if model.config.trains_trunk and zero_stage(args) == 3:
            _check_partitioned_trunk(model)
            # ZeRO-3 gathers the weights of those modules alone that it knows.
            self.ranking_model.trunk = model.generator.transformer
        self.train_rankings, self.validation_rankings = train, validation
        self.loss_type = args.loss_type
        super().__init__(
            model=self.ranking_model,
            args=args,
            data_collator=RankingCollator(self.encoded, trains_trunk=model.config.trains_trunk),
            train_dataset=train,
            eval_dataset=validation if len(validation) else None,
            **kwargs,
        )
        untrained = matching is None and not pretrained
        self.keep_best = KeepBest(
            self.ranking_model, args.early_stopping_patience, int(args.warmup_steps) if untrained else 0
        )
        if args.select_best and len(validation):
            self.add_callback(self.keep_best)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with the trunk in groups of their own learning rate."""
        optimizer = super().create_optimizer(model)
        assert isinstance(self.args, RewardConfig)
        rate = self.args.trunk_learning_rate or (
            self.args.learning_rate / 10 if self.reward_model.config.full_trunk else self.args.learning_rate
        )
        trunk = {id(parameter) for parameter in self.reward_model.trunk_parameters()}
        for group in list(optimizer.param_groups):
            own = [parameter for parameter in group["params"] if id(parameter) in trunk]
            if own:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in trunk]
                settings = {name: value for name, value in group.items() if name != "params"}
                optimizer.add_param_group({**settings, "params": own, "lr": rate})
        return optimizer

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
                self._running["rewards/accuracies"].append(float((margins.sign() + 1).mean() / 2))
                self._running["rewards/margins"].append(float(margins.mean()))
            for name, value in self.ranking_model.likelihood.learned.items():
                self._running[f"loss/{name}"].append(value.item())
            if self.matching is not None:
                contrast = self.matching.loss()
                self._running["loss/matching"].append(contrast.item())
                loss = loss + contrast
            if self.replay is not None:
                loss = loss + self._replayed()
        return (loss, {"scores": scores}) if return_outputs else loss

    def _replayed(self) -> Tensor:
        """Weighted loss of rankings that taught the model before; seed, step and process alone choose them."""
        assert self.replay is not None
        assert isinstance(self.args, RewardConfig)
        place = self.state.global_step * self.args.world_size + self.args.process_index
        random = torch.Generator().manual_seed(self.args.seed * 1_000_003 + place)
        loss = self.replay.replayed_loss(self.args.replay_batch_size, random)
        self._running["loss/replay"].append(loss.item())
        return self.args.replay_weight * loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update({name: float(np.mean(values)) for name, values in self._running.items() if values})
            self._running.clear()
        super().log(logs, start_time)

    @torch.no_grad()
    def raw_scores(self, rows: Tensor, batch_size: int = 256) -> Tensor:
        """Raw scores `[rows, dimensions]` of encoded videos, on the CPU."""
        model = self.reward_model.eval()
        # A trunk may be read without its own forward pass, for which alone ZeRO-3 gathers the weights outside blocks.
        with whole_weights(model.generator.transformer.parameters(recurse=False)):
            return torch.cat([self._raw_scores_of(chunk).cpu() for chunk in rows.split(batch_size)])

    def _raw_scores_of(self, chunk: Tensor) -> Tensor:
        model, known = self.reward_model, self.encoded.features
        features = known[chunk.to(known.tokens.device)].to(model.device)
        if model.config.trains_trunk:
            conditions = {name: value[chunk] for name, value in self.encoded.conditions.items()}
            features = with_trunk_tokens(model, features, self.encoded.latents[chunk], conditions)
        return model(features)[:, : len(model.config.sigmas)].float().mean(dim=1)

    def all_scores(self) -> Tensor:
        """z-normalised scores `[videos, dimensions]` of all encoded videos, on the CPU."""
        raw = self.raw_scores(torch.arange(len(self.encoded.index)))
        return self.reward_model.normalise(raw.to(self.reward_model.device)).cpu()

    def finish(self) -> dict[str, Any]:
        """Stores score normalisation, temperature and tie threshold in the model; returns the figures on held-out
        prompts."""
        model = self.reward_model
        raw = self.raw_scores(self._training_rows)
        store_normalisation(model, raw)
        metrics = self.measure(self.all_scores())
        for dimension in model.dimensions:
            figures = metrics[dimension]["train"]
            if figures is not None:
                model.config.temperature[dimension] = figures["temperature"]
                model.config.tie_threshold[dimension] = figures["tie_threshold"]
        metrics["best_epoch"] = self.keep_best.best_epoch
        likelihood = self.ranking_model.likelihood
        with whole_weights(likelihood.parameters()):
            learned = {name: value.item() for name, value in likelihood.parameters_of_loss().items()}
            metrics["loss"] = {"type": self.loss_type, **learned}
            if likelihood.reliability is not None:
                metrics["annotators"] = likelihood.reliabilities()
        return metrics

    def measure(self, scores: Tensor) -> dict[str, Any]:
        """Figures of each dimension on the training and the held-out prompts, given scores `[videos, dimensions]` of
        all encoded videos."""
        metrics: dict[str, Any] = {}
        for number, dimension in enumerate(self.reward_model.dimensions):
            train, validation, test = (
                _scored_pairs(split, scores[:, number], number)
                for split in (self.train_rankings, self.validation_rankings, self.test_rankings)
            )
            calibration, source = (validation, "validation") if len(validation) else (train, "train")
            metrics[dimension] = {
                "train": evaluate_pairs(train, calibration) if len(train) else None,
                "held_out": evaluate_pairs(test, calibration) if len(test) else None,
                "calibrated_on": source,
            }
        return metrics


def _compared_annotators(rankings: Sequence[Ranking]) -> list[str]:
    """The annotators whose reliability is learnt.

    Raises:
        InputError: there are fewer than two.
    """
    annotators = sorted({ranking.annotator for ranking in rankings if ranking.annotator})
    if len(annotators) < 2:
        raise InputError(
            f"The rankings name {len(annotators)} annotators, but --annotator_reliability compares at least 2: "
            "give rankings with `annotator`, or leave it off."
        )
    return annotators


def _check_has_order(train: RankingDataset, dimensions: Sequence[str]) -> None:
    if not any(ranking.has_order for ranking in train.rankings):
        raise InputError(
            f"None of the {len(train)} training rankings has an order in {', '.join(dimensions)}: "
            "add rankings, hold out less, or name other dimensions."
        )


def _check_partitioned_trunk(model: LatentRewardModel) -> None:
    if model.config.full_trunk:
        raise InputError(
            "--full_trunk is set with DeepSpeed ZeRO-3, which partitions the trunk's weights: use ZeRO-2, or a "
            "LoRA (--lora_rank)."
        )


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
