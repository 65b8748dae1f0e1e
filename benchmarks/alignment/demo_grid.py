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


ONE_DRAW = "one draw"
VARIANTS = [
    Variant("reward", ONE_DRAW, {"evidence_draws": 1}),
    Variant("dpo", DEMO),
    Variant("ppo", "few steps", FEW_STEPS, reward=ONE_DRAW),
    Variant("dpo", "8 rankings a step", {"per_device_train_batch_size": 8}),
    Variant("dpo", "twice the learning rate", {"learning_rate": 4e-3}),
    Variant("dpo", "beta 3", {"beta": 3.0}),
    Variant("dpo", "higher noise", {"logit_mean": 2.5}),
    Variant("reward", "one draw, two levels", {"evidence_draws": 1, "evidence_sigmas": [0.85, 0.95]}),
    Variant(
        "dpo", "8 rankings, half the learning rate", {"per_device_train_batch_size": 8, "learning_rate": 1e-3}
    ),
    Variant("ppo", "few steps, noise 1", {**FEW_STEPS, "noise_level": 1.0}, reward=ONE_DRAW),
    Variant("dpo", "the best video too", {"sft_weight": 0.3}),
    Variant(
        "ppo", "few steps, half the learning rate", {**FEW_STEPS, "learning_rate": 1e-3}, reward=ONE_DRAW
    ),
    Variant("dpo", "lower noise", {"logit_mean": 0.5}),
    Variant("dpo", "pairs", {"loss_type": "sigmoid", "per_device_train_batch_size": 16}),
    Variant("ppo", "few steps, on the gold score", FEW_STEPS, reward="world"),
    Variant("ppo", "few steps, after DPO", FEW_STEPS, reward=ONE_DRAW, after=DEMO),
    Variant("reward", DEMO),
    Variant("ppo", "few steps, 12 rollouts", {**FEW_STEPS, "num_rollouts": 12}, reward=ONE_DRAW),
]
