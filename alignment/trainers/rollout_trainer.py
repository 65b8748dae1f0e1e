"""`RolloutTrainer`: prompts → rollouts → rewards → advantages, for every method that learns from its own videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from alignment.data.latent_dataset import PromptTable
from alignment.lora import LoraArguments
from alignment.rollouts.advantages import group_relative_advantages, mean_and_std, share_without_spread
from alignment.rollouts.judge import Judged, Judging
from alignment.rollouts.probe import PROBE_STREAM, Probe, probe_rows
from alignment.rollouts.progress import RolloutProgress
from alignment.rollouts.reward_mixture import RewardMixture, mix_rewards
from alignment.rollouts.rollout import Rollout, ode_samples
from alignment.rollouts.video_statistics import video_statistics
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.rollout_config import RolloutConfig
from alignment.trainers.table import describe_sizes
from generator.base import VideoGenerator
from generator.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import Trajectories, one_text_each, video_size
from generator.seeds import Stream, example_seeds

if TYPE_CHECKING:
    from reward.models.base import RewardModel

logger = logging.getLogger(__name__)

Monitor = Callable[[Rollout], dict[str, float]]
"""Called after each rollout; what it returns is logged. For metrics that are not optimised."""


class RolloutTrainer(AlignmentTrainer):
    """Makes videos with the current policy, has them judged, and learns from them.

    A rollout is learnt from for `args.updates_per_rollout` optimiser steps. All random numbers depend on seed,
    rollout and place in the rollout only, so a run resumed at a checkpoint is the uninterrupted one. A method
    says in `_sample` how videos are made, and in `_rows_loss` what is learnt from some rows of a rollout.

    Args:
        generator: the generator to train.
        args: configuration.
        prompts: what rollouts are made for; each is used once before one is used again.
        reward: judges rollouts, one model or several; it stays outside the engine that wraps the policy.
        negative_prompts: one a prompt, for guidance; `args.negative_prompt` where not given.
        monitors: further measurements of rollouts.
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
    ) -> None:
        prompts = as_list(prompts)
        if lora is not None and not lora.use_peft and self.needs_lora:
            name = type(self).__name__.removesuffix("Trainer")
            raise InputError(
                f"{name} was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        if len(prompts) < 1:
            raise InputError("No prompt was given: give at least one.")
        self.rewards = RewardMixture(
            reward if isinstance(reward, Sequence) else [reward],
            args.reward_weights,
            args.reward_dimension,
            args.reward_num_frames,
            args.reward_scale,
        )
        self.rewards.check_generator(generator)
        self.rewards.check_prompts(prompts)
        defaults = generator.defaults
        size = video_size(generator, args.num_frames, args.height, args.width)
        self.latent_shape = generator.latent_shape(*size)
        self.guidance_scale = defaults.guidance_scale if args.guidance_scale is None else args.guidance_scale
        self.sigmas = generator.sigma_schedule(args.num_inference_steps, self.latent_shape)
        self.prompts = list(prompts)
        if self.guidance_scale == 1 and (args.negative_prompt or any(negative_prompts or [])):
            logger.warning("Negative prompts have no effect without guidance: set guidance_scale above 1.")
        negatives = one_text_each(negative_prompts or args.negative_prompt, len(prompts))
        table = PromptTable.encode(generator, [*prompts, *negatives])
        self.conditions = table.conditions
        self.prompt_rows, self.negative_rows = table.rows.split(len(prompts))
        self.monitors = list(monitors)
        self.rollout: Rollout | None = None
        self.probe = Probe(args.probe_rollouts or 0 if args.probe_prompts else 0)
        self.progress = RolloutProgress(
            args.num_rollouts, disable=bool(args.disable_tqdm) or args.process_index > 0
        )
        self._finished: Callable[[Tensor], None] | None = None
        self._row_order = torch.empty(0, dtype=torch.long)
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
            if self.probe.is_due(index):
                self._measure_probe(index)
            self.rollout = self._new_rollout(index)
            passes = self.args.updates_per_rollout * self.args.gradient_accumulation_steps
            self.progress.begin(index, "updating", passes, "passes")
        if self.rollout is None or self.rollout.index != index:
            raise InputError(
                f"The checkpoint lies inside rollout {index}, which is not stored: resume from one at its "
                f"end."
            )
        loss = self._rows_loss(model, self.rollout, self._rows_of(update, place), update, place)
        self.progress.advance("updating")
        if (update, place) == (self.args.updates_per_rollout - 1, self.args.gradient_accumulation_steps - 1):
            self.progress.close()
        return (loss, {}) if return_outputs else loss

    def _rows_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, place: int
    ) -> Tensor:
        """The loss of some rows `[micro_batch]` of a rollout in one of its optimiser steps."""
        raise NotImplementedError

    def _new_rollout(self, index: int) -> Rollout:
        """Prompts → rollouts → rewards → advantages."""
        args = self.args
        members = self._prompts_of(index).repeat_interleave(args.num_generations)
        texts = [self.prompts[prompt] for prompt in members.tolist()]
        conditions = self.conditions_of(self.conditions, self.prompt_rows[members])
        with self._judging(conditions, texts) as judging:
            self._finished = judging.add
            steps = len(members) * (len(self.sigmas) - 1)
            self.progress.begin(index, "sampling", steps, "denoising steps")
            trajectories = self._sample(index, members, conditions)
            self.progress.begin(index, "judging", len(members), "videos")
            each, scores = judging.finish(trajectories.final)
        rewards = mix_rewards(
            each.reshape(len(each), -1, args.num_generations),
            self.rewards.weights,
            args.reward_normalisation,
            self.accelerator.reduce,
        )
        mean, std = mean_and_std(rewards, self.accelerator.reduce)
        advantages = group_relative_advantages(
            rewards, args.scale_rewards, args.advantage_clip, global_std=std
        )
        steps = max(1, trajectories.log_probs.shape[1])
        rollout = Rollout(
            index,
            texts,
            members,
            trajectories,
            rewards.flatten(),
            scores,
            advantages.flatten()[:, None].repeat(1, steps),
        )
        self._finish_rollout(rollout)
        self._watch(rollout, mean, std)
        return rollout

    def _judging(self, conditions: Conditions, texts: Sequence[str]) -> Judging:
        """What judges the videos of a rollout, with `conditions` and `texts` one a video."""
        size = self.args.reward_batch_size

        def judge(latents: Tensor, rows: slice) -> Judged:
            judged = self.rewards.judge(self.generator, latents, select(conditions, rows), texts[rows], size)
            self.progress.advance("judging", len(latents))
            return judged

        return Judging(judge, size, self.args.device, self.args.asynchronous_rewards)

    def _sample(self, index: int, members: Tensor, conditions: Conditions) -> Trajectories:
        """Videos of the prompts `members` `[batch]`; by the ODE unless a method does otherwise."""
        return ode_samples(
            self.generator,
            self.policy,
            conditions,
            self._negative_conditions(members),
            self._seeds_of(index, len(members)),
            self.latent_shape,
            self.sigmas,
            self.guidance_scale,
            self.args.rollout_batch_size,
            self._finished,
            self._stepped,
        )

    def _stepped(self, videos: int) -> None:
        self.progress.advance("sampling", videos)

    def _measure_probe(self, index: int) -> None:
        """Logs the reward of the probe's prompts, whose noise is the same whenever they are sampled."""
        args = self.args
        members = probe_rows(len(self.prompts), args.probe_prompts, args.world_size, args.process_index)
        conditions = self.conditions_of(self.conditions, self.prompt_rows[members])
        self.progress.begin(index, "probe", 1, "times")
        videos = ode_samples(
            self.generator,
            self.policy,
            conditions,
            self._negative_conditions(members),
            self._seeds_of(0, len(members), PROBE_STREAM),
            self.latent_shape,
            self.sigmas,
            self.guidance_scale,
            args.rollout_batch_size,
        ).final
        texts = [self.prompts[member] for member in members.tolist()]
        each, _ = self.rewards.judge(self.generator, videos, conditions, texts, args.reward_batch_size)
        self.observe(self.probe.measured(torch.einsum("m, m b -> b", self.rewards.weights.to(each), each)))

    def _finish_rollout(self, rollout: Rollout) -> None:
        """What a method adds to a judged rollout, other advantages say."""

    def _negative_conditions(self, members: Tensor) -> Conditions | None:
        if self.guidance_scale == 1:
            return None
        return self.conditions_of(self.conditions, self.negative_rows[members])

    # What is random, as functions of seed and place

    def _locate(self, slots: Sequence[int]) -> tuple[int, int, int]:
        """Which rollout, which optimiser step on it, and which micro-batch of that step the slots stand
        for."""
        args = self.args
        micro_batch = slots[0] // args.per_device_train_batch_size // args.world_size
        step, place = divmod(micro_batch, args.gradient_accumulation_steps)
        return *divmod(step, args.updates_per_rollout), place

    def _prompts_of(self, index: int) -> Tensor:
        """Indices of this process's prompts in rollout `index`; epochs over all prompts follow each other."""
        args, count = self.args, len(self.prompts)
        first = index * args.num_prompts
        wanted = torch.arange(first, first + args.num_prompts)
        orders = {
            epoch: torch.randperm(count, generator=self._random(Stream.PROMPTS, epoch))
            for epoch in set((wanted // count).tolist())
        }
        chosen = torch.stack([orders[place // count][place % count] for place in wanted.tolist()])
        return chosen.chunk(args.world_size)[args.process_index]

    def _seeds_of(self, index: int, count: int, stream: int = Stream.NOISE) -> list[int]:
        """A seed for each of this process's `count` places in rollout `index`."""
        places = torch.arange(count) + self.args.process_index * count
        return example_seeds(self.args.seed, stream, index, rows=places[:, None])

    def _rows_of(self, update: int, place: int) -> Tensor:
        """The rows of one micro-batch, on the CPU, so that looking up their prompts does not wait for a GPU; each
        pass over the rollout has its own order."""
        args = self.args
        assert self.rollout is not None
        iteration, mini_batch = divmod(update, args.num_mini_batches)
        if mini_batch == 0 and place == 0:
            random = self._random(Stream.ORDER, self.rollout.index, iteration, args.process_index)
            count = args.num_prompts // args.world_size * args.rows_of_a_group
            self._row_order = torch.randperm(count, generator=random)
        size = args.per_device_train_batch_size
        start = (mini_batch * args.gradient_accumulation_steps + place) * size
        return self._row_order[start : start + size]

    def _random(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(example_seeds(self.args.seed, *key)[0])

    # What is said and logged

    @property
    def row_name(self) -> str:  # type: ignore[override]
        return self.args.row_name

    def describe_data(self) -> dict[str, str]:
        args = self.args
        return {
            "prompts": f"{len(self.prompts)}, {args.num_prompts} in each of {args.num_rollouts} rollouts",
            "videos": f"{args.num_generations} of each prompt, {args.num_prompts * args.num_generations} a rollout",
            **describe_sizes(self.generator, [self.latent_shape]),
            "sampling": f"{args.num_inference_steps} steps, guidance {self.guidance_scale:g}",
            "reward": ", ".join(model.name for model in self.rewards.rewards),
        }

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
        for monitor in self.monitors:
            observed |= {name: torch.tensor(float(value)) for name, value in monitor(rollout).items()}
        self.observe({name: value.to(args.device) for name, value in observed.items()})

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        finally:
            self.progress.close()

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), **self.probe.state()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self.probe.load_state(state)

    def _stop_above_target_kl(self, kl: Tensor) -> None:
        target = self.args.target_kl
        if target is not None and kl > target:
            self.control.should_training_stop = True

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def _collate_slots(slots: Sequence[int]) -> dict[str, list[int]]:
    """Not as a tensor: that would be moved to the GPU, and reading it there would wait for all work before."""
    return {"slots": list(slots)}


class _Slots(Dataset):
    """As many numbers as there are rows to learn from; `_locate` says what each stands for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
