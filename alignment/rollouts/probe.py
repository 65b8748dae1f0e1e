"""The reward of the same prompts and seeds at different times of a training, which alone can be compared.

The mean reward of a rollout is that of the prompts that it drew: it rises and falls with them, whatever the policy
learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PROBE_STREAM = 7
"""Of the random numbers of the probe's videos."""


def probe_rows(num_prompts: int, num_probes: int, world_size: int, process_index: int) -> Tensor:
    """Prompts of this process's share of the probe `[probes]`, evenly spread over all; repeated where there are few.

    Args:
        num_probes: rounded up to a multiple of the processes.
    """
    count = -(-num_probes // world_size) * world_size
    return (torch.arange(count) * num_prompts // count).chunk(world_size)[process_index]


@dataclass
class Probe:
    """Remembers the first rewards of the probe, from which later ones are compared in pairs.

    Attributes:
        every: rollouts between two measurements.
        first: `[probes]` of this process, before anything was learnt; None until then.
    """

    every: int
    first: Tensor | None = field(default=None)

    def is_due(self, rollout: int) -> bool:
        """Returns whether rollout `rollout` (from 0) begins with a measurement."""
        return self.every > 0 and rollout % self.every == 0

    def measured(self, rewards: Tensor) -> dict[str, Tensor]:
        """Logged values of the rewards `[probes]` of one measurement: their mean, and its change since the first."""
        if self.first is None or len(self.first) != len(rewards):
            self.first = rewards.detach().clone()
        return {"probe/reward": rewards, "probe/reward_change": rewards - self.first.to(rewards)}

    def state(self) -> dict[str, Any]:
        return {} if self.first is None else {"probe": self.first}

    def load_state(self, state: dict[str, Any]) -> None:
        self.first = state.get("probe", self.first)
