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


EVIDENCE = "a head on evidence"
"""The reward of the demo before `nano-v1-reward`."""
ALONE = "nano-v1-reward alone"
FOUR = "four rankings a step"
"""DPO of the demo before it had eight."""
BATCH = {"per_device_train_batch_size": 4}
LONG = {"learning_rate": 1e-3, "num_rollouts": 40}
VARIANTS = [
    Variant("reward", DEMO),
    Variant("reward", "two epochs", {"num_train_epochs": 2}),
    Variant("reward", "five times the rate", {"learning_rate": 5e-4, "trunk_learning_rate": 1.5e-4}),
    Variant("reward", ALONE, {"learning_rate": 1e-9, "trunk_learning_rate": 1e-9}),
    Variant("reward", EVIDENCE, {"weights_from": "", **EVIDENCE_HEAD, "num_train_epochs": 8}),
    Variant("dpo", DEMO),
    Variant("dpo", "half the rate", {"learning_rate": 1e-3}),
    Variant("dpo", "beta 1", {"beta": 1.0}),
    Variant("dpo", "beta 10", {"beta": 10.0}),
    Variant("dpo", "rank 4", {"lora_r": 4}),
    Variant("dpo", FOUR, BATCH),
    Variant("dpo", f"{FOUR}, half the rate", {**BATCH, "learning_rate": 1e-3}),
    Variant("dpo", f"{FOUR}, twice as long", {**BATCH, "max_steps": 120}),
    Variant(
        "dpo", f"{FOUR}, half the rate, twice as long", {**BATCH, "max_steps": 120, "learning_rate": 1e-3}
    ),
    Variant("dpo", f"{FOUR}, the best video too", {**BATCH, "sft_weight": 0.1}),
    Variant("ppo", DEMO, after=DEMO),
    Variant("ppo", "40 rollouts, after DPO", LONG, after=FOUR),
    Variant("ppo", "40 rollouts, half the rate, after DPO", {**LONG, "learning_rate": 5e-4}, after=FOUR),
    Variant("ppo", "40 rollouts, on the gold score, after DPO", LONG, "world", after=FOUR),
    Variant("ppo", "40 rollouts", LONG),
    Variant("ppo", "40 rollouts, twice the rate", {**LONG, "learning_rate": 2e-3}),
    Variant("ppo", f"40 rollouts, {ALONE}", LONG, ALONE),
    Variant(
        "ppo", "20 rollouts, at 3e-4, after DPO", {"learning_rate": 3e-4, "num_rollouts": 20}, after=FOUR
    ),
]
