"""Configuration that the methods that train on noised videos of rollouts share."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.trainers.base_config import NoiseLevelConfig
from alignment.trainers.rollout_config import RolloutConfig
from generator.training.checks import check


@dataclass
class ForwardProcessConfig(RolloutConfig, NoiseLevelConfig):
    """Rollouts of the ODE whose videos are noised anew; a row is one noise draw of a video."""

    num_draws: int = field(
        default=2, metadata={"help": "Draws of noise and noise level that are learnt from, of each video."}
    )
    beta: float = field(
        default=0.0,
        metadata={"help": "Weight of the squared difference of the velocity from the reference's."},
    )

    def __post_init__(self) -> None:
        check(self.num_draws >= 1, "num_draws", self.num_draws, "at least 1")
        super().__post_init__()
        check(self.beta >= 0, "beta", self.beta, "at least 0")

    @property
    def rows_of_a_group(self) -> int:
        return self.num_generations * self.num_draws

    @property
    def measures_divergence(self) -> bool:
        """True where velocities are compared with the reference's beside the method's own loss."""
        return self.beta > 0 or self.target_kl is not None

    @property
    def row_name(self) -> str:
        return "noise draws"
