"""Direct preference optimisation of a flow model on pairs of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.adapters import LoraArguments, adapters_disabled
from alignment.alignment_trainer import AlignmentTrainer
from alignment.dpo_config import DPOConfig
from alignment.latent_dataset import LatentDataset, PromptTable, example_seeds
from alignment.losses import dpo_loss, flow_matching_error
from alignment.sft_trainer import EVALUATION_STEP, draw_sigmas
from generator import flow
from generator.base import VideoGenerator, concatenate
from generator.output import InputError
from generator.sampling import seeded_noise


class DPOTrainer(AlignmentTrainer):
    """Raises the likelihood of chosen over rejected videos, relative to the reference policy.

    The reference is the model without the LoRA layers that are trained here. Both videos of a pair, under
    policy and reference, get the same noise and noise level.

    Args:
        generator: the generator to train.
        args: configuration.
        chosen, rejected: latents `[C, F, H, W]` of the two videos of each pair.
        prompts: one a pair.
        eval_chosen, eval_rejected, eval_prompts: held-out pairs, of other prompts.
        lora, record, callbacks: see `AlignmentTrainer`.
    """

    args: DPOConfig

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
        if lora is not None and not lora.use_peft:
            raise InputError(
                "DPO was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        table = PromptTable.encode(generator, [*prompts, *eval_prompts])
        self.conditions = table.conditions
        pairs, eval_pairs = list(zip(chosen, rejected)), list(zip(eval_chosen, eval_rejected))
        super().__init__(
            generator,
            args,
            train_dataset=LatentDataset(pairs, table.rows[: len(pairs)]),
            eval_dataset=LatentDataset(eval_pairs, table.rows[len(pairs) :]) if eval_pairs else None,
            lora=lora,
            record=record,
            callbacks=callbacks,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        x0 = torch.cat([inputs["latents"][:, 0], inputs["latents"][:, 1]])
        conditions = self.conditions_of(self.conditions, inputs["rows"])
        conditions = concatenate([conditions, conditions])
        noise, sigma = self._noise_of_pairs(inputs)

        x = flow.interpolate(x0, noise, sigma)
        with torch.no_grad(), adapters_disabled(model):
            reference = self.generator.velocity(x, sigma, conditions, self.policy)
        velocity = self.generator.velocity(x, sigma, conditions, model)

        chosen, rejected = flow_matching_error(velocity, x0, noise).chunk(2)
        reference_chosen, reference_rejected = flow_matching_error(reference, x0, noise).chunk(2)
        terms = dpo_loss(
            chosen,
            rejected,
            reference_chosen,
            reference_rejected,
            self.args.beta,
            self.args.loss_type,
            self.args.label_smoothing,
        )
        self.observe(
            {
                "rewards/chosen": terms.chosen_rewards,
                "rewards/rejected": terms.rejected_rewards,
                "rewards/margins": terms.chosen_rewards - terms.rejected_rewards,
                "rewards/accuracies": (terms.chosen_rewards > terms.rejected_rewards).float(),
                "loss/chosen": chosen,
                "loss/rejected": rejected,
                "loss/chosen_reference": reference_chosen,
                "loss/preference": terms.loss,
            }
        )
        loss = terms.loss.mean() + self.args.sft_weight * chosen.mean()
        return (loss, {}) if return_outputs else loss

    def _noise_of_pairs(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Noise `[2 batch, C, F, H, W]` and noise levels `[2 batch]`, equal for both halves."""
        latents = inputs["latents"]
        step = self.state.global_step if torch.is_grad_enabled() else EVALUATION_STEP
        seeds = example_seeds(self.args.seed, step, rows=inputs["keys"])
        noise = seeded_noise(seeds, latents.shape[2:]).to(latents)
        shift = self.generator.defaults.shift if self.args.shift is None else self.args.shift
        sigma = draw_sigmas(seeds, shift, self.args.logit_mean, self.args.logit_std, self.args.uniform_share)
        return torch.cat([noise, noise]), sigma.to(latents).repeat(2)
