"""Direct preference optimisation of a flow model on rankings of videos; a pair is a ranking of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignment.adapters import LoraArguments, adapters_disabled
from alignment.alignment_trainer import AlignmentTrainer
from alignment.dpo_config import DPOConfig
from alignment.latent_dataset import BucketBatchSampler, LatentDataset, PromptTable, collate, example_seeds
from alignment.losses import (
    best_and_worst,
    flow_matching_error,
    implicit_rewards,
    preference_loss,
    preference_statistics,
)
from alignment.sft_trainer import EVALUATION_STEP, draw_sigmas
from generator import flow
from generator.base import VideoGenerator, repeat
from generator.first_frames import with_first_frame
from generator.output import InputError
from generator.sampling import seeded_noise

DRAW_STREAM = 11


class RankingDPOTrainer(AlignmentTrainer):
    """Raises the likelihood of better over worse videos of a prompt, relative to the reference policy.

    The reference is the model without the LoRA layers that are trained here. All videos of a ranking, under
    policy and reference, get the same noise and noise level.

    Args:
        generator: the generator to train.
        args: configuration.
        videos: latents `[C, F, H, W]` of the videos of each ranking, from 2 on.
        ranks: one a video; lower is better, equal is a tie.
        prompts: one a ranking.
        eval_videos, eval_ranks, eval_prompts: held-out rankings, of other prompts.
        lora, record, callbacks: see `AlignmentTrainer`.
    """

    args: DPOConfig
    shows_first_frames = True

    def __init__(
        self,
        generator: VideoGenerator,
        args: DPOConfig,
        videos: Sequence[Sequence[Tensor]],
        ranks: Sequence[Sequence[int]],
        prompts: Sequence[str],
        eval_videos: Sequence[Sequence[Tensor]] = (),
        eval_ranks: Sequence[Sequence[int]] = (),
        eval_prompts: Sequence[str] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        if lora is not None and not lora.use_peft:
            raise InputError(
                "DPO was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        table = PromptTable.encode(generator, [*prompts, *eval_prompts])
        self.conditions = table.conditions
        count = len(videos)
        held_out = LatentDataset(eval_videos, table.rows[count:], eval_ranks) if eval_videos else None
        super().__init__(
            generator,
            args,
            train_dataset=LatentDataset(videos, table.rows[:count], ranks),
            eval_dataset=held_out,
            lora=lora,
            record=record,
            callbacks=callbacks,
        )
        self._reference_errors: list[Tensor] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.precompute_ref_log_probs and self._reference_errors is None:
            self._reference_errors = self._precompute()
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        args, ranks = self.args, inputs["ranks"]
        seeds, draws = self._seeds(inputs["keys"])
        x0, x, sigma, noise = self._noised(inputs["latents"], seeds)
        conditions = repeat(self.conditions_of(self.conditions, inputs["rows"]), ranks.shape[1])
        conditions = with_first_frame(self.generator, conditions, x0)
        velocity = self.generator.velocity(x, sigma, conditions, model)
        errors = flow_matching_error(velocity, x0, noise).view(ranks.shape)
        observed = {}
        if draws is None:
            with torch.no_grad(), adapters_disabled(model):
                reference = self.generator.velocity(x, sigma, conditions, self.policy)
            reference_errors = flow_matching_error(reference, x0, noise).view(ranks.shape)
            # The divergence of the two velocities as means of Gaussians of unit variance.
            observed["kl"] = 0.5 * ((velocity.detach() - reference) ** 2).mean()
        else:
            reference_errors = self._looked_up(inputs["keys"], draws).to(errors)
        rewards = implicit_rewards(errors, reference_errors, args.beta)
        loss = preference_loss(
            rewards, ranks, args.loss_type, args.beta, args.label_smoothing, args.tie_theta
        )
        best, worst = best_and_worst(ranks)
        chosen = errors.gather(1, best)
        self.observe(
            {
                **preference_statistics(rewards.detach(), ranks),
                "loss/chosen": chosen,
                "loss/rejected": errors.gather(1, worst),
                "loss/chosen_reference": reference_errors.gather(1, best),
                "loss/preference": loss,
                **observed,
            }
        )
        total = loss.mean() + args.sft_weight * chosen.mean()
        return (total, {}) if return_outputs else total

    # Noise, and the reference's errors where they are known before training

    def _seeds(self, keys: Tensor) -> tuple[list[int], Tensor | None]:
        """A seed for each row, and which of its fixed draws that is, if its reference is precomputed."""
        training = torch.is_grad_enabled()
        step = self.state.global_step if training else EVALUATION_STEP
        seeds = example_seeds(self.args.seed, step, rows=keys)
        if self._reference_errors is None or not training:
            return seeds, None
        draws = torch.tensor(seeds) % self.args.num_noise_draws
        return self._fixed_seeds(keys[:, 0].cpu(), draws), draws

    def _fixed_seeds(self, rows: Tensor, draws: Tensor) -> list[int]:
        return example_seeds(self.args.seed, DRAW_STREAM, rows=torch.stack([rows, draws], dim=1))

    def _looked_up(self, keys: Tensor, draws: Tensor) -> Tensor:
        assert self._reference_errors is not None
        chosen = zip(keys[:, 0].tolist(), draws.tolist())
        return torch.stack([self._reference_errors[row][draw] for row, draw in chosen])

    def _noised(self, latents: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean and noised latents `[batch · K, …]`, noise levels and noise, equal within a ranking."""
        args, size = self.args, latents.shape[1]
        noise = seeded_noise(seeds, latents.shape[2:]).to(latents).repeat_interleave(size, dim=0)
        shift = self.generator.defaults.shift if args.shift is None else args.shift
        sigma = draw_sigmas(seeds, shift, args.logit_mean, args.logit_std, args.uniform_share)
        sigma = sigma.to(latents).repeat_interleave(size)
        x0 = latents.flatten(0, 1)
        return x0, flow.interpolate(x0, noise, sigma), sigma, noise

    @torch.no_grad()
    def _precompute(self) -> list[Tensor]:
        """Errors `[num_noise_draws, K]` of the reference for each training row."""
        dataset, args = self.train_dataset, self.args
        assert isinstance(dataset, LatentDataset)
        found: list[list[Tensor]] = [[] for _ in range(len(dataset))]
        batches = list(BucketBatchSampler(dataset.buckets, args.per_device_train_batch_size, seed=0))
        bar = tqdm(batches, desc="Reference errors", unit="batch", disable=args.disable_tqdm)
        with self.compute_loss_context_manager(), adapters_disabled(self.policy):
            for indices in bar:
                indices = list(dict.fromkeys(indices))
                inputs: Any = self._prepare_inputs(collate([dataset[index] for index in indices]))
                size = inputs["ranks"].shape[1]
                conditions = repeat(self.conditions_of(self.conditions, inputs["rows"]), size)
                for draw in range(args.num_noise_draws):
                    rows = torch.tensor(indices)
                    seeds = self._fixed_seeds(rows, torch.full_like(rows, draw))
                    x0, x, sigma, noise = self._noised(inputs["latents"], seeds)
                    shown = with_first_frame(self.generator, conditions, x0)
                    velocity = self.generator.velocity(x, sigma, shown, self.policy)
                    errors = flow_matching_error(velocity, x0, noise).view(-1, size).cpu()
                    for index, error in zip(indices, errors):
                        if len(found[index]) == draw:
                            found[index].append(error)
        return [torch.stack(errors) for errors in found]


class DPOTrainer(RankingDPOTrainer):
    """`RankingDPOTrainer` on pairs.

    Args:
        generator, args, prompts, eval_prompts, lora, record, callbacks: see `RankingDPOTrainer`.
        chosen, rejected: latents `[C, F, H, W]` of the two videos of each pair.
        eval_chosen, eval_rejected: of held-out pairs, of other prompts.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        args: DPOConfig,
        chosen: Sequence[Tensor],
        rejected: Sequence[Tensor],
        prompts: Sequence[str],
        eval_chosen: Sequence[Tensor] = (),
        eval_rejected: Sequence[Tensor] = (),
        eval_prompts: Sequence[str] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        super().__init__(
            generator,
            args,
            list(zip(chosen, rejected)),
            [(0, 1)] * len(chosen),
            prompts,
            list(zip(eval_chosen, eval_rejected)),
            [(0, 1)] * len(eval_chosen),
            eval_prompts,
            lora,
            record,
            callbacks,
        )
