"""Configuration of reward back-propagation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.trainers.rollout_config import RewardedSamplingConfig
from generator.training.checks import check


@dataclass
class BackpropConfig(RewardedSamplingConfig):
    """Gradients of a differentiable reward through the last denoising steps, and the decoder where it needs pixels."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Learning rate schedule."}
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Prompts in a micro-batch, one video each."}
    )
    method: str = field(
        default="draft",
        metadata={
            "help": "Path of the gradient. `draft`: the last `backprop_steps` steps (DRaFT-K, VADER); `refl`: the "
            "clean video that one random step of the last `backprop_steps` predicts (ReFL).",
            "choices": ["draft", "refl"],
        },
    )
    backprop_steps: int = field(default=1, metadata={"help": "Number of the last steps that get gradients."})
    beta: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared difference of the velocity from the reference's in the steps with gradients."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reward_normalisation", "asynchronous_rewards"):
            unused = getattr(self, name) == getattr(BackpropConfig, name)
            check(
                unused,
                name,
                getattr(self, name),
                "left out, as rewards are added as they are and their gradients are needed at once",
            )
        check(
            1 <= self.backprop_steps <= self.num_inference_steps,
            "backprop_steps",
            self.backprop_steps,
            f"between 1 and num_inference_steps {self.num_inference_steps}",
        )
        check(self.beta >= 0, "beta", self.beta, "at least 0")
