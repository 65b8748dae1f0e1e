"""Configuration of reward-weighted regression."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.trainers.forward_process_config import ForwardProcessConfig
from generator.training.checks import check


@dataclass
class RWRConfig(ForwardProcessConfig):
    """Flow matching on own videos, weighted by how good they are."""

    temperature: float = field(
        default=1.0,
        metadata={"help": "Weights are softmax(advantage / temperature) in each group: lower is greedier."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.temperature > 0, "temperature", self.temperature, "above 0")
