"""Direct preference optimisation of a flow model on rankings of videos; a pair is a ranking of two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignment.data.example_images import ExampleImages
from alignment.data.example_weights import counted
from alignment.data.latent_dataset import BucketBatchSampler, LatentDataset, PromptTable, collate
from alignment.data.packed_rows import packed_rows
from alignment.lora import LoraArguments, adapters_disabled
from alignment.losses import (
    best_and_worst,
    flow_matching_error,
    implicit_rewards,
    preference_loss,
    preference_statistics,
)
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.guidance import unguided_warning
from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_trainer import EVALUATION_STEP
from generator import flow
from generator.base import VideoGenerator
from generator.editing.first_frames import with_first_frame
from generator.editing.image_cache import ImageSource
from generator.first_frames import conditioned_velocity, without_known_frames
from generator.guidance import guidance_scales
from generator.inputs.conditions import Conditions
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import seeded_noise
from generator.seeds import Stream, example_seeds

logger = logging.getLogger(__name__)


@dataclass
class NoisedRankings:
    """All videos of some rankings, noised: tensors `[videos, C, F, H, W]`, or lists where sizes differ.

    Attributes:
        x0, x, noise: clean, at the noise level `sigma`, and the noise.
        sigma: `[videos]`.
        conditions: of the prompts, one row a video.
    """

    x0: Tensor | list[Tensor]
    x: Tensor | list[Tensor]
    sigma: Tensor
    noise: Tensor | list[Tensor]
    conditions: Conditions

    def errors(self, velocity: Tensor | list[Tensor]) -> Tensor:
        """Flow-matching error `[videos]` of the predicted velocities."""
        if isinstance(velocity, Tensor) and isinstance(self.x0, Tensor) and isinstance(self.noise, Tensor):
            return flow_matching_error(velocity, self.x0, self.noise)
        triples = zip(velocity, self.x0, self.noise, strict=True)
        return torch.stack([flow_matching_error(v[None], x0[None], e[None])[0] for v, x0, e in triples])

    @staticmethod
    def by_ranking(errors: Tensor, ranks: Tensor) -> Tensor:
        """Errors `[videos]` as `[batch, K]`, with 0 where `ranks` `[batch, K]` are missing."""
        if errors.numel() == ranks.numel():
            return errors.view(ranks.shape)
        return torch.zeros(ranks.shape, device=errors.device, dtype=errors.dtype).masked_scatter(
            ranks >= 0, errors
        )


class DPOTrainer(AlignmentTrainer):
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
        images, eval_images: the image that each video of a ranking begins with; None where the model is shown none,
            or, if it needs one, the first frame of the latents.
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
        images: Sequence[Sequence[ImageSource]] | None = None,
        eval_images: Sequence[Sequence[ImageSource]] | None = None,
    ) -> None:
        prompts = as_list(prompts)
        eval_prompts = as_list(eval_prompts)
        if lora is not None and not lora.use_peft:
            raise InputError(
                "DPO was asked to train all weights, but its reference needs LoRA: set use_peft to true."
            )
        table = PromptTable.encode(generator, [*prompts, *eval_prompts])
        self.conditions = table.conditions
        count = len(videos)
        shown, eval_shown = (
            None if given is None else ExampleImages(generator, given) for given in (images, eval_images)
        )
        train_dataset = LatentDataset(videos, table.rows[:count], ranks, shown)
        held_out = (
            LatentDataset(eval_videos, table.rows[count:], eval_ranks, eval_shown) if eval_videos else None
        )
        super().__init__(
            generator,
            args,
            train_dataset=train_dataset,
            eval_dataset=held_out,
            lora=lora,
            record=record,
            callbacks=callbacks,
            rows=packed_rows(generator, args, train_dataset, self.conditions),
        )
        warning = unguided_warning("DPO", generator.name, guidance_scales(generator))
        if warning is not None and args.process_index == 0:
            logger.warning(warning)
        self.prompts = prompts
        self._reference_errors: list[Tensor] | None = None

    @classmethod
    def from_pairs(
        cls,
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
    ) -> Self:
        """Trainer of pairs, each a ranking of two videos.

        Args:
            generator, args, prompts, eval_prompts, lora, record, callbacks: see `DPOTrainer`.
            chosen, rejected: latents `[C, F, H, W]` of the two videos of each pair.
            eval_chosen, eval_rejected: of held-out pairs, of other prompts.
        """
        return cls(
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
        noised = self._noised(inputs["latents"], inputs["rows"], seeds, inputs.get("images"))
        velocity = self._velocity(noised, model)
        errors = noised.by_ranking(noised.errors(velocity), ranks)
        observed = {}
        if draws is None:
            with torch.no_grad(), adapters_disabled(model):
                reference = self._velocity(noised, self.policy)
            reference_errors = noised.by_ranking(noised.errors(reference), ranks)
            # The divergence of the two velocities as means of Gaussians of unit variance.
            differences = [(v.detach() - r) ** 2 for v, r in zip(velocity, reference, strict=True)]
            observed["kl"] = 0.5 * torch.cat([difference.flatten() for difference in differences]).mean()
        else:
            reference_errors = self._looked_up(inputs["keys"], draws).to(errors)
        rewards = implicit_rewards(errors, reference_errors, args.beta)
        loss = preference_loss(
            rewards, ranks, args.loss_type, args.beta, args.label_smoothing, args.tie_theta
        )
        best, worst = best_and_worst(ranks)
        chosen = errors.gather(1, best)
        rows = counted(inputs["weights"])
        if len(rows):
            self.observe(
                {
                    **preference_statistics(rewards.detach()[rows], ranks[rows]),
                    "loss/chosen": chosen[rows],
                    "loss/rejected": errors.gather(1, worst)[rows],
                    "loss/chosen_reference": reference_errors.gather(1, best)[rows],
                    "loss/preference": loss[rows],
                    **observed,
                }
            )
        total = self.loss_of(loss + args.sft_weight * chosen[:, 0], inputs["weights"])
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
        return example_seeds(self.args.seed, Stream.FIXED_DRAWS, rows=torch.stack([rows, draws], dim=1))

    def _looked_up(self, keys: Tensor, draws: Tensor) -> Tensor:
        assert self._reference_errors is not None
        chosen = zip(keys[:, 0].tolist(), draws.tolist())
        errors = [self._reference_errors[row][draw] for row, draw in chosen]
        return torch.nn.utils.rnn.pad_sequence(
            errors, batch_first=True
        )  # where packed rankings differ in size

    def _noised(
        self,
        latents: Tensor | Sequence[Tensor],
        rows: Tensor,
        seeds: list[int],
        images: Conditions | None = None,
    ) -> NoisedRankings:
        """Videos of rankings `[batch, K, C, F, H, W]`, or a list of `[K, C, F, H, W]`, noised equally within each.

        Args:
            images: conditions of the images that they begin with, one row a video.
        """
        sigma = NoiseLevels.configured(self.args, self.generator).draw(seeds)
        sizes = torch.tensor([len(sides) for sides in latents])
        conditions = self.conditions_of(self.conditions, rows.cpu().repeat_interleave(sizes))
        sigma = sigma.to(latents[0]).repeat_interleave(sizes.to(latents[0].device))
        if isinstance(latents, Tensor):
            noise = (
                seeded_noise(seeds, latents.shape[2:]).to(latents).repeat_interleave(latents.shape[1], dim=0)
            )
            x0 = latents.flatten(0, 1)
            shown = with_first_frame(self.generator, {}, x0) if images is None else images
            x0, noise = without_known_frames(x0, shown), without_known_frames(noise, shown)
            conditions = {**conditions, **shown}
            return NoisedRankings(x0, flow.interpolate(x0, noise, sigma), sigma, noise, conditions)
        own = [
            seeded_noise([s], sides.shape[1:])[0].to(sides) for s, sides in zip(seeds, latents, strict=True)
        ]
        noises = [noise for noise, sides in zip(own, latents, strict=True) for _ in sides]
        clean = [x for sides in latents for x in sides]
        noisy = [flow.interpolate(*parts) for parts in zip(clean, noises, sigma, strict=True)]
        return NoisedRankings(clean, noisy, sigma, noises, conditions)

    def _velocity(self, noised: NoisedRankings, model: torch.nn.Module) -> Tensor | list[Tensor]:
        if isinstance(noised.x, Tensor):
            return conditioned_velocity(self.generator, noised.x, noised.sigma, noised.conditions, model)
        length = None if self.rows is None else self.rows.fixed_length(self.args.compile_blocks)
        packing = self.generator.packing
        assert packing is not None
        return packing(noised.x, noised.sigma, noised.conditions, model, length)

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
                for draw in range(args.num_noise_draws):
                    rows = torch.tensor(indices)
                    seeds = self._fixed_seeds(rows, torch.full_like(rows, draw))
                    noised = self._noised(inputs["latents"], inputs["rows"], seeds, inputs.get("images"))
                    errors = noised.errors(self._velocity(noised, self.policy)).view(-1, size).cpu()
                    for index, error in zip(indices, errors):
                        if len(found[index]) == draw:
                            found[index].append(error)
        return [torch.stack(errors) for errors in found]
