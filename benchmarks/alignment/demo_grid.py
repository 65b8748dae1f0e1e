"""Variants of the demo's trainings that `demo_variants` compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alignment.demo.settings import EVIDENCE_HEAD

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


FAST = {"learning_rate": 2e-3, "num_rollouts": 20}
SLOW = {"learning_rate": 1e-3, "num_rollouts": 20}
EVIDENCE = "a head on evidence"
"""The reward of the demo before `nano-v1-reward`."""
LONG = {"learning_rate": 1e-3, "num_rollouts": 40}
VARIANTS = [
    Variant("reward", DEMO),
    Variant("reward", "two epochs", {"num_train_epochs": 2}),
    Variant("reward", "five times the rate", {"learning_rate": 5e-4, "trunk_learning_rate": 1.5e-4}),
    Variant("reward", "nano-v1-reward alone", {"learning_rate": 1e-9, "trunk_learning_rate": 1e-9}),
    Variant("reward", EVIDENCE, {"weights_from": "", **EVIDENCE_HEAD, "num_train_epochs": 8}),
    Variant("dpo", DEMO),
    Variant("dpo", "half the rate", {"learning_rate": 1e-3}),
    Variant("dpo", "twice as long", {"max_steps": 120}),
    Variant("dpo", "half the rate, twice as long", {"max_steps": 120, "learning_rate": 1e-3}),
    Variant("dpo", "eight rankings a step", {"per_device_train_batch_size": 8}),
    Variant(
        "dpo",
        "eight rankings a step, half the rate",
        {"per_device_train_batch_size": 8, "learning_rate": 1e-3},
    ),
    Variant("dpo", "the best video too", {"sft_weight": 0.1}),
    Variant("dpo", "beta 1, half the rate", {"beta": 1.0, "learning_rate": 1e-3}),
    Variant("ppo", DEMO, after=DEMO),
    Variant("ppo", "1e-3, 40 rollouts, after DPO", LONG, after=DEMO),
    Variant("ppo", "5e-4, 40 rollouts, after DPO", {**LONG, "learning_rate": 5e-4}, after=DEMO),
    Variant("ppo", "1e-3, 40 rollouts", LONG),
    Variant("ppo", "2e-3, 40 rollouts", {**LONG, "learning_rate": 2e-3}),
    Variant("ppo", "1e-3, 40 rollouts, reward alone", LONG, "nano-v1-reward alone"),
    Variant("ppo", "1e-3, 40 rollouts, beta 0.01", {**LONG, "beta": 0.01}),
    Variant("ppo", "1e-3, 40 rollouts, on the gold score", LONG, "world", after=DEMO),
    Variant("ppo", "1e-3, 20 rollouts", SLOW),
    Variant("ppo", "1e-3, 20 rollouts, after DPO", SLOW, after=DEMO),
    Variant("ppo", "2e-3, 20 rollouts, on the gold score", FAST, "world"),
    Variant("dpo", "beta 1", {"beta": 1.0}),
    Variant("dpo", "beta 10", {"beta": 10.0}),
    Variant(
        "dpo", "beta 10, pairs", {"beta": 10.0, "loss_type": "sigmoid", "per_device_train_batch_size": 16}
    ),
    Variant("dpo", "beta 10, noise levels around 0.5", {"beta": 10.0, "logit_mean": 0.5}),
    Variant("dpo", "beta 10, noise levels around 2.5", {"beta": 10.0, "logit_mean": 2.5}),
]
