"""Reward back-propagation: ReFL (Xu et al. 2023, arXiv 2304.05977), DRaFT-K (Clark et al. 2023, arXiv 2309.17400),
VADER for videos (Prabhudesai et al. 2024, arXiv 2407.08737)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignment.data.latent_dataset import PromptTable
from alignment.lora import LoraArguments, adapters_disabled
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.table import describe_sizes
from generator import flow
from generator.base import VideoGenerator
from generator.conditions import Conditions
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import guided_velocity, one_text_each, sample_latents, seeded_noise, video_size
from generator.seeds import Stream, example_seeds

if TYPE_CHECKING:
    from reward.models.base import RewardModel


class BackpropTrainer(AlignmentTrainer):
    """Raises a differentiable reward of sampled latents by its gradient.

    It learns fast and games the reward fast: use `beta`, few steps, and look at `videos/…` of a PPO run.

    Args:
        generator: the generator to train.
        args: configuration.
        prompts: one video of each is sampled in an epoch.
        reward: one or several models that judge latents with gradients.
        negative_prompts: one a prompt, for guidance.
        lora, record, callbacks: see `AlignmentTrainer`.

    Raises:
        InputError: a reward needs pixels, or a KL term is asked for without LoRA.
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
    ) -> None:
        prompts = as_list(prompts)
        if lora is not None and not lora.use_peft and args.beta > 0:
            raise InputError(
                "beta is above 0, but its reference needs LoRA: set use_peft to true or beta to 0."
            )
        self.rewards = RewardMixture(
            reward if isinstance(reward, Sequence) else [reward], args.reward_weights, args.reward_dimension
        )
        if not self.rewards.differentiable:
            raise InputError(
                "Reward back-propagation needs rewards that judge latents with gradients: train one with "
                "`vidalign reward`, or use `ppo`, which needs no gradient."
            )
        self.rewards.check_generator(generator)
        self.rewards.check_prompts(prompts)
        defaults = generator.defaults
        size = video_size(generator, args.num_frames, args.height, args.width)
        self.latent_shape = generator.latent_shape(*size)
        self.guidance_scale = defaults.guidance_scale if args.guidance_scale is None else args.guidance_scale
        self.sigmas = generator.sigma_schedule(args.num_inference_steps, self.latent_shape)
        negatives = one_text_each(negative_prompts or args.negative_prompt, len(prompts))
        table = PromptTable.encode(generator, [*prompts, *negatives])
        self.conditions = table.conditions
        self.prompt_rows, self.negative_rows = table.rows.split(len(prompts))
        super().__init__(
            generator,
            args,
            train_dataset=_Indices(len(prompts)),
            lora=lora,
            record=record,
            callbacks=callbacks,
            data_collator=_collate_indices,
        )

    def describe_data(self) -> dict[str, str]:
        return {
            "prompts": str(len(self.prompt_rows)),
            **describe_sizes(self.generator, [self.latent_shape]),
            "sampling": f"{self.args.num_inference_steps} steps, guidance {self.guidance_scale:g}",
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
        conditions, negative = self._conditions(keys[:, 0])
        sigmas = self.sigmas.to(args.device)
        first, last = self._steps_with_gradients()
        seeds = example_seeds(args.seed, self.state.global_step, rows=keys)
        latents = seeded_noise(seeds, self.latent_shape).to(args.device)
        latents = sample_latents(
            self._velocity(self.policy, conditions, negative), latents, sigmas[: first + 1]
        )

        velocity = self._velocity(model, conditions, negative)
        divergences = []
        for step in range(first, last):
            sigma = sigmas[step].expand(len(latents))
            predicted = velocity(latents, sigma)
            if args.beta > 0:
                divergences.append(self._divergence(latents, sigma, predicted, conditions, negative))
            # ReFL jumps to the clean video that this step predicts; DRaFT goes on step by step.
            following = sigmas[step + 1] if args.method == "draft" else torch.zeros_like(sigmas[step])
            latents = flow.euler_step(latents, predicted, sigmas[step], following)
        rewards = self.rewards.differentiable_reward(latents, conditions)
        observed = {"reward": rewards, "latents/std": latents.detach().std()}
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

    def _conditions(self, prompts: Tensor) -> tuple[Conditions, Conditions | None]:
        conditions = self.conditions_of(self.conditions, self.prompt_rows[prompts])
        if self.guidance_scale == 1:
            return conditions, None
        return conditions, self.conditions_of(self.conditions, self.negative_rows[prompts])

    def _velocity(self, model: torch.nn.Module, conditions: Conditions, negative: Conditions | None) -> Any:
        return guided_velocity(self.generator, conditions, negative, self.guidance_scale, model)

    def _divergence(
        self,
        latents: Tensor,
        sigma: Tensor,
        predicted: Tensor,
        conditions: Conditions,
        negative: Conditions | None,
    ) -> Tensor:
        with torch.no_grad(), adapters_disabled(self.policy):
            reference = self._velocity(self.policy, conditions, negative)(latents.detach(), sigma)
        return ((predicted - reference) ** 2).mean()


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
