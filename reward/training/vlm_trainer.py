"""Trains a vision-language reward model on K-way rankings of video files.

The order of things: rankings are split by prompt → each step decodes the videos of its rankings at the model's frame
rate and pixel budget and scores them → the likelihood of the rankings is maximised over heads, token embeddings and
LoRA → scores are normalised on the training videos → tie threshold and temperature are chosen on the validation
prompts → figures are measured on held-out prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import set_seed

from generator.bounded_reading import read_within
from generator.hardware.zero3 import outside_engine, whole_weights
from generator.output import InputError, write_json
from generator.provenance import file_hash, versions
from reward.losses import informative, masked_dimensions
from reward.metrics import Pairs, evaluate_pairs, pairs_of_rankings
from reward.models.vlm import VLMRewardConfig, VLMRewardModel
from reward.models.vlm_loading import VideoBudget, load_vision_language_model
from reward.preferences import DIMENSIONS, MISSING, Ranking, in_known_order, split_rankings
from reward.training.ranking_data import padded_weights
from reward.training.ranking_model import RankingLikelihood
from reward.training.reward_config import RewardConfig, with_evaluation
from reward.training.reward_trainer import KeepBest, RankingTrainer, store_normalisation

LATENT_ONLY = (
    *("annotator_reliability", "ensemble", "noise_conditioned", "implicit_evidence", "decoded_frames"),
    *("full_trunk", "replay_weight", "architecture"),
)
"""Settings of `RewardConfig` that a vision-language model has no use for."""
CACHED_BYTES = 2**30
"""Size of the decoded videos that are kept for the next batch."""


@dataclass
class VLMArguments:
    """Arguments of a vision-language reward model (`--model_type vlm`)."""

    vlm: str = field(
        default="",
        metadata={
            "help": "Folder or hub id of an image-text-to-text model, such as Qwen/Qwen2.5-VL-3B-Instruct."
        },
    )
    vlm_settings: str = field(
        default="",
        metadata={
            "help": "A checkpoint folder of VideoReward, whose base model, dimensions, frame rate, pixel budget and "
            "LoRA are taken over (its weights are not)."
        },
    )
    frame_rate: float = field(default=2.0, metadata={"help": "Frames a second that the model sees."})
    max_frames: int = field(default=32, metadata={"help": "At most so many frames of a video."})
    max_frame_pixels: int = field(default=448 * 448, metadata={"help": "Largest area of a frame in pixels."})
    lora_learning_rate: float = field(
        default=1e-4,
        metadata={"help": "Learning rate of the LoRA; heads and tokens have --learning_rate."},
    )


class _Rankings(Dataset[Ranking]):
    def __init__(self, rankings: Sequence[Ranking]) -> None:
        self.rankings = list(rankings)

    def __len__(self) -> int:
        return len(self.rankings)

    def __getitem__(self, index: int) -> Ranking:
        return self.rankings[index]


_videos: dict[Path, tuple[Tensor, float]] = {}


def _decoded(path: Path) -> tuple[Tensor, float]:
    """A video and its frames a second; the latest ones are kept."""
    if path not in _videos:
        found = read_within(path)
        while _videos and found[0].nbytes + sum(video.nbytes for video, _ in _videos.values()) > CACHED_BYTES:
            _videos.pop(next(iter(_videos)))
        _videos[path] = found
    return _videos[path]


@dataclass
class VideoRankingCollator:
    """Decodes each distinct video of a batch once, and pads rankings to the longest (rank -1)."""

    model: VLMRewardModel

    def __call__(self, rankings: Sequence[Ranking]) -> dict[str, Any]:
        keys = list(dict.fromkeys((r.prompt, path) for r in rankings for path in r.videos))
        row = {key: number for number, key in enumerate(keys)}
        read = [_decoded(path) for _, path in keys]
        longest = max(len(ranking.videos) for ranking in rankings)
        ranks = torch.full((len(rankings), longest), MISSING)
        votes = torch.full((len(rankings), longest), float("nan"))
        videos = torch.zeros((len(rankings), longest), dtype=torch.long)
        for number, ranking in enumerate(rankings):
            size = len(ranking.ranks)
            ranks[number, :size] = torch.tensor(ranking.ranks)
            if ranking.votes is not None:
                votes[number, :size] = torch.tensor(ranking.votes)
            videos[number, :size] = torch.tensor([row[ranking.prompt, path] for path in ranking.videos])
        batch: dict[str, Any] = {
            "inputs": self.model.prepare(
                [v for v, _ in read], [fps for _, fps in read], [p for p, _ in keys]
            ),
            "videos": videos,
            "ranks": ranks,
            "votes": votes,
            "dimension": torch.tensor([self.model.dimensions.index(r.dimension) for r in rankings]),
        }
        if any(ranking.weights for ranking in rankings):
            own = [None if each.weights is None else torch.tensor(each.weights) for each in rankings]
            batch["weights"] = padded_weights(own, longest)
        return batch


class _RankedVideos(nn.Module):
    """Reward model and likelihood together: what the optimiser sees."""

    def __init__(
        self, reward_model: VLMRewardModel, loss_type: str, dimension_weights: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.likelihood = RankingLikelihood(loss_type).to(reward_model.device)
        weights = list(dimension_weights) or [1.0] * len(reward_model.dimensions)
        self.dimension_weights = torch.tensor(weights)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.reward_model.gradient_checkpointing_enable(**kwargs)

    def forward(
        self,
        inputs: dict[str, Tensor],
        videos: Tensor,
        ranks: Tensor,
        votes: Tensor,
        dimension: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and scores `[batch, K]`; arguments as `VideoRankingCollator` makes them."""
        raw = self.reward_model(inputs).float()
        scores = raw[videos, dimension[:, None]]
        own = dimension[:, None] == torch.arange(raw.shape[1], device=dimension.device)
        mask = own & informative(ranks, self.likelihood.loss_type)[:, None]
        losses = self.likelihood(scores, ranks, votes, weights=weights)[:, None].expand(mask.shape)
        return masked_dimensions(losses, mask, self.dimension_weights.to(losses)), scores


