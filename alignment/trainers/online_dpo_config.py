"""Configuration of online direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.trainers.forward_process_config import ForwardProcessConfig
from alignment.trainers.preference_config import PreferenceConfig


@dataclass
class OnlineDPOConfig(PreferenceConfig, ForwardProcessConfig):
    """DPO on the policy's own videos, ordered by reward models; a row is one noise draw of a group."""

    loss_type: str = field(
        default="sigmoid",
        metadata={
            "help": "Loss: `sigmoid` and `ipo` compare the best with the worst video of each group; "
            "`plackett_luce`: the whole group in the order of rewards.",
            "choices": ["sigmoid", "ipo", "plackett_luce"],
        },
    )

    @property
    def rows_of_a_group(self) -> int:
        return self.num_draws
