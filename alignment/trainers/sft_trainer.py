"""Supervised fine-tuning: the flow-matching loss on demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.data.example_images import ExampleImages
from alignment.data.latent_dataset import LatentDataset, PromptTable
from alignment.data.packed_rows import kept_tokens, packed_rows
from alignment.lora import LoraArguments, adapters_disabled
from alignment.losses import flow_matching_error, velocity_error
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_config import SFTConfig
from generator import flow
from generator.base import VideoGenerator
from generator.editing.first_frames import with_first_frame
from generator.editing.image_cache import ImageSource
from generator.first_frames import conditioned_velocity, without_known_frames
from generator.inputs.conditions import Conditions
from generator.inputs.packing import dropped_share
from generator.one_or_several import as_list
from generator.output import InputError
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
        images, eval_images: image that each demonstration begins with; None where the model is shown none, or, if it
            needs one, the first frame of the latents.
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
        images: Sequence[ImageSource] | None = None,
        eval_images: Sequence[ImageSource] | None = None,
    ) -> None:
        prompts = as_list(prompts)
        eval_prompts = as_list(eval_prompts)
        if args.distill_guidance is not None and lora is not None and not lora.use_peft:
            raise InputError(
                "distill_guidance was set while all weights are trained, but the model that is distilled is the one "
                "without the adapter: set use_peft to true."
            )
        table = PromptTable.encode(generator, [*prompts, *eval_prompts, args.distill_negative_prompt])
        self.conditions = table.conditions
        self.negative_row = table.rows[-1]
        sides = [[latent] for latent in latents]
        eval_sides = [[latent] for latent in eval_latents]
        shown, eval_shown = (
            None if given is None else ExampleImages(generator, [[each] for each in given])
            for given in (images, eval_images)
        )
        train_dataset = LatentDataset(sides, table.rows[: len(sides)], images=shown)
        eval_rows = table.rows[len(sides) : -1]
        super().__init__(
            generator,
            args,
            train_dataset=train_dataset,
            eval_dataset=LatentDataset(eval_sides, eval_rows, images=eval_shown) if eval_sides else None,
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
        teacher = self._teacher(model, rows)
        if isinstance(inputs["latents"], Tensor):
            x0 = inputs["latents"][:, 0]
            images = inputs.get("images")
            errors = demonstration_error(
                self.generator, model, x0, conditions, seeds, levels, teacher, images
            )
        else:
            clips = [sides[0] for sides in inputs["latents"]]
            share = dropped_share(self.state.global_step / max(self.state.max_steps, 1), args.token_dropping)
            kept = kept_tokens(self.generator, clips, share, seeds)
            length = None if self.rows is None else self.rows.fixed_length(args.compile_blocks)
            errors = packed_demonstration_error(
                self.generator, model, clips, conditions, seeds, levels, length, kept, teacher
            )
        loss = self.loss_of(errors, inputs["weights"])
        return (loss, {}) if return_outputs else loss

    def generation_defaults(self) -> dict[str, Any]:
        asked = super().generation_defaults()
        if self.args.distill_guidance is None:
            return asked
        second = {} if self.generator.boundary is None else {"guidance_scale_2": 1.0}
        return {**asked, "guidance_scale": 1.0, **second}

    def _teacher(self, model: torch.nn.Module, rows: Tensor) -> GuidedTeacher | None:
        """The teacher of guidance distillation for examples whose prompts are `rows` of the table."""
        args = self.args
        if args.distill_guidance is None:
            return None
        negatives = self.conditions_of(self.conditions, self.negative_row.expand(len(rows)))
        return GuidedTeacher(model, negatives, args.distill_guidance, args.distill_demonstrations)


@dataclass(frozen=True)
class GuidedTeacher:
    """The model without the trained adapter, under classifier-free guidance.

    What guidance distillation learns to predict in one call: v_u + w (v_c − v_u) of the frozen model (Meng et al. 2023,
    arXiv 2210.03142, section 3.1, with one fixed w); or, with `demonstrations`, u + (w − 1) (v_c − v_u), where the
    demonstrations' own velocity u = ε − x₀ has taken the place of v_c, whose mean it is in the model that would be
    fine-tuned on them (compare model guidance, arXiv 2502.12154).

    Attributes:
        model: the network that is trained, whose adapter is switched off for the teacher.
        negative_conditions: of the unconditional branch, one row an example.
        guidance_scale: w.
        demonstrations: whether the demonstrations' velocity takes the place of v_c.
    """

    model: torch.nn.Module
    negative_conditions: Conditions
    guidance_scale: float
    demonstrations: bool = False

    @torch.no_grad()
    def targets(
        self,
        predict: Callable[[Conditions], Iterable[Tensor]],
        conditions: Conditions,
        shown: Sequence[Tensor],
    ) -> list[Tensor]:
        """Returns the velocity to predict for each example.

        Args:
            predict: the velocities of the examples under some conditions.
            conditions: of their prompts, one row an example.
            shown: the demonstrations' own velocities.
        """
        with adapters_disabled(self.model):
            conditional, unconditional = predict(conditions), predict(self.negative_conditions)
        found = []
        for own, v_c, v_u in zip(shown, conditional, unconditional, strict=True):
            guided = flow.guide(v_c, v_u, self.guidance_scale)
            found.append(guided + own - v_c if self.demonstrations else guided)
        return found


def demonstration_error(
    generator: VideoGenerator,
    model: torch.nn.Module,
    x0: Tensor,
    conditions: Conditions,
    seeds: list[int],
    levels: NoiseLevels | None = None,
    teacher: GuidedTeacher | None = None,
    images: Conditions | None = None,
) -> Tensor:
    """Flow-matching errors `[batch]` of `x0 [batch, C, F, H, W]`, with noise and noise level of each one's seed; means
    over the frames that images do not make known.

    Args:
        levels: distribution of the noise levels; where None, `NoiseLevels` with the generator's own shift.
        teacher: what is to be predicted; where None, the demonstrations' own velocity.
        images: conditions of the images that the videos begin with; where None, a model that needs an image is shown
            the first frame of `x0`.
    """
    shown = with_first_frame(generator, {}, x0) if images is None else images
    noise = seeded_noise(seeds, x0.shape[1:]).to(x0)
    x0, noise = without_known_frames(x0, shown), without_known_frames(noise, shown)
    levels = levels or NoiseLevels(generator.defaults.shift, sigma_max=generator.sigma_max)
    sigma = levels.draw(seeds).to(x0)
    noised = flow.interpolate(x0, noise, sigma)

    def predict(conditions: Conditions) -> Tensor:
        return conditioned_velocity(generator, noised, sigma, {**conditions, **shown}, model)

    velocity = predict(conditions)
    if teacher is None:
        return flow_matching_error(velocity, x0, noise)
    own = flow.velocity_target(x0, noise)
    return velocity_error(velocity, torch.stack(teacher.targets(predict, conditions, own.unbind())))


def packed_demonstration_error(
    generator: VideoGenerator,
    model: torch.nn.Module,
    clips: Sequence[Tensor],
    conditions: Conditions,
    seeds: list[int],
    levels: NoiseLevels,
    row_length: int | None = None,
    kept: Sequence[np.ndarray] | None = None,
    teacher: GuidedTeacher | None = None,
) -> Tensor:
    """`demonstration_error` `[clips]` of clips `[C, F, H, W]` of any sizes in one packed row.

    Args:
        row_length, kept: see `generator.inputs.packing.PackedVelocity`; what is not kept does not count.
    """
    noise = [seeded_noise([seed], x0.shape)[0].to(x0) for seed, x0 in zip(seeds, clips, strict=True)]
    sigma = levels.draw(seeds).to(clips[0])
    noised = [flow.interpolate(*parts) for parts in zip(clips, noise, sigma, strict=True)]
    packing = generator.packing
    assert packing is not None

    def predict(conditions: Conditions) -> list[Tensor]:
        return packing(noised, sigma, conditions, model, row_length, kept)

    velocity = predict(conditions)
    targets = [flow.velocity_target(*pair) for pair in zip(clips, noise, strict=True)]
    if teacher is not None:
        targets = teacher.targets(predict, conditions, targets)
    if kept is not None:
        chosen = [packing.kept_elements(*pair) for pair in zip(clips, kept, strict=True)]
        velocity = [v[which] for v, which in zip(velocity, chosen, strict=True)]
        targets = [target[which] for target, which in zip(targets, chosen, strict=True)]
    return torch.cat(
        [velocity_error(v[None], target[None]) for v, target in zip(velocity, targets, strict=True)]
    )


def draw_dropout(seeds: list[int], share: float) -> Tensor:
    """Captions that are dropped, `[batch]` booleans, each from the example's own seed."""
    streams = [example_seeds(seed, ExampleStream.CAPTION_DROPOUT)[0] for seed in seeds]
    randoms = [torch.Generator().manual_seed(stream) for stream in streams]
    return torch.cat([torch.rand(1, generator=random) < share for random in randoms])
