"""Reward back-propagation: ReFL (Xu et al. 2023, arXiv 2304.05977), DRaFT-K (Clark et al. 2023, arXiv 2309.17400),
VADER for videos (Prabhudesai et al. 2024, arXiv 2407.08737)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignment.lora import LoraArguments, adapters_disabled
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.rewarded_trainer import RewardedTrainer
from alignment.trainers.table import describe_sizes
from generator import flow
from generator.base import VideoGenerator
from generator.first_frames import ImageFiles
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import Velocity, sample_latents, seeded_noise
from generator.seeds import Stream, example_seeds

if TYPE_CHECKING:
    from reward.models.base import RewardModel


class BackpropTrainer(RewardedTrainer):
    """Raises a differentiable reward of sampled videos by its gradient, through latents or decoded pixels.

    `args.reward_num_frames` and `args.reward_scale` say what is decoded for rewards on pixels. It learns fast and games
    the reward fast: use `beta`, several rewards and few steps, and look at the videos.

    Args:
        generator: the generator to train.
        args: configuration.
        prompts: one video of each is sampled in an epoch.
        reward: one or several models that pass gradients, to latents or to pixels.
        negative_prompts: one a prompt, for guidance.
        lora, record, callbacks: see `AlignmentTrainer`.
        eval_prompts, eval_negative_prompts: see `RolloutTrainer`.

    Raises:
        InputError: a reward passes no gradients, or a KL term is asked for without LoRA.
    """

    args: BackpropConfig

    def __init__(
        self,
        generator: VideoGenerator,
        args: BackpropConfig,
        prompts: Sequence[str],
        reward: RewardModel | Sequence[RewardModel],
        negative_prompts: Sequence[str] | None = None,
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
        if lora is not None and not lora.use_peft and args.beta > 0:
            raise InputError(
                "beta is above 0, but its reference needs LoRA: set use_peft to true or beta to 0."
            )
        self.rewards = RewardMixture.for_training(reward, args)
        self._check_gradients(args)
        self.rewards.warn_of_scales()
        self.rewards.check_generator(generator)
        self.rewards.check_prompts(prompts)
        self.plan = SamplingPlan.for_training(
            generator,
            args,
            prompts,
            negative_prompts,
            args.per_device_train_batch_size,
            self.conditions_of,
            images,
            rewritten_prompts,
        )
        self.records_guidance = lora is None or lora.use_peft
        super().__init__(
            generator,
            args,
            train_dataset=_Indices(len(prompts)),
            eval_dataset=self.hold_out(
                generator, args, eval_prompts, eval_negative_prompts, eval_images, eval_rewritten_prompts
            ),
            lora=lora,
            record=record,
            callbacks=callbacks,
            data_collator=_collate_indices,
        )
        self.watch_held_out()

    def _check_gradients(self, args: BackpropConfig) -> None:
        """Raises `InputError` where a reward passes none, or pixels are asked for that nobody judges."""
        if not self.rewards.passes_gradients:
            without = next(
                reward.name
                for reward in self.rewards.rewards
                if not (reward.scores_latents or reward.pixel_gradients)
            )
            raise InputError(
                f"Reward back-propagation needs rewards that judge latents with gradients or pass them to pixels, but "
                f"{without} does neither: train one with `vidalign reward`, name another such as pickscore, or use "
                "`ppo`, which needs no gradient."
            )
        if not self.rewards.needs_pixels and (args.reward_num_frames or args.reward_scale != 1):
            raise InputError(
                "reward_num_frames and reward_scale say what is decoded, but these rewards judge latents: leave them "
                "out."
            )

    def describe_data(self) -> dict[str, str]:
        return {
            "prompts": str(len(self.plan.prompts)),
            **describe_sizes(self.generator, [self.plan.latent_shape]),
            "sampling": f"{self.args.num_inference_steps} steps, guidance {self.plan.guidance}",
            "reward": ", ".join(model.name for model in self.rewards.rewards),
        }

    @property
    def calls_once(self) -> bool:
        return self.args.method == "refl"

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        args, keys = self.args, inputs["keys"].cpu()
        prompts, plan = keys[:, 0], self.plan
        sigmas = plan.sigmas.to(args.device)
        first, last = self._steps_with_gradients()
        seeds = example_seeds(args.seed, self.state.global_step, rows=keys)
        plan.prepare(prompts)
        latents = plan.unknown(seeded_noise(seeds, plan.latent_shape).to(args.device))
        without_gradient = plan.velocity(prompts, self.policy)
        latents = sample_latents(without_gradient, latents, sigmas[: first + 1])

        velocity = plan.velocity(prompts, model)
        divergences = []
        for step in range(first, last):
            sigma = sigmas[step].expand(len(latents))
            predicted = velocity(latents, sigma)
            if args.beta > 0:
                reference = self._reference_velocity(without_gradient, latents, sigma)
                divergences.append(((predicted - reference) ** 2).mean())
            # ReFL jumps to the clean video that this step predicts; DRaFT goes on step by step.
            following = sigmas[step + 1] if args.method == "draft" else torch.zeros_like(sigmas[step])
            latents = flow.euler_step(latents, predicted, sigmas[step], following)
        rewards, watched = self.rewards.reward_through_pixels(
            self.generator,
            plan.whole(latents, prompts),
            plan.text_conditions_of(prompts),
            plan.texts(prompts),
        )
        observed = {"reward": rewards, "latents/std": latents.detach().std(), **watched}
        loss = -rewards.mean()
        if divergences:
            divergence = torch.stack(divergences).mean()
            observed["kl"] = 0.5 * divergence
            loss = loss + args.beta * divergence
        self.observe(observed)
        return (loss, {}) if return_outputs else loss

    def _steps_with_gradients(self) -> tuple[int, int]:
        """First step with gradients, and the one after the last."""
        count = self.args.num_inference_steps
        first = count - self.args.backprop_steps
        if self.args.method == "draft":
            return first, count
        seed = example_seeds(self.args.seed, Stream.LAST_STEP, self.state.global_step)[0]
        random = torch.Generator().manual_seed(seed)
        step = int(torch.randint(first, count, (1,), generator=random))
        return step, step + 1

    @torch.no_grad()
    def _reference_velocity(self, velocity: Velocity, latents: Tensor, sigma: Tensor) -> Tensor:
        with adapters_disabled(self.policy):
            return velocity(latents.detach(), sigma)


class _Indices(Dataset):
    """Numbers of prompts, all of one bucket, so that every batch is full."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def buckets(self) -> list[tuple[int, ...]]:
        return [()] * self.count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def _collate_indices(indices: Sequence[int]) -> dict[str, Tensor]:
    """`keys [batch, 2]`: prompt and its occurrence in the batch, so that repetitions get other noise."""
    return {"keys": torch.tensor([(i, list(indices[:place]).count(i)) for place, i in enumerate(indices)])}
