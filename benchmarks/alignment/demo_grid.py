"""Variants of the demo's trainings that `demo_variants` compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEMO = "as in the demo"
FEW_STEPS = {"sde_window_size": 2, "num_iterations": 1, "num_rollouts": 20}


@dataclass(frozen=True)
class Start:
    """What the loop begins with: a theme's prompts, an adapter of the base or none, changed sizes of the scale."""

    theme: str
    adapter: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in the table and of folders."""
        return f"{self.theme}-{self.adapter or 'nano'}"


@dataclass(frozen=True)
class Variant:
    """A training with some settings changed.

    Attributes:
        stage: sft, dpo, reward or ppo.
        name: what it is called in the table, once in each stage.
        changes: arguments of the stage's configuration; also `lora_r`, and for `dpo` `merge_annotators`.
        reward: for `ppo` the reward variant to optimise, or `world` for the gold score itself.
        after: the variant of `dpo` whose model the training begins with; the SFT model where empty.
    """

    stage: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    reward: str = DEMO
    after: str = ""

    @property
    def folder(self) -> str:
        """Name of its output folder."""
        return f"{self.stage}-{''.join(c if c.isalnum() else '-' for c in self.name)}"


VARIANTS = [
    Variant("reward", DEMO),
    Variant("dpo", DEMO),
    Variant("ppo", DEMO),
    Variant("ppo", "on the gold score", reward="world"),
    Variant("dpo", "120 steps", {"max_steps": 120}),
    Variant("ppo", "few steps, on the gold score", FEW_STEPS, reward="world"),
    Variant("dpo", "beta 30, 120 steps", {"beta": 30.0, "max_steps": 120}),
    Variant("ppo", "few steps", FEW_STEPS),
    Variant("ppo", "after DPO", after=DEMO),
    Variant("dpo", "half the learning rate, 120 steps", {"learning_rate": 1e-3, "max_steps": 120}),
    Variant("ppo", "double learning rate", {"learning_rate": 4e-3}),
    Variant(
        "reward",
        "no evidence",
        {"implicit_evidence": False, "num_blocks": 4, "num_queries": 4, "hidden_size": 64},
    ),
    Variant("ppo", "half the learning rate, 20 rollouts", {"learning_rate": 1e-3, "num_rollouts": 20}),
]