class VLMRewardTrainer(RankingTrainer):
    """`transformers.Trainer` for rankings of video files and a `VLMRewardModel`.

    Args:
        model: the untrained reward model.
        args: see `RewardConfig`; only its training arguments, `loss_type`, dimensions and the split matter here.
        train_dataset, eval_dataset, test_dataset: rankings of different prompts.
        lora_learning_rate: of the LoRA.
    """

    def __init__(
        self,
        model: VLMRewardModel,
        args: RewardConfig,
        train_dataset: Sequence[Ranking],
        eval_dataset: Sequence[Ranking] = (),
        test_dataset: Sequence[Ranking] = (),
        lora_learning_rate: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        self.reward_model = model
        self.lora_learning_rate = lora_learning_rate
        self.splits = [
            [r for r in part if r.dimension in model.dimensions]
            for part in (train_dataset, eval_dataset, test_dataset)
        ]
        train, validation, _ = self.splits
        if not any(ranking.has_order for ranking in train):
            raise InputError(
                f"None of the {len(train)} training rankings has an order in {', '.join(model.dimensions)}: "
                "add rankings, hold out less, or name other dimensions."
            )
        super().__init__(
            model=_RankedVideos(model, args.loss_type, args.dimension_weights),
            args=with_evaluation(args, bool(validation)),
            data_collator=VideoRankingCollator(model),
            train_dataset=_Rankings(train),
            eval_dataset=_Rankings(validation) if validation else None,
            **kwargs,
        )
        self.keep_best = KeepBest(model, args.early_stopping_patience)
        if args.select_best and validation:
            self.add_callback(self.keep_best)

    def create_optimizer(self, *arguments: Any, **kwargs: Any) -> torch.optim.Optimizer:
        model: Any = self.model
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        lora = [p for n, p in named if ".reward." in n]
        others = [p for n, p in named if ".reward." not in n]
        groups: list[dict[str, Any]] = [{"params": others, "lr": self.args.learning_rate}]
        if lora:
            groups.append({"params": lora, "lr": self.lora_learning_rate})
        decay = self.args.weight_decay
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate, weight_decay=decay)
        return self.optimizer

    def finish(self) -> dict[str, Any]:
        """Stores score normalisation and temperature in the model; returns the figures of each dimension."""
        model = self.reward_model
        train, validation, test = self.splits
        raw = self._raw_scores([*train, *validation, *test])
        known = torch.stack([raw[key] for key in dict.fromkeys(_keys(train))])
        store_normalisation(model, known)
        scores = {key: model.normalise(value.to(model.device)).cpu() for key, value in raw.items()}
        metrics: dict[str, Any] = {}
        for number, dimension in enumerate(model.dimensions):
            pairs = [_pairs(part, dimension, number, scores) for part in self.splits]
            calibration = pairs[1] if len(pairs[1]) else pairs[0]
            metrics[dimension] = {
                "train": evaluate_pairs(pairs[0], calibration) if len(pairs[0]) else None,
                "held_out": evaluate_pairs(pairs[2], calibration) if len(pairs[2]) else None,
                "calibrated_on": "validation" if len(pairs[1]) else "train",
            }
            if metrics[dimension]["train"] is not None:
                model.config.temperature[dimension] = metrics[dimension]["train"]["temperature"]
        metrics["best_epoch"] = self.keep_best.best_epoch
        return metrics

    @torch.no_grad()
    def _raw_scores(self, rankings: Sequence[Ranking]) -> dict[tuple[str, Path], Tensor]:
        model = self.reward_model.eval()
        keys = list(dict.fromkeys(_keys(rankings)))
        scores: dict[tuple[str, Path], Tensor] = {}
        size = 4 * self.args.per_device_train_batch_size
        for start in tqdm(range(0, len(keys), size), desc="Scoring", disable=self.args.disable_tqdm):
            chunk = keys[start : start + size]
            read = [_decoded(path) for _, path in chunk]
            inputs = model.prepare([v for v, _ in read], [fps for _, fps in read], [p for p, _ in chunk])
            scores.update(zip(chunk, model(inputs).float().cpu()))
        return scores


