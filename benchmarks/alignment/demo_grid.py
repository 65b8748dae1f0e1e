"""Variants of the demo's trainings that `demo_variants` compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEMO = "as in the demo"


@dataclass(frozen=True)
class Start:
    """Beginning of a loop: a theme's prompts, an adapter of the model or none, changed sizes of the scale."""

    theme: str
    adapter: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    model: str = "nano-v1"

    @property
    def name(self) -> str:
        """Name in the table and of folders."""
        return f"{self.theme}-{self.adapter or self.model}"


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


ONE_DRAW = "one draw of noise"
FAST = {"learning_rate": 2e-3, "num_rollouts": 20}
SLOW = {"learning_rate": 1e-3, "num_rollouts": 20}
VARIANTS = [
    Variant("reward", DEMO),
    Variant("dpo", DEMO),
    Variant("ppo", DEMO, after=DEMO),
    Variant("ppo", "1e-3, 20 rollouts", SLOW),
    Variant("ppo", "1e-3, 20 rollouts, after DPO", SLOW, after=DEMO),
    Variant("dpo", "beta 1", {"beta": 1.0}),
    Variant("dpo", "beta 10", {"beta": 10.0}),
    Variant("reward", ONE_DRAW, {"evidence_draws": 1}),
    Variant("ppo", "1e-3, 20 rollouts, one draw", SLOW, ONE_DRAW),
    Variant("ppo", "2e-3, 20 rollouts, one draw", FAST, ONE_DRAW),
    Variant("ppo", "2e-3, 12 rollouts, one draw", {**FAST, "num_rollouts": 12}, ONE_DRAW),
    Variant("ppo", "2e-3, 20 rollouts, on the gold score", FAST, "world"),
    Variant("ppo", "2e-3, 20 rollouts, noise level 1, one draw", {**FAST, "noise_level": 1.0}, ONE_DRAW),
    Variant("ppo", "2e-3, 20 rollouts, after DPO, one draw", FAST, ONE_DRAW, after="beta 10"),
    Variant(
        "dpo", "beta 10, pairs", {"beta": 10.0, "loss_type": "sigmoid", "per_device_train_batch_size": 16}
    ),
    Variant("dpo", "beta 10, noise levels around 0.5", {"beta": 10.0, "logit_mean": 0.5}),
    Variant("dpo", "beta 10, noise levels around 2.5", {"beta": 10.0, "logit_mean": 2.5}),
    Variant("dpo", "beta 10, twice the learning rate", {"beta": 10.0, "learning_rate": 4e-3}),
    Variant("dpo", "beta 10, 8 rankings a step", {"beta": 10.0, "per_device_train_batch_size": 8}),
    Variant("dpo", "beta 10, the best video too", {"beta": 10.0, "sft_weight": 0.3}),
    Variant("reward", "one draw, two levels", {"evidence_draws": 1, "evidence_sigmas": [0.85, 0.95]}),
]
