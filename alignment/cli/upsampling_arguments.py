"""Super-resolution stages behind the videos of `vidalign generate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.one_or_several import as_list
from generator.output import InputError


@dataclass
class UpsamplingArguments:
    """Stages of super-resolution behind the model or behind --video."""

    upsample: list[str] | None = field(
        default=None,
        metadata={
            "help": "Stages in their order, such as temporal spatial spatial: those of nano-cascade, folders of "
            "`vidalign pretrain --stage`, a cascade (nano-cascade or a folder) for all its stages, or for LTX-Video "
            "and LTX-2 the folder or hub id of a latent upsampler."
        },
    )
    upsample_steps: int | None = field(
        default=None, metadata={"help": "Steps of the sampler in each stage. Unset: the stage's own."}
    )
    upsample_guidance: float | None = field(
        default=None,
        metadata={"help": "Weight of guidance in each stage, 1 for none. Unset: the stage's own."},
    )
    upsample_augmentation: float | None = field(
        default=None,
        metadata={
            "help": "Noise level in [0, 1) of each stage's input: more hides faults of the video before. Unset: the "
            "stage's own."
        },
    )

    def __post_init__(self) -> None:
        self.upsample = None if self.upsample is None else as_list(self.upsample)
        given = [self.upsample_steps, self.upsample_guidance, self.upsample_augmentation]
        if not self.upsample and any(value is not None for value in given):
            raise InputError("Settings of stages were given, but no stage: pass --upsample STAGE too.")
        if self.upsample_steps is not None and self.upsample_steps < 1:
            raise InputError(f"--upsample_steps is {self.upsample_steps}, but it must be at least 1.")
        level = self.upsample_augmentation
        if level is not None and not 0 <= level < 1:
            raise InputError(f"--upsample_augmentation is {level}, but it must be at least 0 and below 1.")
