"""Supervised fine-tuning: the flow-matching loss on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.data.latent_dataset import LatentDataset, PromptTable
from alignment.data.packed_rows import kept_tokens, packed_rows
from alignment.lora import LoraArguments
from alignment.losses import flow_matching_error
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_config import SFTConfig
from generator import flow
from generator.base import VideoGenerator
from generator.conditions import Conditions
from generator.editing.first_frames import with_first_frame
from generator.one_or_several import as_list
from generator.packing import dropped_share
from generator.sampling import seeded_noise
from generator.seeds import ExampleStream, example_seeds

EVALUATION_STEP = 2**32 - 1


class SFTTrainer(AlignmentTrainer):
    """Trains the generator to make videos like the demonstrations.

    Args:
        generator: the generator to train.
        args: configuration.
        latents: `[C, F, H, W]` of each demonstration.
        prompts: one a demonstration.
        eval_latents, eval_prompts: held-out demonstrations, for `eval_loss` with noise that never changes.
        lora, record, callbacks: see `AlignmentTrainer`.
    """

    args: SFTConfig
    shows_first_frames = True

    def __init__(
        self,
        generator: VideoGenerator,
        args: SFTConfig,
        latents: Sequence[Tensor],
        prompts: Sequence[str],
        eval_latents: Sequence[Tensor] = (),
        eval_prompts: Sequence[str] = (),
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        prompts = as_list(prompts)
        eval_prompts = as_list(eval_prompts)
        table = PromptTable.encode(generator, [*prompts, *eval_prompts])
        self.conditions = table.conditions
        sides = [[latent] for latent in latents]
        eval_sides = [[latent] for latent in eval_latents]
        train_dataset = LatentDataset(sides, table.rows[: len(sides)])
        super().__init__(
            generator,
            args,
            train_dataset=train_dataset,
            eval_dataset=LatentDataset(eval_sides, table.rows[len(sides) :]) if eval_sides else None,
            lora=lora,
            record=record,
            callbacks=callbacks,
            dropout=True,
            rows=packed_rows(generator, args, train_dataset, self.conditions),
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        args = self.args
        step = self.state.global_step if torch.is_grad_enabled() else EVALUATION_STEP
        seeds = example_seeds(args.seed, step, rows=inputs["keys"])
        rows = inputs["rows"].cpu()
        if torch.is_grad_enabled():
            rows = torch.where(draw_dropout(seeds, args.caption_dropout), 0, rows)
        conditions = self.conditions_of(self.conditions, rows)
        levels = NoiseLevels.configured(args, self.generator)
        if isinstance(inputs["latents"], Tensor):
            x0 = inputs["latents"][:, 0]
            errors = demonstration_error(self.generator, model, x0, conditions, seeds, levels)
        else:
            clips = [sides[0] for sides in inputs["latents"]]
            share = dropped_share(self.state.global_step / max(self.state.max_steps, 1), args.token_dropping)
            kept = kept_tokens(self.generator, clips, share, seeds)
            length = None if self.rows is None else self.rows.fixed_length(args.compile_blocks)
            errors = packed_demonstration_error(
                self.generator, model, clips, conditions, seeds, levels, row_length=length, kept=kept
            )
        loss = self.loss_of(errors, inputs["weights"])
        return (loss, {}) if return_outputs else loss


def demonstration_error(
    generator: VideoGenerator,
    model: torch.nn.Module,
    x0: Tensor,
    conditions: Conditions,
    seeds: list[int],
    levels: NoiseLevels | None = None,
) -> Tensor:
    """Flow-matching errors `[batch]` of `x0 [batch, C, F, H, W]`, with noise and noise level of each one's seed.

    Args:
        levels: distribution of the noise levels; where None, `NoiseLevels` with the generator's own shift.
    """
    noise = seeded_noise(seeds, x0.shape[1:]).to(x0)
    levels = levels or NoiseLevels(generator.defaults.shift)
    sigma = levels.draw(seeds).to(x0)
    conditions = with_first_frame(generator, conditions, x0)
    velocity = generator.velocity(flow.interpolate(x0, noise, sigma), sigma, conditions, model)
    return flow_matching_error(velocity, x0, noise)


def packed_demonstration_error(
    generator: VideoGenerator,
    model: torch.nn.Module,
    clips: Sequence[Tensor],
    conditions: Conditions,
    seeds: list[int],
    levels: NoiseLevels,
    row_length: int | None = None,
    kept: Sequence[np.ndarray] | None = None,
) -> Tensor:
    """`demonstration_error` `[clips]` of clips `[C, F, H, W]` of any sizes in one packed row.

    Args:
        row_length, kept: see `generator.packing.PackedVelocity`; what is not kept does not count.
    """
    noise = [seeded_noise([seed], x0.shape)[0].to(x0) for seed, x0 in zip(seeds, clips, strict=True)]
    sigma = levels.draw(seeds).to(clips[0])
    noised = [flow.interpolate(*parts) for parts in zip(clips, noise, sigma, strict=True)]
    packing = generator.packing
    assert packing is not None
    velocity = packing(noised, sigma, conditions, model, row_length, kept)
    errors = []
    for i, (v, x0, e) in enumerate(zip(velocity, clips, noise, strict=True)):
        if kept is None:
            errors.append(flow_matching_error(v[None], x0[None], e[None])[0])
        else:
            chosen = packing.kept_elements(x0, kept[i])
            errors.append(flow_matching_error(v[chosen][None], x0[chosen][None], e[chosen][None])[0])
    return torch.stack(errors)


def draw_dropout(seeds: list[int], share: float) -> Tensor:
    """Captions that are dropped, `[batch]` booleans, each from the example's own seed."""
    streams = [example_seeds(seed, ExampleStream.CAPTION_DROPOUT)[0] for seed in seeds]
    randoms = [torch.Generator().manual_seed(stream) for stream in streams]
    return torch.cat([torch.rand(1, generator=random) < share for random in randoms])
