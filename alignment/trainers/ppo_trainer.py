"""Proximal policy optimisation of a flow model: prompts → rollouts → rewards → advantages → update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignment.data.latent_dataset import PromptTable
from alignment.lora import LoraArguments
from alignment.losses import adapted_beta, clipped_ratio_loss, step_weights
from alignment.rollouts.advantages import generalised_advantages, mean_and_std
from alignment.rollouts.critic import CriticInputs, ValueCritic
from alignment.rollouts.rollout import Rollout, StepRows, sample_groups, step_rows
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.rollout_trainer import (
    Monitor,
    RolloutTrainer,
)
from alignment.trainers.sft_trainer import demonstration_error
from generator import flow
from generator.base import VideoGenerator
from generator.conditions import Conditions
from generator.output import InputError
from generator.sampling import SdeSettings, Trajectories, guided_velocity, sde_step
from generator.seeds import Stream, example_seeds

if TYPE_CHECKING:
    from reward.models.base import RewardModel

__all__ = ["Monitor", "PPOTrainer"]

RATIO_QUANTILES = (0.01, 0.5, 0.99)


class PPOTrainer(RolloutTrainer):
    """Raises the reward of what the generator makes, near the reference policy.

    The reference is the model without the LoRA layers that are trained here.

    Args:
        generator, args, prompts, reward, negative_prompts, monitors, lora, record, callbacks: see
            `RolloutTrainer`.
        demonstrations: latents `[C, F, H, W]` and a prompt each, for `args.ptx_coef`.
    """

    args: PPOConfig

    def __init__(
        self,
        generator: VideoGenerator,
        args: PPOConfig,
        prompts: Sequence[str],
        reward: RewardModel | Sequence[RewardModel],
        negative_prompts: Sequence[str] | None = None,
        monitors: Sequence[Monitor] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
        demonstrations: tuple[Sequence[Tensor], Sequence[str]] | None = None,
    ) -> None:
        self.beta = args.beta
        self.measure_kl = (
            args.beta > 0
            or args.monitor_kl
            or args.target_kl is not None
            or args.adaptive_kl_target is not None
        )
        self._ratios: list[Tensor] = []
        super().__init__(
            generator, args, prompts, reward, negative_prompts, monitors, lora, record, callbacks
        )
        if args.ptx_coef > 0 and (demonstrations is None or len(demonstrations[0]) == 0):
            raise InputError("ptx_coef is above 0, but there are no demonstrations: give ptx_dataset.")
        self.demonstrations: list[Tensor] = list(demonstrations[0]) if demonstrations else []
        if demonstrations:
            table = PromptTable.encode(generator, demonstrations[1])
            self.demonstration_conditions, self.demonstration_rows = table.conditions, table.rows
        self.critic: ValueCritic | None = None
        if args.advantage == "critic":
            if args.critic_trunk == "shared" and self.divided_by:
                raise InputError(
                    f"critic_trunk is shared with {self.divided_by}, which partitions the trunk: set it to own."
                )
            self.critic = ValueCritic(
                generator, args.critic_trunk, args.critic_learning_rate, args.seed, self._average
            )

    # The rollout

    def _sample(self, index: int, members: Tensor, conditions: Conditions) -> Trajectories:
        args = self.args
        return sample_groups(
            self.generator,
            self.policy,
            conditions,
            self._negative_conditions(members),
            self._seeds_of(index, len(members)),
            self.latent_shape,
            self.sigmas,
            args.sde_settings(self._window_start(index)),
            self.guidance_scale,
            args.rollout_batch_size,
            self._compared(len(members)),
            keep_reference_means=args.beta > 0,
            finished=self._finished,
            stepped=self._stepped,
        )

    def _finish_rollout(self, rollout: Rollout) -> None:
        """Adapts β to the divergence, and replaces the advantages by the critic's where there is one."""
        kl = rollout.trajectories.kl
        if kl is not None:
            mean = self._average(kl.mean())
            self.observe({"kl": mean, "beta": mean.new_tensor(self.beta)})
            self._stop_above_target_kl(mean)
            if self.args.adaptive_kl_target is not None:
                self.beta = adapted_beta(
                    self.beta, mean.item(), self.args.adaptive_kl_target, self.args.adaptive_kl_gain
                )
        if self.critic is not None:
            self._apply_critic(self.critic, rollout)

    def _apply_critic(self, critic: ValueCritic, rollout: Rollout) -> None:
        """Advantages by GAE from the critic as it is, then one more lesson for the critic."""
        args = self.args
        critic.set_scale(*mean_and_std(rollout.rewards, self.accelerator.reduce))
        inputs = self._critic_inputs(critic, rollout)
        values = critic.values(inputs).reshape(len(rollout.rewards), -1)
        advantages, returns = generalised_advantages(rollout.rewards, values, args.gamma, args.gae_lambda)
        mean, std = mean_and_std(advantages, self.accelerator.reduce)
        clip = args.advantage_clip
        rollout.advantages = ((advantages - mean) / (std + 1e-4)).clamp(-clip, clip)
        error = critic.fit(
            inputs,
            returns.flatten(),
            args.critic_epochs,
            args.per_device_train_batch_size,
            self._random(Stream.CRITIC_ORDER, rollout.index, args.process_index),
        )
        unexplained = (rollout.rewards[:, None] - values).var(correction=0)
        explained = 1 - unexplained / rollout.rewards.var(correction=0).clamp(min=1e-8)
        self.observe({"value/loss": error, "value/explained_variance": explained, "value/mean": values})

    def _critic_inputs(self, critic: ValueCritic, rollout: Rollout) -> CriticInputs:
        """The states before each stochastic step, trajectory by trajectory."""
        trajectories, settings = rollout.trajectories, _window(rollout)
        steps = settings.num_steps
        sigmas = trajectories.sigmas[settings.first_step : settings.first_step + steps]
        parts = []
        for rows in torch.arange(len(rollout.rows)).split(max(1, self.args.rollout_batch_size // steps)):
            states = trajectories.states[rows, :steps].flatten(0, 1)
            members = rollout.rows[rows].repeat_interleave(steps)
            conditions = self.conditions_of(self.conditions, self.prompt_rows[members])
            parts.append(critic.inputs(states, sigmas.repeat(len(rows)), conditions))
        return CriticInputs(
            torch.cat([part.seen for part in parts]),
            torch.cat([part.sigma for part in parts]),
            torch.cat([part.text for part in parts]),
        )

    def _compared(self, count: int) -> Tensor | None:
        """Which trajectories are compared with the reference: all for a KL term, else some of each group."""
        args = self.args
        if not self.measure_kl:
            return None
        measured = args.num_generations if args.beta > 0 else args.monitor_kl_generations
        return torch.arange(count) % args.num_generations < measured

    def _window_start(self, index: int) -> int:
        """First stochastic step: one for the whole rollout, so groups are compared over the same steps."""
        args = self.args
        last = args.num_inference_steps - 1 - args.window_size
        if not args.sde_random_window:
            return args.sde_first_step
        random = self._random(Stream.WINDOW, index)
        return int(torch.randint(args.sde_first_step, last + 1, (1,), generator=random))

    # The update

    @property
    def calls_once(self) -> bool:
        return self.args.ptx_coef == 0

    def _rows_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, place: int
    ) -> Tensor:
        if update == 0 and place == 0 and self._rounds:
            self._recompute_log_probs(rollout)
        loss = self._update_loss(model, rollout, step_rows(rollout, rows), on_policy=update == 0)
        if self.args.ptx_coef > 0:
            error = self._demonstration_error(model, rollout.index, update, place)
            self.observe({"loss/ptx": error})
            loss = loss + self.args.ptx_coef * error
        return loss

    @property
    def _rounds(self) -> bool:
        """Whether the network computes in a type in which another batch gives visibly other numbers."""
        return self.generator.dtype != torch.float32 or self.args.bfloat16_products or self.args.fp16

    @torch.no_grad()
    def _recompute_log_probs(self, rollout: Rollout) -> None:
        """The old log-probabilities of the later optimiser steps of this pass, in the very micro-batches that these
        will see. Those of the first step are noted when it computes them.

        In bfloat16 the ratio is otherwise off by 1e-4 before any update, which is the size of clip ranges.
        """
        trajectories = rollout.trajectories
        flat = trajectories.log_probs.view(-1)
        first = self.args.gradient_accumulation_steps * self.args.per_device_train_batch_size
        later = self._row_order[first:]
        for chosen in later.split(self.args.per_device_train_batch_size) if len(later) else ():
            rows = step_rows(rollout, chosen)
            mean, std, _ = self._step(self.policy, rollout, rows)
            flat[chosen] = flow.gaussian_log_prob(rows.next_latents, mean, std)

    def _step(
        self, model: torch.nn.Module, rollout: Rollout, rows: StepRows
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, std and velocity of the denoising steps under `model`."""
        settings, sigmas = _window(rollout), rollout.trajectories.sigmas
        step = settings.first_step + rows.step
        velocity = self._velocity(model, rows)(rows.latents, sigmas[step])
        return *sde_step(settings, sigmas, step, rows.latents, velocity), velocity

    def _update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: StepRows, on_policy: bool
    ) -> Tensor:
        """The clipped-ratio loss with the KL divergence to the reference."""
        args, trajectories, settings = self.args, rollout.trajectories, _window(rollout)
        mean, std, velocity = self._step(model, rollout, rows)
        log_probs = flow.gaussian_log_prob(rows.next_latents, mean, std)
        # Before the first update the old policy is this one: its own value has no rounding from another batch
        # size.
        old_log_probs = log_probs.detach() if on_policy else rows.old_log_probs

        weights = step_weights(trajectories.sigmas, settings, args.step_weight)[rows.step]
        policy_loss, ratio = clipped_ratio_loss(log_probs, old_log_probs, rows.advantages, args.epsilon)
        policy_loss = weights * policy_loss
        loss = policy_loss.mean()
        observed = {
            "loss/policy": policy_loss,
            "ratio": ratio,
            "ratio/deviation": (ratio - 1).abs(),
            "clip_ratio": ((ratio - 1).abs() > args.epsilon).float(),
        }
        self._ratios.append(ratio.detach())
        if on_policy:
            observed["log_prob_error"] = (log_probs - rows.old_log_probs).abs().amax()
            if self._rounds:  # for the next pass over the rollout
                trajectories.log_probs.view(-1)[rows.index] = old_log_probs
        if rows.reference_means is not None and args.beta > 0:
            kl = flow.gaussian_kl(mean, rows.reference_means, std).mean()
            loss = loss + self.beta * kl
            observed["loss/kl"] = kl
        self.observe(observed)
        if args.log_step_gradients:
            velocity.register_hook(lambda gradient: self._watch_gradients(gradient, rows.step))
        return loss

    def _velocity(self, model: torch.nn.Module, rows: StepRows) -> Any:
        return guided_velocity(
            self.generator,
            self.conditions_of(self.conditions, self.prompt_rows[rows.rows]),
            self._negative_conditions(rows.rows),
            self.guidance_scale,
            model,
            self.args.unconditional_gradient,
        )

    def _demonstration_error(self, model: torch.nn.Module, index: int, update: int, place: int) -> Tensor:
        """The flow-matching error of some demonstrations of one size, in place of a pretraining term."""
        args = self.args
        micro_batch = (
            update * args.gradient_accumulation_steps + place
        ) * args.world_size + args.process_index
        random = self._random(Stream.DEMONSTRATIONS, index, micro_batch)
        order = torch.randperm(len(self.demonstrations), generator=random).tolist()
        shape = self.demonstrations[order[0]].shape
        chosen = [i for i in order if self.demonstrations[i].shape == shape][: args.ptx_batch_size]
        x0 = torch.stack([self.demonstrations[i] for i in chosen]).to(args.device)
        rows = self.demonstration_rows[torch.tensor(chosen)]
        seeds = example_seeds(
            args.seed, Stream.DEMONSTRATIONS, index, micro_batch, rows=torch.tensor(chosen)[:, None]
        )
        conditions = self.conditions_of(self.demonstration_conditions, rows)
        return demonstration_error(self.generator, model, x0, conditions, seeds).mean()

    # What is logged and remembered

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds quantiles of the ratio over all rows since the last log."""
        if self._ratios and not any(name.startswith("eval_") for name in logs):
            ratios = torch.cat(self._ratios).float()
            self._ratios = []
            levels = ratios.new_tensor(RATIO_QUANTILES)
            for level, value in zip(RATIO_QUANTILES, torch.quantile(ratios, levels)):
                self._metrics[f"ratio/q{round(100 * level):02d}"].append(value)
        super().log(logs, start_time)

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        if self.args.adaptive_kl_target is not None:
            state["beta"] = self.beta
        if self.critic is not None:
            state["critic"] = self.critic.state()
        return state

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self.beta = state.get("beta", self.beta)
        if self.critic is not None:
            self.critic.load_state(state["critic"])

    def _average(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, reduction="mean")

    def _watch_gradients(self, gradient: Tensor, step: Tensor) -> None:
        norms = gradient.flatten(1).norm(dim=1)
        for index in step.unique().tolist():
            self._metrics[f"step_gradients/{index}"].append(norms[step == index].mean().detach())


def _window(rollout: Rollout) -> SdeSettings:
    settings = rollout.trajectories.settings
    assert settings is not None
    return settings