def _keys(rankings: Sequence[Ranking]) -> list[tuple[str, Path]]:
    return [(ranking.prompt, path) for ranking in rankings for path in ranking.videos]


def _pairs(
    rankings: Sequence[Ranking], dimension: str, number: int, scores: dict[tuple[str, Path], Tensor]
) -> Pairs:
    chosen = [ranking for ranking in rankings if ranking.dimension == dimension]
    return pairs_of_rankings(
        [[float(scores[r.prompt, path][number]) for path in r.videos] for r in chosen],
        [r.ranks for r in chosen],
        [r.prompt for r in chosen],
    )


def vlm_reward_config(
    arguments: VLMArguments, config: RewardConfig, rankings: Sequence[Ranking]
) -> VLMRewardConfig:
    """Configuration of the model: from the flags, or from the settings of a VideoReward checkpoint.

    Raises:
        InputError: no model is named, the rankings lack a dimension, or a setting is for latent models.
    """
    from reward.models.vlm import LORA_TARGETS, video_reward_settings

    given = [name for name in LATENT_ONLY if getattr(config, name) != getattr(RewardConfig, name)]
    if given:
        raise InputError(f"--{given[0]} is for --model_type latent: leave it off with vlm.")
    found = {ranking.dimension for ranking in rankings}
    if arguments.vlm_settings:
        made = video_reward_settings(arguments.vlm_settings)
        made.base_model = arguments.vlm or made.base_model
        by_tag = sorted(found.difference(DIMENSIONS))
        known = [name for name in (*made.dimensions, *by_tag) if name in found]
        made.dimensions = tuple(config.dimensions or known)
        made.score_mean = made.score_std = ()
    else:
        if not arguments.vlm:
            raise InputError(
                "--model_type vlm needs a vision-language model: name its folder or hub id with --vlm."
            )
        made = VLMRewardConfig(
            base_model=arguments.vlm,
            dimensions=tuple(config.dimensions or in_known_order(found)),
            budget=VideoBudget(arguments.frame_rate, arguments.max_frames, arguments.max_frame_pixels),
            lora_rank=config.lora_rank,
            lora_alpha=2 * config.lora_rank,
            lora_target_modules=tuple(config.lora_target_modules) or LORA_TARGETS,
        )
    missing = [name for name in made.dimensions if name not in found]
    if missing or not made.dimensions:
        wanted = missing[0] if missing else "of the settings"
        raise InputError(
            f"The rankings have no dimension {wanted!r}, only {', '.join(sorted(found))}: name one of these."
        )
    return made


def train_vlm_reward_model(
    rankings: Sequence[Ranking],
    arguments: VLMArguments,
    config: RewardConfig,
    source: str | Path | None = None,
    **kwargs: Any,
) -> tuple[VLMRewardModel, dict[str, Any]]:
    """Trains a vision-language reward model, writes it with `metrics.json` and `training.json` to `config.output_dir`.

    Args:
        rankings: from `reward.preferences.read_rankings`.
        arguments: what the model is.
        config: how it is trained and on which splits.
        source: the rankings file, whose hash is stored.

    Returns:
        The model in evaluation mode and the figures of `metrics.json`.
    """
    set_seed(config.seed)
    made = vlm_reward_config(arguments, config, rankings)
    with outside_engine():
        vlm = load_vision_language_model(made.base_model, config.device)
    model = VLMRewardModel(made, vlm)
    rates = sorted(_decoded(path)[1] for path in list(dict.fromkeys(rankings[0].videos)))
    model.config.input_fps = rates[len(rates) // 2]
    splits = split_rankings(rankings, config.held_out_fraction, config.validation_fraction, config.seed)
    rate = arguments.lora_learning_rate
    trainer = VLMRewardTrainer(model, config, *splits, lora_learning_rate=rate, **kwargs)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    metrics = trainer.finish()
    output_dir = Path(str(config.output_dir))
    with whole_weights(p for p in model.parameters() if p.requires_grad):
        if trainer.is_world_process_zero():
            model.save_pretrained(output_dir)
    if trainer.is_world_process_zero():
        write_json(output_dir / "metrics.json", metrics)
        write_json(
            output_dir / "training.json",
            {
                "model_type": "vlm",
                "base_model": made.base_model,
                "budget": made.budget.as_dict(),
                "preferences": None if source is None else {"file": str(source), "sha256": file_hash(source)},
                "split": dict(zip(("train", "validation", "held_out"), map(len, splits))),
                "arguments": config.to_sanitized_dict(),
                "versions": versions(),
                "metrics": metrics,
            },
        )
    return model.eval(), metrics
