"""Configuration of proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.losses import STEP_WEIGHTS
from alignment.trainers.rollout_config import RolloutConfig
from generator.sampling import SdeSettings
from generator.training.checks import check

DEFAULT_NOISE_LEVELS = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7}


@dataclass
class PPOConfig(RolloutConfig):
    """Rollouts with a stochastic sampler, advantages, clipped-ratio updates; a row is a denoising step."""

    unconditional_gradient: bool = field(
        default=True, metadata={"help": "With guidance: whether the unconditional branch is trained too."}
    )

    sde_kernel: str = field(
        default="flow_sde",
        metadata={
            "help": "Stochastic step: `flow_sde`, `dance_sde` or `cps`.",
            "choices": ["flow_sde", "dance_sde", "cps"],
        },
    )
    noise_level: float | None = field(
        default=None,
        metadata={"help": "Strength of the kernel's noise. Unset: 0.7, 0.3, 0.7 in the order above."},
    )
    sde_first_step: int = field(default=0, metadata={"help": "First stochastic step, from 0."})
    sde_window_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of steps in a row that are stochastic and trained. Unset: all but the last."
        },
    )
    sde_random_window: bool = field(
        default=False,
        metadata={
            "help": "Draw the window's place, at or after `sde_first_step`, anew for each rollout, for all its videos."
        },
    )

    epsilon: float = field(
        default=1e-3, metadata={"help": "Clip range of the ratio, per latent element: 1e-5 to 1e-3."}
    )
    ratio_norm: bool = field(
        default=False,
        metadata={
            "help": "Clip a ratio that is centred and has the same spread at every step (RatioNorm); epsilon is then "
            "smaller by the std of a step."
        },
    )
    max_divergence: float | None = field(
        default=None,
        metadata={
            "help": "In place of the clip range: divergence of a step from the sampling policy, per latent element, "
            "above which it is not trained further away (Flow-DPPO); 1e-5 to begin with."
        },
    )
    beta: float = field(default=0.01, metadata={"help": "Weight of the KL divergence to the reference."})
    adaptive_kl_target: float | None = field(
        default=None,
        metadata={
            "help": "Divergence that beta is adapted to: it grows while a rollout's is above and "
            "falls while it is below. Unset: beta stays."
        },
    )
    adaptive_kl_gain: float = field(
        default=0.1, metadata={"help": "Largest relative change of an adapted beta is a fifth of this."}
    )
    monitor_kl: bool = field(default=True, metadata={"help": "Measure the KL divergence even if beta is 0."})
    monitor_kl_generations: int = field(
        default=2,
        metadata={
            "help": "Videos of each group on which the divergence is measured where beta is 0; with a "
            "KL term it is measured on all."
        },
    )
    step_weight: str = field(
        default="none",
        metadata={
            "help": f"Weight of each denoising step in the policy loss: {', '.join(STEP_WEIGHTS)}.",
            "choices": list(STEP_WEIGHTS),
        },
    )
    log_step_gradients: bool = field(
        default=False, metadata={"help": "Log the norm of the loss gradient at the velocity of each step."}
    )

    advantage: str = field(
        default="group",
        metadata={
            "help": "Measure of how good a video is: relative to its `group`, or by a value `critic` on latents "
            "with GAE over the denoising steps.",
            "choices": ["group", "critic"],
        },
    )
    critic_trunk: str = field(
        default="own",
        metadata={
            "help": "Network that the critic sees with: its `own` convolutions, or the frozen first half of "
            "the generator's blocks (`shared`).",
            "choices": ["own", "shared"],
        },
    )
    critic_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the critic."})
    critic_epochs: int = field(default=4, metadata={"help": "Passes of the critic over each rollout."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of a denoising step, with a critic."})
    gae_lambda: float = field(
        default=0.95, metadata={"help": "Decay λ of generalised advantage estimation, with a critic."}
    )

    ptx_coef: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the flow-matching loss on demonstrations (`ptx_dataset`) in each update."
        },
    )
    ptx_batch_size: int = field(
        default=4, metadata={"help": "Demonstrations in each micro-batch, with ptx_coef."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.beta >= 0, "beta", self.beta, "at least 0")
        level = self.noise_level
        if self.sde_kernel == "cps":
            check(level is None or 0 < level <= 1, "noise_level", level, "above 0 and at most 1 with cps")
        check(level is None or level > 0, "noise_level", level, "above 0")
        for name in ("ptx_batch_size", "critic_epochs"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(
            self.target_kl is None or self.beta > 0 or self.monitor_kl_generations >= 1,
            "monitor_kl_generations",
            self.monitor_kl_generations,
            "at least 1 with target_kl",
        )
        check(self.ptx_coef >= 0, "ptx_coef", self.ptx_coef, "at least 0")
        check(self.epsilon > 0, "epsilon", self.epsilon, "above 0")
        most = self.max_divergence
        check(most is None or most > 0, "max_divergence", most, "above 0")
        check(
            most is None or not self.ratio_norm,
            "max_divergence",
            most,
            "unset with ratio_norm, as only one of them can decide",
        )
        target = self.adaptive_kl_target
        check(target is None or target > 0, "adaptive_kl_target", target, "above 0")
        check(
            target is None or self.beta > 0,
            "beta",
            self.beta,
            "above 0 with adaptive_kl_target, as it is where the adaptation starts",
        )
        check(
            self.rollout_solver == "euler" or self.num_inference_steps - self.window_size > 1,
            "rollout_solver",
            self.rollout_solver,
            "euler where all steps but the last are stochastic: set a smaller sde_window_size, or leave it out",
        )
        check(0 <= self.gae_lambda <= 1, "gae_lambda", self.gae_lambda, "between 0 and 1")
        check(0 < self.gamma <= 1, "gamma", self.gamma, "above 0 and at most 1")

    @property
    def window_size(self) -> int:
        """Stochastic steps of a trajectory."""
        last = self.num_inference_steps - 2
        check(last >= 0, "num_inference_steps", self.num_inference_steps, "at least 2")
        check(
            0 <= self.sde_first_step <= last,
            "sde_first_step",
            self.sde_first_step,
            f"between 0 and {last}, as the last of {self.num_inference_steps} steps is deterministic",
        )
        most = last + 1 - self.sde_first_step
        size = most if self.sde_window_size is None else self.sde_window_size
        check(
            1 <= size <= most,
            "sde_window_size",
            size,
            f"between 1 and {most}, as the last of {self.num_inference_steps} steps is deterministic",
        )
        return size

    @property
    def keeps_means(self) -> bool:
        """True where the means of the trained steps under the sampling policy are needed."""
        return self.ratio_norm or self.max_divergence is not None

    @property
    def rows_of_a_group(self) -> int:
        return self.num_generations * self.window_size

    @property
    def measures_divergence(self) -> bool:
        """True where trajectories are compared with the reference's."""
        adapted = self.target_kl is not None or self.adaptive_kl_target is not None
        return self.beta > 0 or self.monitor_kl or adapted

    def sde_settings(self, first_step: int) -> SdeSettings:
        """Kernel, strength and window that starts at `first_step`."""
        level = DEFAULT_NOISE_LEVELS[self.sde_kernel] if self.noise_level is None else self.noise_level
        return SdeSettings(self.sde_kernel, level, first_step, self.window_size)
