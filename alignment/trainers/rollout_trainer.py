"""`RolloutTrainer`: what the methods that learn from their own videos share, apart from what PPO does."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import TrainerCallback

from alignment.lora import LoraArguments
from alignment.rollouts.advantages import group_relative_advantages, mean_and_std, share_without_spread
from alignment.rollouts.judge import Judged, Judging
from alignment.rollouts.motion_watch import MotionWatch
from alignment.rollouts.probe import PROBE_STREAM, Probe, probe_rows
from alignment.rollouts.progress import RolloutProgress
from alignment.rollouts.reward_mixture import RewardMixture, mix_rewards
from alignment.rollouts.rollout import Rollout, ode_samples
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.rollouts.video_statistics import video_statistics
from alignment.trainers.rewarded_trainer import RewardedTrainer
from alignment.trainers.rollout_config import RolloutConfig
from alignment.trainers.samples import GroupSamples
from alignment.trainers.table import describe_sizes
from generator.base import VideoGenerator
from generator.first_frames import ImageFiles
from generator.inputs.conditions import select
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import Trajectories
from generator.seeds import Stream, example_seeds

if TYPE_CHECKING:
    from reward.models.base import RewardModel

logger = logging.getLogger(__name__)

Monitor = Callable[[Rollout], dict[str, float]]
"""Called after each rollout; what it returns is logged. For metrics that are not optimised."""


class RolloutTrainer(RewardedTrainer, ABC):
    """Makes videos with the current policy, has them judged, and learns from them.

    Before each `args.updates_per_rollout` optimiser steps it calls `make_rollout` (prompts → `sample` → `judge` →
    `advantages`), then for each micro-batch of these steps `update_loss`, the one method that each subclass must
    have. All random numbers depend on seed, rollout and place in the rollout only, so a run resumed at a checkpoint
    is the uninterrupted one.

    Args:
        generator: the generator to train.
        args: configuration.
        prompts: what rollouts are made for; each is used once before one is used again.
        reward: judges rollouts, one model or several; it stays outside the engine that wraps the policy.
        negative_prompts: one a prompt, for guidance; `args.negative_prompt` where not given.
        monitors: further measurements of rollouts.
        eval_prompts: held-out prompts that the policy is measured on, every `args.eval_steps` steps.
        eval_negative_prompts: one of each of them.
        images: files of the first image of each prompt's videos and of the last, or None in its place; a group
            shares them.
        eval_images: those of `eval_prompts`.
        rewritten_prompts, eval_rewritten_prompts: one a prompt, which the policy is given; rewards judge by prompts.
        lora, record, callbacks: see `AlignmentTrainer`.
    """

    args: RolloutConfig
    needs_lora = True

    def __init__(
        self,
        generator: VideoGenerator,
        args: RolloutConfig,
        prompts: Sequence[str],
        reward: RewardModel | Sequence[RewardModel],
        negative_prompts: Sequence[str] | None = None,
        monitors: Sequence[Monitor] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
        eval_prompts: Sequence[str] | None = None,
        eval_negative_prompts: Sequence[str] | None = None,
        images: Sequence[ImageFiles] | None = None,
        eval_images: Sequence[ImageFiles] | None = None,
        rewritten_prompts: Sequence[str] | None = None,
        eval_rewritten_prompts: Sequence[str] | None = None,
    ) -> None:
        prompts = as_list(prompts)
        if lora is not None and not lora.use_peft and self.needs_lora:
            name = type(self).__name__.removesuffix("Trainer")
            raise InputError(
                f"{name} was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        if not prompts:
            raise InputError("No prompt was given: give at least one.")
        _warn_of_smaller_micro_batches(args)
        self.rewards = RewardMixture.for_training(reward, args, generator, prompts)
        self.rewards.warn_of_scales(args.reward_normalisation)
        self.rewards.check_groups(
            args.reward_batch_size, args.num_generations, "reward_batch_size", "num_generations"
        )
        self.plan = SamplingPlan.for_training(
            generator, args, prompts, negative_prompts, args.rollout_batch_size, self.conditions_of, images,
            rewritten_prompts, args.rollout_solver,
        )  # fmt: skip
        self.monitors = list(monitors)
        self.rollout: Rollout | None = None
        self.probe = Probe(args.probe_interval)
        self.group_samples = GroupSamples(self)
        self.motion = MotionWatch()
        self.progress = RolloutProgress(
            args.num_rollouts, disable=bool(args.disable_tqdm) or args.process_index > 0
        )
        slots = args.world_size * args.max_steps * args.gradient_accumulation_steps
        super().__init__(
            generator,
            args,
            train_dataset=_Slots(slots * args.micro_batch_size),
            eval_dataset=self.hold_out(
                generator, args, eval_prompts, eval_negative_prompts, eval_images, eval_rewritten_prompts
            ),
            lora=lora,
            record=record,
            callbacks=[*callbacks, WholeRollouts()],
            data_collator=_collate_slots,
        )
        self.watch_held_out()

    # One micro-batch of the algorithm

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        index, update, micro_batch = self.locate(inputs["slots"])
        updates, micro_batches = self.args.updates_per_rollout, self.args.gradient_accumulation_steps
        if (update, micro_batch) == (0, 0):
            if self.probe.is_due(index):
                self._measure_probe(index)
            self.rollout = self.make_rollout(index)
            self.progress.begin(index, "updating", updates * micro_batches, "passes")
        if self.rollout is None or self.rollout.index != index:
            raise InputError(
                f"The checkpoint lies inside rollout {index}, which is not stored: resume from one at its end."
            )
        rows = self.rows_of(index, update, micro_batch)
        loss = self.update_loss(model, self.rollout, rows, update, micro_batch)
        self.progress.advance("updating")
        if (update, micro_batch) == (updates - 1, micro_batches - 1):
            self.progress.close()
        return (loss, {}) if return_outputs else loss

    def make_rollout(self, index: int) -> Rollout:
        """Prompts → sample → judge → advantages."""
        prompts = self.prompts_of(index).repeat_interleave(self.args.num_generations)
        with self.judging(prompts) as judging:
            trajectories = self.sample(index, prompts, judging)
            rewards, scores = self.judge(index, trajectories, judging)
        rollout = Rollout(index, self.plan.texts(prompts), prompts, trajectories, rewards, scores)
        rollout.advantages = self.advantages(rollout)
        self.watch(rollout)
        return rollout

    def sample(self, index: int, prompts: Tensor, judging: Judging) -> Trajectories:
        """Videos of the prompt indices `[batch]` by the ODE; `judging` gets each as soon as it is finished."""
        self.progress.begin(index, "sampling", len(prompts) * (len(self.plan.sigmas) - 1), "denoising steps")
        return ode_samples(
            self.plan,
            self.policy,
            prompts,
            self.seeds_of(index, len(prompts)),
            judging.add,
            self.progress.stepped,
        )

    @contextmanager
    def judging(self, prompts: Tensor) -> Iterator[Judging]:
        """Judges videos of the prompt indices `[batch]` as they come, or in the end; encodes their images first."""
        self.plan.prepare(prompts)
        size, texts, conditions = (
            self.args.reward_batch_size,
            self.plan.texts(prompts),
            self.plan.text_conditions_of(prompts),
        )

        def judge(latents: Tensor, rows: slice) -> Judged:
            images = self.plan.pictures(prompts[rows], self.rewards)
            given = select(conditions, rows), texts[rows], size, images
            judged = self.rewards.judge(self.generator, latents, *given)
            self.progress.advance("judging", len(latents))
            return judged

        asynchronous = self.args.asynchronous_rewards
        with Judging(judge, size, self.args.device, asynchronous, self.context_group) as judging:
            yield judging

    def judge(
        self, index: int, trajectories: Trajectories, judging: Judging
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards `[batch]` of sampled videos, and every score `[batch]` by name."""
        own = -(-len(trajectories.final) // self.args.context_parallel)
        self.progress.begin(index, "judging", own, "videos")
        each, scores = judging.finish(trajectories.final)
        rewards = mix_rewards(
            each.reshape(len(each), -1, self.args.num_generations),
            self.rewards.weights,
            self.args.reward_normalisation,
            self.accelerator.reduce,
        )
        return rewards.flatten(), scores

    def advantages(self, rollout: Rollout) -> Tensor:
        """Advantages `[batch, W]` relative to the group, the same for each of the W stochastic steps; at least
        one."""
        args = self.args
        grouped = rollout.rewards.reshape(-1, args.num_generations)
        _, std = mean_and_std(grouped, self.accelerator.reduce)
        advantages = group_relative_advantages(
            grouped, args.scale_rewards, args.advantage_clip, global_std=std
        )
        steps = max(1, rollout.trajectories.log_probs.shape[1])
        return advantages.flatten()[:, None].repeat(1, steps)

    @abstractmethod
    def update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, micro_batch: int = 0
    ) -> Tensor:
        """The loss of a micro-batch: some rows `[micro_batch]` of a rollout in one of its optimiser steps.

        Args:
            model: the policy, wrapped by the engine.
            rows: numbers of the rows, on the CPU.
            update: optimiser step on this rollout, from 0.
            micro_batch: of the optimiser step, from 0.
        """

    def _measure_probe(self, index: int) -> None:
        """Logs the reward of the probe's prompts, whose noise is the same whenever they are sampled."""
        args, plan = self.args, self.plan
        count, groups = len(plan.prompts), (args.data_parallel_size, args.data_parallel_rank)
        prompts = probe_rows(count, args.probe_prompts, *groups)
        self.progress.begin(index, "probe", 1, "times")
        seeds = self.seeds_of(0, len(prompts), PROBE_STREAM)
        videos = ode_samples(plan, self.policy, prompts, seeds).final
        each, _ = self.rewards.judge(
            self.generator,
            videos,
            plan.text_conditions_of(prompts),
            plan.texts(prompts),
            args.reward_batch_size,
            plan.pictures(prompts, self.rewards),
        )
        self.observe(self.probe.measured(torch.einsum("m, m b -> b", self.rewards.weights.to(each), each)))

    # What is random, as functions of seed and place

    def locate(self, slots: Sequence[int]) -> tuple[int, int, int]:
        """Rollout, optimiser step on it, and micro-batch of that step, which the slots stand for."""
        args = self.args
        micro_batch = slots[0] // args.micro_batch_size // args.world_size
        step, micro_batch = divmod(micro_batch, args.gradient_accumulation_steps)
        return *divmod(step, args.updates_per_rollout), micro_batch

    def prompts_of(self, index: int) -> Tensor:
        """Indices of this process's prompts in rollout `index`; epochs over all prompts follow each other."""
        args, count = self.args, len(self.plan.prompts)
        first = index * args.num_prompts
        wanted = torch.arange(first, first + args.num_prompts)
        orders = {
            epoch: torch.randperm(count, generator=self.random(Stream.PROMPTS, epoch))
            for epoch in set((wanted // count).tolist())
        }
        chosen = torch.stack([orders[number // count][number % count] for number in wanted.tolist()])
        return chosen.chunk(args.data_parallel_size)[args.data_parallel_rank]

    def seeds_of(self, index: int, count: int, stream: int = Stream.NOISE) -> list[int]:
        """A seed for each of this process's `count` videos in rollout `index`."""
        videos = torch.arange(count) + self.args.data_parallel_rank * count
        return example_seeds(self.args.seed, stream, index, rows=videos[:, None])

    def rows_of(self, index: int, update: int, micro_batch: int) -> Tensor:
        """The rows of one micro-batch, on the CPU, so that looking up their prompts does not wait for a GPU."""
        args = self.args
        iteration, mini_batch = divmod(update, args.num_mini_batches)
        size = args.micro_batch_size
        start = (mini_batch * args.gradient_accumulation_steps + micro_batch) * size
        return self.row_order(index, iteration)[start : start + size]

    def row_order(self, index: int, iteration: int) -> Tensor:
        """Order of all rows of this process; each pass over a rollout has its own."""
        args = self.args
        random = self.random(Stream.ORDER, index, iteration, args.data_parallel_rank)
        return torch.randperm(args.rows_per_update * args.num_mini_batches, generator=random)

    def random(self, *key: int) -> torch.Generator:
        """Random numbers that depend on the run's seed and `key` only."""
        return torch.Generator().manual_seed(example_seeds(self.args.seed, *key)[0])

    # What is said and logged

    @property
    def row_name(self) -> str:  # type: ignore[override]
        return self.args.row_name

    def describe_data(self) -> dict[str, str]:
        args = self.args
        solver = "" if self.plan.solver == "euler" else f" of {self.plan.solver}"
        return {
            "prompts": f"{len(self.plan.prompts)}, {args.num_prompts} in each of {args.num_rollouts} rollouts",
            "videos": f"{args.num_generations} of each prompt, {args.num_prompts * args.num_generations} a rollout",
            **describe_sizes(self.generator, [self.plan.latent_shape]),
            "sampling": f"{args.num_inference_steps} steps{solver}, guidance {self.plan.guidance}",
            "reward": ", ".join(model.name for model in self.rewards.rewards),
        }

    def watch(self, rollout: Rollout) -> None:
        """Logs what a rollout shows; nothing is learnt from it."""
        args, trajectories = self.args, rollout.trajectories
        grouped = rollout.rewards.reshape(-1, args.num_generations)
        mean, std = mean_and_std(grouped, self.accelerator.reduce)
        observed = {
            "reward": mean,
            "reward_std": std,
            "frac_reward_zero_std": share_without_spread(grouped),
            "advantages/absolute": rollout.advantages.abs(),
            "latents/std": trajectories.final.std(),
        }
        if trajectories.final.shape[2] > 1:
            observed["latents/motion"] = trajectories.final.diff(dim=2).abs()
        observed |= {_log_name(name): value for name, value in rollout.scores.items()}
        if args.monitor_videos:
            count = min(args.monitor_videos, len(rollout.prompts))
            self.progress.begin(rollout.index, "decoding", count, "videos")
            chosen = torch.linspace(0, len(rollout.prompts) - 1, count).long().to(trajectories.final.device)
            with torch.no_grad():
                # One by one: decoding takes much memory, while the network's is still held.
                each = []
                for latents in trajectories.final[chosen].split(1):
                    each.append(video_statistics(self.generator.decode(latents)))
                    self.progress.advance("decoding")
            observed |= {f"videos/{name}": torch.cat([found[name] for found in each]) for name in each[0]}
            motion = self.average(observed["videos/motion"].mean().to(args.device))
            warning = self.motion.look(motion.item(), mean.item())
            if warning and args.process_index == 0:
                logger.warning(warning)
        self.group_samples.keep(rollout)
        for monitor in self.monitors:
            observed |= {name: torch.tensor(float(value)) for name, value in monitor(rollout).items()}
        self.observe({name: value.to(args.device) for name, value in observed.items()})

    def show_evaluation(self, videos: int) -> tuple[Callable[[int], None], Callable[[], None]]:
        index = min(self.state.global_step // self.args.updates_per_rollout, self.args.num_rollouts - 1)
        self.progress.begin(index, "evaluating", videos, "videos")
        return partial(self.progress.advance, "evaluating"), self.progress.close

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        finally:
            self.progress.close()

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), **self.probe.state(), **self.motion.state()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self.probe.load_state(state)
        self.motion.load_state(state)

    def observe_kl(self, kl: Tensor) -> None:
        """Logs a divergence from the reference; training stops when it is above `args.target_kl`."""
        self.observe({"kl": kl})
        self.stop_above_target_kl(self.average(kl))

    def stop_above_target_kl(self, kl: Tensor) -> None:
        """Stops training when the divergence, equal on all processes, is above `args.target_kl`."""
        target = self.args.target_kl
        if target is not None and kl > target:
            self.control.should_training_stop = True

    def average(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        return self.accelerator.reduce(value, reduction="mean")

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


class WholeRollouts(TrainerCallback):
    """Logs and saves at the ends of rollouts only, at `args.logging_interval` and `args.save_interval`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed run compares this with `args.per_device_train_batch_size`, and warns where they differ.
        state.train_batch_size = args.per_device_train_batch_size

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if args.logging_strategy == "steps":
            first = step == 1 and args.logging_first_step
            control.should_log = first or step % args.logging_interval == 0
        if args.save_strategy == "steps":
            due = args.save_interval > 0 and step % args.save_interval == 0
            control.should_save = due or step >= state.max_steps


def _log_name(score: str) -> str:
    """The name under which a score is logged; what is measured on the videos beside is none."""
    return score if score.startswith("videos/") else f"rewards/{score}/mean"


def _warn_of_smaller_micro_batches(args: RolloutConfig) -> None:
    size, most, rows = args.micro_batch_size, args.per_device_train_batch_size, args.rows_per_update
    if size < min(most, rows):
        logger.warning(
            f"per_device_train_batch_size is {most}, but the {rows} {args.row_name} of an optimiser step are split "
            f"into equal parts: micro-batches have {size}."
        )


def _collate_slots(slots: Sequence[int]) -> dict[str, list[int]]:
    """Not as a tensor: that would be moved to the GPU, and reading it there would wait for all work before."""
    return {"slots": list(slots)}


class _Slots(Dataset):
    """As many numbers as there are rows to learn from; `RolloutTrainer.locate` says what each stands for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
