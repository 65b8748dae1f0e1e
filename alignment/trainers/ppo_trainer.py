"""Proximal policy optimisation of a flow model: prompts → sample → judge → advantages → update.

The file is in that order. `RolloutTrainer` calls `PPOTrainer.make_rollout` once a rollout, then
`PPOTrainer.update_loss` for each micro-batch of the optimiser steps on it; the loss it returns is back-propagated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignment.data.example_images import ExampleImages
from alignment.data.latent_dataset import PromptTable
from alignment.lora import LoraArguments
from alignment.losses import (
    adapted_beta,
    clipped_ratio_loss,
    divergence_masked_loss,
    normalised_log_ratio,
    step_weights,
)
from alignment.rollouts.advantages import generalised_advantages, mean_and_std
from alignment.rollouts.critic import CriticInputs, ValueCritic
from alignment.rollouts.judge import Judging
from alignment.rollouts.rollout import Rollout, StepRows, sample_groups, step_rows
from alignment.trainers.context_groups import check_latents
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.rollout_trainer import Monitor, RolloutTrainer
from alignment.trainers.sft_trainer import demonstration_error
from generator import flow
from generator.base import VideoGenerator
from generator.inputs.conditions import concatenate
from generator.output import InputError
from generator.sampling import SdeSettings, Trajectories, sde_step
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
        demonstrations: latents `[C, F, H, W]` and a prompt each, for `args.ptx_coef`; perhaps with the image that each
            begins with.
        more: `eval_prompts`, `eval_negative_prompts`, `images`, `eval_images`, `rewritten_prompts` and
            `eval_rewritten_prompts` of `RolloutTrainer`.
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
        demonstrations: tuple[Any, ...] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            generator, args, prompts, reward, negative_prompts, monitors, lora, record, callbacks, **more
        )
        self.beta = args.beta
        self.ratios: list[Tensor] = []
        if args.ptx_coef > 0 and (demonstrations is None or len(demonstrations[0]) == 0):
            raise InputError("ptx_coef is above 0, but there are no demonstrations: give ptx_dataset.")
        self.demonstrations: list[Tensor] = list(demonstrations[0]) if demonstrations else []
        for latents in self.demonstrations:
            check_latents(generator, args, latents.shape)
        self.demonstration_images: ExampleImages | None = None
        if demonstrations:
            if len(demonstrations) > 2 and demonstrations[2] is not None:
                self.demonstration_images = ExampleImages(generator, [[each] for each in demonstrations[2]])
            table = PromptTable.encode(generator, demonstrations[1])
            self.demonstration_conditions, self.demonstration_rows = table.conditions, table.rows
        self.critic: ValueCritic | None = None
        if args.advantage == "critic":
            if args.critic_trunk == "shared" and (self.divided_by or args.context_parallel > 1):
                by = self.divided_by or f"context_parallel {args.context_parallel}"
                raise InputError(f"critic_trunk is shared with {by}, which divides the trunk: set it to own.")
            self.critic = ValueCritic(
                generator, args.critic_trunk, args.critic_learning_rate, args.seed, self.average
            )

    # Prompts → sample → judge → advantages

    def make_rollout(self, index: int) -> Rollout:
        """Makes rollout number `index` (from 0), from which `update_loss` then learns.

        With `args.asynchronous_rewards` videos are judged while others are sampled, else all of them in `judge`;
        the reward of a video is the weighted sum of those of all models.
        """
        prompts = self.prompts_of(index).repeat_interleave(self.args.num_generations)
        with self.judging(prompts) as judging:
            trajectories = self.sample(index, prompts, judging)
            rewards, scores = self.judge(index, trajectories, judging)
        rollout = Rollout(index, self.plan.texts(prompts), prompts, trajectories, rewards, scores)
        self.follow_divergence(trajectories)
        rollout.advantages = self.advantages(rollout)
        self.watch(rollout)
        return rollout

    def sample(self, index: int, prompts: Tensor, judging: Judging) -> Trajectories:
        """Trajectories with stochastic steps, one a prompt index `[batch]`, under the policy as it is.

        Those whose divergence from the reference counts are compared with it: all for a KL term, else some of each
        group. `judging` gets the videos of each batch as soon as they are finished.
        """
        args, count = self.args, len(prompts)
        self.progress.begin(index, "sampling", count * args.num_inference_steps, "denoising steps")
        compared = None
        if args.measures_divergence:
            measured = args.num_generations if args.beta > 0 else args.monitor_kl_generations
            compared = torch.arange(count) % args.num_generations < measured
        return sample_groups(
            self.plan,
            self.policy,
            prompts,
            self.seeds_of(index, count),
            args.sde_settings(self.window_start(index)),
            compared,
            keep_reference_means=args.beta > 0,
            finished=judging.add,
            stepped=self.progress.stepped,
            keep_means=args.keeps_means,
            keep_unconditional=not args.unconditional_gradient,
        )

    def window_start(self, index: int) -> int:
        """First stochastic step: one for the whole rollout, so groups are compared over the same steps."""
        args = self.args
        last = args.num_inference_steps - 1 - args.window_size
        if not args.sde_random_window:
            return args.sde_first_step
        random = self.random(Stream.WINDOW, index)
        return int(torch.randint(args.sde_first_step, last + 1, (1,), generator=random))

    def follow_divergence(self, trajectories: Trajectories) -> None:
        """Logs the divergence from the reference, adapts β to it, and stops training above `args.target_kl`."""
        args = self.args
        if trajectories.kl is None:
            return
        mean = self.average(trajectories.kl.mean())
        self.observe({"kl": mean, "beta": mean.new_tensor(self.beta)})
        self.stop_above_target_kl(mean)
        if args.adaptive_kl_target is not None:
            self.beta = adapted_beta(self.beta, mean.item(), args.adaptive_kl_target, args.adaptive_kl_gain)

    def advantages(self, rollout: Rollout) -> Tensor:
        """Advantages `[batch, W]` of the W stochastic steps: by the critic where there is one, else the video's
        reward relative to its group, the same for each step."""
        if self.critic is None:
            return super().advantages(rollout)
        return self.critic_advantages(self.critic, rollout)

    def critic_advantages(self, critic: ValueCritic, rollout: Rollout) -> Tensor:
        """Advantages by GAE from the critic as it is, then one more lesson for the critic."""
        args = self.args
        critic.set_scale(*mean_and_std(rollout.rewards, self.accelerator.reduce))
        inputs = self.critic_inputs(critic, rollout)
        values = critic.values(inputs).reshape(len(rollout.rewards), -1)
        advantages, returns = generalised_advantages(rollout.rewards, values, args.gamma, args.gae_lambda)
        mean, std = mean_and_std(advantages, self.accelerator.reduce)
        error = critic.fit(
            inputs,
            returns.flatten(),
            args.critic_epochs,
            args.micro_batch_size,
            self.random(Stream.CRITIC_ORDER, rollout.index, args.data_parallel_rank),
        )
        unexplained = (rollout.rewards[:, None] - values).var(correction=0)
        explained = 1 - unexplained / rollout.rewards.var(correction=0).clamp(min=1e-8)
        self.observe({"value/loss": error, "value/explained_variance": explained, "value/mean": values})
        return ((advantages - mean) / (std + 1e-4)).clamp(-args.advantage_clip, args.advantage_clip)

    def critic_inputs(self, critic: ValueCritic, rollout: Rollout) -> CriticInputs:
        """The states before each stochastic step, trajectory by trajectory."""
        trajectories, settings = rollout.trajectories, _window(rollout)
        steps = settings.num_steps
        sigmas = trajectories.sigmas[settings.first_step : settings.first_step + steps]
        parts = []
        videos = torch.arange(len(rollout.prompts))
        for rows in videos.split(max(1, self.args.rollout_batch_size // steps)):
            states = trajectories.states[rows, :steps].flatten(0, 1)
            prompts = rollout.prompt_indices[rows].repeat_interleave(steps)
            states = self.plan.whole(states, prompts)
            parts.append(critic.inputs(states, sigmas.repeat(len(rows)), self.plan.conditions_of(prompts)))
        return CriticInputs(
            torch.cat([part.seen for part in parts]),
            torch.cat([part.sigma for part in parts]),
            torch.cat([part.text for part in parts]),
        )

    # Update

    def update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, micro_batch: int = 0
    ) -> Tensor:
        """The clipped-ratio loss of denoising steps, with the KL divergence and the loss on demonstrations.

        Args:
            model: the policy, wrapped by the engine.
            rows: numbers of the steps in the rollout `[micro_batch]`, on the CPU.
            update: optimiser step on this rollout, from 0; before the first one the policy is still the old one.
            micro_batch: of the optimiser step, from 0.
        """
        if (update, micro_batch) == (0, 0) and self.rounds:
            self.recompute_log_probs(rollout)
        if micro_batch == 0:
            self.follow_unconditional(rollout, update)
        loss = self.policy_loss(model, rollout, step_rows(rollout, rows), on_policy=update == 0)
        if self.args.ptx_coef > 0:
            error = self.demonstration_error(model, rollout.index, update, micro_batch)
            self.observe({"loss/ptx": error})
            loss = loss + self.args.ptx_coef * error
        return loss

    def policy_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: StepRows, on_policy: bool
    ) -> Tensor:
        """The clipped-ratio loss with the KL divergence to the reference."""
        args, trajectories = self.args, rollout.trajectories
        mean, std, velocity = self.step(model, rollout, rows)
        log_probs = flow.gaussian_log_prob(rows.next_latents, mean, std)
        # Before the first update the old policy is this one: its own value has no rounding from another batch
        # size.
        old_log_probs = log_probs.detach() if on_policy else rows.old_log_probs

        weights = step_weights(trajectories.sigmas, _window(rollout), args.step_weight)[rows.step]
        log_ratio = log_probs - old_log_probs
        old_means = mean.detach() if on_policy or rows.old_means is None else rows.old_means
        if args.ratio_norm:
            log_ratio = normalised_log_ratio(log_ratio, mean, old_means, std)
            # So that the first step's gradient, and with it the step weights, stay what they are without.
            weights = weights / std.expand_as(mean).flatten(1)[:, 0]
        if args.max_divergence is None:
            policy_loss, ratio = clipped_ratio_loss(
                log_ratio, torch.zeros_like(log_ratio), rows.advantages, args.epsilon
            )
            stopped = (ratio - 1).abs() > args.epsilon
        else:
            divergence = flow.gaussian_kl(mean.detach(), old_means, std)
            policy_loss, ratio, stopped = divergence_masked_loss(
                log_ratio, rows.advantages, divergence, args.max_divergence
            )
        policy_loss = weights * policy_loss
        loss = policy_loss.mean()
        observed = {
            "loss/policy": policy_loss,
            "ratio": ratio,
            "ratio/deviation": (ratio - 1).abs(),
            "clip_ratio": stopped.float(),
        }
        self.ratios.append(ratio.detach())
        if on_policy:
            observed["log_prob_error"] = (log_probs - rows.old_log_probs).abs().amax()
            if self.rounds:  # for the next pass over the rollout
                trajectories.log_probs.view(-1)[rows.index] = old_log_probs
                if trajectories.means is not None:
                    trajectories.means.flatten(0, 1)[rows.index] = mean.detach()
        if rows.reference_means is not None and args.beta > 0:
            kl = flow.gaussian_kl(mean, rows.reference_means, std).mean()
            loss = loss + self.beta * kl
            observed["loss/kl"] = kl
        self.observe(observed)
        if args.log_step_gradients:
            velocity.register_hook(lambda gradient: self._watch_gradients(gradient, rows.step))
        return loss

    def step(self, model: torch.nn.Module, rollout: Rollout, rows: StepRows) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, std and velocity of the denoising steps under `model`."""
        settings, sigmas = _window(rollout), rollout.trajectories.sigmas
        step = settings.first_step + rows.step
        velocity = self.plan.velocity(rows.prompt_indices, model, rows.unconditional)
        predicted = velocity(rows.latents, sigmas[step])
        return *sde_step(settings, sigmas, step, rows.latents, predicted), predicted

    @property
    def rounds(self) -> bool:
        """True where the network computes in a type in which another batch gives visibly other numbers."""
        return self.generator.dtype != torch.float32 or self.args.bfloat16_products or self.args.fp16

    @torch.no_grad()
    def recompute_log_probs(self, rollout: Rollout) -> None:
        """Computes the old log-probabilities of the later optimiser steps of the first pass, in the very
        micro-batches that these will see. Those of the first step are noted when it computes them.

        In bfloat16 the ratio is otherwise off by 1e-4 before any update, which is the size of clip ranges.
        """
        flat = rollout.trajectories.log_probs.view(-1)
        later = self.row_order(rollout.index, 0)[self.args.rows_per_update :]
        self.compute_unconditional(rollout, later)
        for chosen in later.split(self.args.micro_batch_size) if len(later) else ():
            rows = step_rows(rollout, chosen)
            mean, std, _ = self.step(self.policy, rollout, rows)
            flat[chosen] = flow.gaussian_log_prob(rows.next_latents, mean, std)
            if rollout.trajectories.means is not None:
                rollout.trajectories.means.flatten(0, 1)[chosen] = mean

    def follow_unconditional(self, rollout: Rollout, update: int) -> None:
        """Computes the unconditional velocities of an optimiser step's rows anew where they are not trained but no
        longer those of sampling.

        Before the first step they are, but for rounding, which matters where a later pass compares with this one.
        """
        args = self.args
        if update > 0 or (self.rounds and args.num_iterations > 1):
            iteration, mini_batch = divmod(update, args.num_mini_batches)
            order = self.row_order(rollout.index, iteration).split(args.rows_per_update)
            self.compute_unconditional(rollout, order[mini_batch])

    @torch.no_grad()
    def compute_unconditional(self, rollout: Rollout, rows: Tensor) -> None:
        """Puts the unconditional velocities of rows under the policy as it is in the place of those that are kept.

        In as few calls as the memory of sampling allows: one a micro-batch would wait for its launches.
        """
        kept = rollout.trajectories.unconditional
        if kept is None or not len(rows):
            return
        most = 2 * self.args.rollout_batch_size  # rows of a guided call
        size = max(n for n in range(1, most + 1) if self.args.rows_per_update % n == 0)
        first, sigmas = _window(rollout).first_step, rollout.trajectories.sigmas
        for chosen in rows.split(size):
            part = step_rows(rollout, chosen)
            velocity = self.plan.unconditional_velocity(part.prompt_indices, self.policy)
            kept.flatten(0, 1)[part.index] = velocity(part.latents, sigmas[first + part.step])

    @property
    def calls_once(self) -> bool:
        return self.args.ptx_coef == 0

    @property
    def adds_calls(self) -> bool:
        return self.args.ptx_coef > 0

    def demonstration_error(
        self, model: torch.nn.Module, index: int, update: int, micro_batch: int
    ) -> Tensor:
        """The flow-matching error of some demonstrations of one size, in place of a pretraining term."""
        args = self.args
        number = update * args.gradient_accumulation_steps + micro_batch
        number = (
            number * args.data_parallel_size + args.data_parallel_rank
        )  # of all processes' micro-batches on this rollout
        random = self.random(Stream.DEMONSTRATIONS, index, number)
        order = torch.randperm(len(self.demonstrations), generator=random).tolist()
        shape = self.demonstrations[order[0]].shape
        chosen = [i for i in order if self.demonstrations[i].shape == shape][: args.ptx_batch_size]
        x0 = torch.stack([self.demonstrations[i] for i in chosen]).to(args.device)
        rows = self.demonstration_rows[torch.tensor(chosen)]
        seeds = example_seeds(
            args.seed, Stream.DEMONSTRATIONS, index, number, rows=torch.tensor(chosen)[:, None]
        )
        conditions = self.conditions_of(self.demonstration_conditions, rows)
        images = None
        if self.demonstration_images is not None:
            rows_of_images = [self.demonstration_images.of(i, shape) for i in chosen]
            images = {name: value.to(args.device) for name, value in concatenate(rows_of_images).items()}
        return demonstration_error(self.generator, model, x0, conditions, seeds, images=images).mean()

    # What is logged and remembered

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds quantiles of the ratio over all rows since the last log."""
        if self.ratios and not any(name.startswith("eval_") for name in logs):
            ratios = torch.cat(self.ratios).float()
            self.ratios = []
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

    def _watch_gradients(self, gradient: Tensor, step: Tensor) -> None:
        norms = gradient.flatten(1).norm(dim=1) / self.args.context_parallel  # see `sum_gradients`
        for index in step.unique().tolist():
            self._metrics[f"step_gradients/{index}"].append(norms[step == index].mean().detach())


def _window(rollout: Rollout) -> SdeSettings:
    settings = rollout.trajectories.settings
    assert settings is not None
    return settings
