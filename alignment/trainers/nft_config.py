"""Configuration of DiffusionNFT."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.losses import MATCHING_WEIGHTS
from alignment.trainers.forward_process_config import ForwardProcessConfig
from generator.training.checks import check


@dataclass
class NFTConfig(ForwardProcessConfig):
    """DiffusionNFT: contrast of an implicit positive and an implicit negative policy; or AWM, on the same videos."""

    loss_type: str = field(
        default="nft",
        metadata={
            "help": "Loss on the noised videos: nft, or awm, whose clipped ratio takes the flow-matching error for the "
            "log-probability.",
            "choices": ["nft", "awm"],
        },
    )
    epsilon: float = field(default=1e-4, metadata={"help": "Clip range of the ratio, with awm."})
    matching_weight: str = field(
        default="uniform",
        metadata={
            "help": f"Weight of a noise level in the ratio, with awm: {', '.join(MATCHING_WEIGHTS)}.",
            "choices": list(MATCHING_WEIGHTS),
        },
    )
    guidance_strength: float = field(
        default=1.0,
        metadata={
            "help": "Distance (β of the paper) that the implicit positive policy goes from the sampling policy "
            "towards the trained one; 0.1 to 1."
        },
    )
    advantage_clip: float = field(
        default=5.0,
        metadata={"help": "Advantage that counts as certain: probabilities are (1 + A / this) / 2, clipped."},
    )
    guidance_scale: float | None = field(
        default=1.0,
        metadata={
            "help": "Guidance in rollouts, 1: none. The velocity that is trained has none, so other values can go into "
            "the weights: with them set beta to 1e-3 or more."
        },
    )
    old_decay_flat: int = field(
        default=5,
        metadata={"help": "First rollouts that sample from the trained policy itself, without average."},
    )
    old_decay_rate: float = field(
        default=0.05,
        metadata={
            "help": "Afterwards the sampling policy is an average of the trained one, whose decay grows by this with "
            "each rollout; 0 samples from the trained policy always."
        },
    )
    old_decay_max: float = field(
        default=0.95, metadata={"help": "Largest decay of the sampling policy's average."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            0 < self.guidance_strength <= 1, "guidance_strength", self.guidance_strength, "above 0, at most 1"
        )
        check(self.loss_type in ("nft", "awm"), "loss_type", self.loss_type, "nft or awm")
        known = ", ".join(MATCHING_WEIGHTS)
        check(
            self.matching_weight in MATCHING_WEIGHTS,
            "matching_weight",
            self.matching_weight,
            f"one of {known}",
        )
        check(self.epsilon > 0, "epsilon", self.epsilon, "above 0")
        check(self.old_decay_flat >= 0, "old_decay_flat", self.old_decay_flat, "at least 0")
        check(self.old_decay_rate >= 0, "old_decay_rate", self.old_decay_rate, "at least 0")
        check(0 <= self.old_decay_max < 1, "old_decay_max", self.old_decay_max, "at least 0 and below 1")
