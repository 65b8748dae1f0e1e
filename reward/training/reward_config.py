"""Arguments of `RewardTrainer`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from generator.one_or_several import as_list
from generator.output import InputError
from generator.training.training_config import TrainingConfig
from reward.losses import LOSSES
from reward.models.latent_config import ARCHITECTURES
from reward.preferences import DIMENSIONS


@dataclass
class RewardConfig(TrainingConfig):
    """Latent reward model and its training."""

    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float = field(default=30, metadata={"help": "Passes over the training rankings."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rankings in a step on a device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rankings in an evaluation step."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=10, metadata={"help": "Steps of linear warm-up."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    save_strategy: str = field(
        default="no", metadata={"help": "Moments at which checkpoints are written: no, steps or epoch."}
    )
    eval_strategy: str = field(
        default="epoch",
        metadata={"help": "Moments at which the validation loss is measured: no, steps or epoch."},
    )
    loss_type: str = field(
        default="plackett_luce",
        metadata={
            "help": f"Likelihood of a ranking: {', '.join(LOSSES)}. rao_kupper and davidson learn their tie parameter, "
            "gaussian_bradley_terry how uncertain each score is; soft_bradley_terry takes shares of votes."
        },
    )
    dimensions: list[str] = field(
        default_factory=list,
        metadata={"help": "Dimensions to learn, one head each; empty takes those of the rankings file."},
    )
    dimension_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "Weight of the loss of each dimension; empty takes 1 for all."},
    )
    annotator_reliability: bool = field(
        default=False,
        metadata={
            "help": "Learn with the scores how reliable each annotator is, and listen to them accordingly."
        },
    )
    ensemble: int = field(
        default=1,
        metadata={
            "help": "Models trained from different seeds; their mean judges, their spread is the doubt."
        },
    )
    held_out_fraction: float = field(
        default=0.2, metadata={"help": "Share of the prompts that only the final figures are measured on."}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of the prompts for choosing the epoch, the tie threshold and the temperature."
        },
    )
    select_best: bool = field(
        default=True, metadata={"help": "Keep the weights of the epoch with the lowest validation loss."}
    )
    early_stopping_patience: int = field(
        default=8,
        metadata={"help": "Stop after so many evaluations without a better one; 0 never stops early."},
    )
    architecture: str = field(
        default="auto",
        metadata={
            "help": "Head of the model: pooled (prompt and video pass the trunk together) or matching (each word of "
            "the prompt looks for its evidence in the video; learns from demonstrations too); auto is matching "
            "where there are demonstrations."
        },
    )
    matching_steps: int = field(
        default=600, metadata={"help": "Contrastive steps on the demonstrations before the rankings."}
    )
    matching_batch_size: int = field(default=16, metadata={"help": "Demonstrations in a contrastive step."})
    matching_learning_rate: float = field(
        default=2e-3, metadata={"help": "Highest learning rate of the contrastive steps."}
    )
    num_blocks: int = field(
        default=0,
        metadata={"help": "Transformer blocks in the trunk; 0 takes the first half (matching: third)."},
    )
    sigmas: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Noise levels at which features are taken; empty takes 0.1 and 0.4 (matching: 0.1)."
        },
    )
    noise_conditioned: bool = field(
        default=False,
        metadata={"help": "Learn to judge noisy latents too, for guidance and rewards inside the sampler."},
    )
    noise_levels: list[float] = field(
        default_factory=lambda: [0.25, 0.6, 0.8, 0.95],
        metadata={"help": "Noise levels of the noisy latents that a noise-conditioned model learns from."},
    )
    num_queries: int = field(default=4, metadata={"help": "Learned queries of the attention pooling."})
    hidden_size: int = field(
        default=0, metadata={"help": "Width of pooling and head; 0 takes 128 (matching: 64)."}
    )
    dropout: float = field(default=0.1, metadata={"help": "Dropout on pooled features."})
    implicit_evidence: bool = field(
        default=False,
        metadata={
            "help": "Let the head see how much better the generator denoises the video with its prompt."
        },
    )
    evidence_sigmas: list[float] = field(
        default_factory=lambda: [0.6, 0.85], metadata={"help": "Noise levels of the implicit evidence."}
    )
    evidence_draws: int = field(
        default=1, metadata={"help": "Noise samples a level of the implicit evidence."}
    )
    decoded_frames: bool = field(
        default=False,
        metadata={
            "help": "Let the head look at the decoded video beside the trunk's tokens; every video is decoded then."
        },
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "Rank of a LoRA on the trunk; 0 freezes it, so its features are computed once."},
    )
    lora_target_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Layers that the LoRA adapts; empty takes the family's own list."},
    )
    full_trunk: bool = field(
        default=False,
        metadata={
            "help": "Train the trunk's own weights with the head; for many rankings, or --pretraining."
        },
    )
    trunk_learning_rate: float = field(
        default=0.0,
        metadata={
            "help": "Learning rate of the trunk; 0 takes that of the head, or with --full_trunk a tenth."
        },
    )
    pretraining_steps: int = field(
        default=1000, metadata={"help": "Steps on the rankings of --pretraining before those of people."}
    )
    pretraining_batch_size: int = field(
        default=32, metadata={"help": "Rankings in a step of the pretraining."}
    )
    pretraining_learning_rate: float = field(
        default=1e-3,
        metadata={"help": "Highest learning rate of the pretraining; a full trunk's is four tenths of it."},
    )
    replay_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the loss of --pretraining's rankings in the steps on those of people, so that what they "
            "taught is not forgotten; 0 leaves them out."
        },
    )
    replay_batch_size: int = field(
        default=32, metadata={"help": "Rankings of --pretraining in a step on those of people."}
    )
    num_frames: int = field(
        default=0,
        metadata={"help": "Frames of the videos as the model sees them; 0 takes the generator's default."},
    )
    height: int = field(
        default=0, metadata={"help": "Their height in pixels; 0 takes the generator's default."}
    )
    width: int = field(
        default=0, metadata={"help": "Their width in pixels; 0 takes the generator's default."}
    )
    encode_batch_size: int = field(default=16, metadata={"help": "Videos encoded at a time."})

    def __post_init__(self) -> None:
        self.dimensions = as_list(self.dimensions)
        self.lora_target_modules = as_list(self.lora_target_modules)
        if self.architecture not in ("auto", *ARCHITECTURES):
            raise InputError(
                f"The architecture {self.architecture!r} is unknown: use auto, {' or '.join(ARCHITECTURES)}."
            )
        if self.loss_type not in LOSSES:
            raise InputError(f"The loss {self.loss_type!r} is unknown: use one of {', '.join(LOSSES)}.")
        if self.ensemble < 1:
            raise InputError(f"--ensemble is {self.ensemble}, but it must be at least 1.")
        if self.full_trunk and (self.lora_rank or self.implicit_evidence):
            raise InputError(
                "--full_trunk changes the trunk that --lora_rank and --implicit_evidence need as it was: leave one off."
            )
        if self.pretraining_steps < 0 or self.pretraining_batch_size < 1:
            raise InputError(
                f"--pretraining_steps is {self.pretraining_steps} and --pretraining_batch_size "
                f"{self.pretraining_batch_size}, but at least 0 steps of at least 1 ranking are needed."
            )
        if self.replay_weight < 0 or self.replay_batch_size < 1:
            raise InputError(
                f"--replay_weight is {self.replay_weight} and --replay_batch_size {self.replay_batch_size}, but a "
                "weight of at least 0 and at least 1 ranking are needed."
            )
        if self.ensemble > 1 and (self.lora_rank or self.full_trunk):
            raise InputError(
                "Members of an ensemble share their trunk: leave --lora_rank, --full_trunk or --ensemble off."
            )
        if self.dimension_weights and len(self.dimension_weights) != len(self.dimensions):
            raise InputError(
                f"{len(self.dimension_weights)} dimension_weights were found for {len(self.dimensions)} dimensions: "
                "name the dimensions and give one weight each."
            )
        for dimension in self.dimensions:
            if dimension not in DIMENSIONS:
                raise InputError(
                    f"The dimension {dimension!r} is unknown: use some of {', '.join(DIMENSIONS)}."
                )
        super().__post_init__()


def with_evaluation(args: RewardConfig, has_validation: bool, at_start: bool = False) -> RewardConfig:
    """A copy of a configuration that evaluates where there is something to evaluate on, and there alone.

    Args:
        at_start: also before the first step, where what was taught before may be the best that validation sees.
    """
    args = copy.copy(args)
    if not has_validation:
        args.eval_strategy = "no"
    elif at_start:
        args.eval_on_start = True
    return args
