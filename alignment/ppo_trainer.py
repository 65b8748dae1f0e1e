"""Proximal policy optimisation of a flow model: prompts → rollouts → rewards → advantages → update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from alignment.adapters import LoraArguments
from alignment.advantages import group_relative_advantages, mean_and_std, share_without_spread
from alignment.alignment_trainer import AlignmentTrainer
from alignment.latent_dataset import PromptTable, example_seeds
from alignment.losses import clipped_ratio_loss, step_weights
from alignment.ppo_config import PPOConfig
from alignment.rollout import Rollout, StepRows, judge, sample_groups, step_rows
from generator import flow
from generator.base import VideoGenerator
from generator.output import InputError
from generator.sampling import guided_velocity, sde_step, video_size

if TYPE_CHECKING:
    from reward.models.base import RewardModel

Monitor = Callable[[Rollout], dict[str, float]]
"""Called after each rollout; what it returns is logged. For metrics that are not optimised."""

PROMPT_STREAM, WINDOW_STREAM, NOISE_STREAM, ORDER_STREAM = 1, 2, 3, 4


class PPOTrainer(AlignmentTrainer):
    """Raises the reward of what the generator makes, near the reference policy.

    The reference is the model without the LoRA layers that are trained here. A rollout is learnt from for
    `args.updates_per_rollout` optimiser steps. All random numbers depend on seed, rollout and place in the
    rollout only, so a run resumed at a checkpoint is the uninterrupted one.

    Args:
        generator: the generator to train.
        args: configuration.
        prompts: what rollouts are made for; each is used once before one is used again.
        reward: judges rollouts; it stays outside the engine that wraps the policy.
        negative_prompts: one a prompt, for guidance; `args.negative_prompt` where not given.
        monitors: further measurements of rollouts.
        lora, record, callbacks: see `AlignmentTrainer`.
    """

    args: PPOConfig

    def __init__(
        self,
        generator: VideoGenerator,
        args: PPOConfig,
        prompts: Sequence[str],
        reward: RewardModel,
        negative_prompts: Sequence[str] | None = None,
        monitors: Sequence[Monitor] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        if lora is not None and not lora.use_peft:
            raise InputError(
                "PPO was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        if len(prompts) < 1:
            raise InputError("No prompt was given for PPO: give at least one.")
        reward.check_generator(generator)
        defaults = generator.defaults
        size = video_size(generator, args.num_frames, args.height, args.width)
        self.latent_shape = generator.latent_shape(*size)
        self.guidance_scale = defaults.guidance_scale if args.guidance_scale is None else args.guidance_scale
        self.sigmas = flow.sigma_schedule(args.num_inference_steps, defaults.shift)
        self.prompts = list(prompts)
        negatives = list(negative_prompts or [args.negative_prompt] * len(prompts))
        table = PromptTable.encode(generator, [*prompts, *negatives])
        self.conditions = table.conditions
        self.prompt_rows, self.negative_rows = table.rows.split(len(prompts))
        self.reward = reward
        self.monitors = list(monitors)
        self.rollout: Rollout | None = None
        self._row_order = torch.empty(0, dtype=torch.long)
        self.measure_kl = args.beta > 0 or args.monitor_kl or args.target_kl is not None
        slots = args.world_size * args.max_steps * args.gradient_accumulation_steps
        super().__init__(
            generator,
            args,
            train_dataset=_Slots(slots * args.per_device_train_batch_size),
            lora=lora,
            record=record,
            callbacks=callbacks,
            data_collator=_collate_slots,
        )

    # One micro-batch of the algorithm

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        index, update, place = self._locate(inputs["slots"])
        if update == 0 and place == 0:
            self.rollout = self._new_rollout(index)
        if self.rollout is None or self.rollout.index != index:
            raise InputError(
                f"The checkpoint lies inside rollout {index}, which is not stored: resume from one at its "
                f"end."
            )
        rows = step_rows(self.rollout, self._rows_of(update, place))
        loss = self._update_loss(model, self.rollout, rows, on_policy=update == 0)
        return (loss, {}) if return_outputs else loss

    def _new_rollout(self, index: int) -> Rollout:
        """Prompts → rollouts → rewards → advantages."""
        args, groups = self.args, self.args.num_prompts // self.args.world_size
        prompts = self._prompts_of(index)
        members = prompts.repeat_interleave(args.num_generations)
        texts = [self.prompts[prompt] for prompt in members.tolist()]
        conditions = self.conditions_of(self.conditions, self.prompt_rows[members])
        guided = self.guidance_scale != 1

        trajectories = sample_groups(
            self.generator,
            self.policy,
            conditions,
            self.conditions_of(self.conditions, self.negative_rows[members]) if guided else None,
            self._seeds_of(index, len(members)),
            self.latent_shape,
            self.sigmas,
            args.sde_settings(self._window_start(index)),
            self.guidance_scale,
            args.rollout_batch_size,
            self._compared(len(members)),
            keep_reference_means=args.beta > 0,
        )
        rewards, scores = judge(
            self.reward,
            self.generator,
            trajectories.final,
            conditions,
            texts,
            args.reward_dimension,
            args.reward_batch_size,
        )
        mean, std = mean_and_std(rewards, self.accelerator.reduce)
        advantages = group_relative_advantages(
            rewards.reshape(groups, args.num_generations),
            args.scale_rewards,
            args.advantage_clip,
            global_std=std,
        )
        rollout = Rollout(index, texts, members, trajectories, rewards, scores, advantages.flatten())
        self._watch(rollout, mean, std)
        return rollout

    def _update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: StepRows, on_policy: bool
    ) -> Tensor:
        """The clipped-ratio loss with the KL divergence to the reference."""
        args, trajectories = self.args, rollout.trajectories
        settings, sigmas = trajectories.settings, trajectories.sigmas
        step = settings.first_step + rows.step
        velocity = self._velocity(model, rows)(rows.latents, sigmas[step])
        mean, std = sde_step(settings, sigmas, step, rows.latents, velocity)
        log_probs = flow.gaussian_log_prob(rows.next_latents, mean, std)
        # Before the first update the old policy is this one: its own value has no rounding from another batch
        # size.
        old_log_probs = log_probs.detach() if on_policy else rows.old_log_probs

        weights = step_weights(sigmas, settings, args.step_weight)[rows.step]
        policy_loss, ratio = clipped_ratio_loss(log_probs, old_log_probs, rows.advantages, args.epsilon)
        policy_loss = weights * policy_loss
        loss = policy_loss.mean()
        observed = {
            "loss/policy": policy_loss,
            "ratio": ratio,
            "ratio/deviation": (ratio - 1).abs(),
            "clip_ratio": ((ratio - 1).abs() > args.epsilon).float(),
        }
        if on_policy:
            observed["log_prob_error"] = (log_probs - rows.old_log_probs).abs().amax()
        if rows.reference_means is not None and args.beta > 0:
            kl = flow.gaussian_kl(mean, rows.reference_means, std).mean()
            loss = loss + args.beta * kl
            observed["loss/kl"] = kl
        self.observe(observed)
        if args.log_step_gradients:
            velocity.register_hook(lambda gradient: self._watch_gradients(gradient, rows.step))
        return loss

    def _velocity(self, model: torch.nn.Module, rows: StepRows) -> Any:
        guided = self.guidance_scale != 1
        return guided_velocity(
            self.generator,
            self.conditions_of(self.conditions, self.prompt_rows[rows.rows]),
            self.conditions_of(self.conditions, self.negative_rows[rows.rows]) if guided else None,
            self.guidance_scale,
            model,
            self.args.unconditional_gradient,
        )

    # What is random, as functions of seed and place

    def _locate(self, slots: Tensor) -> tuple[int, int, int]:
        """Which rollout, which optimiser step on it, and which micro-batch of that step the slots stand
        for."""
        args = self.args
        micro_batch = int(slots[0]) // args.per_device_train_batch_size // args.world_size
        step, place = divmod(micro_batch, args.gradient_accumulation_steps)
        return *divmod(step, args.updates_per_rollout), place

    def _prompts_of(self, index: int) -> Tensor:
        """Indices of this process's prompts in rollout `index`; epochs over all prompts follow each other."""
        args, count = self.args, len(self.prompts)
        first = index * args.num_prompts
        wanted = torch.arange(first, first + args.num_prompts)
        orders = {
            epoch: torch.randperm(count, generator=self._random(PROMPT_STREAM, epoch))
            for epoch in set((wanted // count).tolist())
        }
        chosen = torch.stack([orders[place // count][place % count] for place in wanted.tolist()])
        return chosen.chunk(args.world_size)[args.process_index]

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
        random = self._random(WINDOW_STREAM, index)
        return int(torch.randint(args.sde_first_step, last + 1, (1,), generator=random))

    def _seeds_of(self, index: int, count: int) -> list[int]:
        places = torch.arange(count) + self.args.process_index * count
        return example_seeds(self.args.seed, NOISE_STREAM, index, rows=places[:, None])

    def _rows_of(self, update: int, place: int) -> Tensor:
        """The rows of one micro-batch; each pass over the rollout has its own order."""
        args = self.args
        assert self.rollout is not None
        iteration, mini_batch = divmod(update, args.num_mini_batches)
        if mini_batch == 0 and place == 0:
            random = self._random(ORDER_STREAM, self.rollout.index, iteration, args.process_index)
            self._row_order = torch.randperm(self.rollout.num_rows, generator=random).to(args.device)
        size = args.per_device_train_batch_size
        start = (mini_batch * args.gradient_accumulation_steps + place) * size
        return self._row_order[start : start + size]

    def _random(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(example_seeds(self.args.seed, *key)[0])

    # What is logged

    def _watch(self, rollout: Rollout, mean: Tensor, std: Tensor) -> None:
        args, trajectories = self.args, rollout.trajectories
        grouped = rollout.rewards.reshape(-1, args.num_generations)
        observed = {
            "reward": mean,
            "reward_std": std,
            "frac_reward_zero_std": share_without_spread(grouped),
            "advantages/absolute": rollout.advantages.abs(),
            "latents/std": trajectories.final.std(),
        }
        if trajectories.final.shape[2] > 1:
            observed["latents/motion"] = trajectories.final.diff(dim=2).abs()
        observed |= {f"rewards/{name}/mean": value for name, value in rollout.scores.items()}
        if trajectories.kl is not None:
            kl = self.accelerator.reduce(trajectories.kl.mean(), reduction="mean")
            observed["kl"] = kl
            if args.target_kl is not None and kl > args.target_kl:
                self.control.should_training_stop = True
        for monitor in self.monitors:
            observed |= {name: torch.tensor(float(value)) for name, value in monitor(rollout).items()}
        self.observe({name: value.to(args.device) for name, value in observed.items()})

    def _watch_gradients(self, gradient: Tensor, step: Tensor) -> None:
        norms = gradient.flatten(1).norm(dim=1)
        for index in step.unique().tolist():
            self._metrics[f"step_gradients/{index}"].append(norms[step == index].mean().detach())

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def _collate_slots(slots: Sequence[int]) -> dict[str, Tensor]:
    return {"slots": torch.tensor(slots)}


class _Slots(Dataset):
    """As many numbers as there are rows to learn from; `_locate` says what each stands for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
