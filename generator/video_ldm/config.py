"""Arguments of `vidalign pretrain --temporal_from` and of long videos in `vidalign generate`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from generator.output import InputError

TASKS = ("generation", "prediction", "interpolation")
"""Aims of temporal layers: whole clips; clips that begin with context frames; three frames in each gap
between key frames."""


@dataclass
class VideoLDMConfig:
    """Temporal layers for an image model (Video LDM); --transformer_seconds and the other settings are theirs then."""

    temporal_from: str | None = field(
        default=None,
        metadata={
            "help": "Pipeline whose spatial layers stay as they are: an image model, into which temporal layers are "
            "inserted, or a video model made so, whose temporal layers are trained on."
        },
    )
    temporal_task: str = field(
        default="generation",
        metadata={
            "help": "Aim of the temporal layers: whole clips; prediction from the first frames; interpolation, three "
            "frames between two key frames.",
            "choices": list(TASKS),
        },
    )
    context_dropout: float = field(
        default=0.1,
        metadata={
            "help": "Share of clips whose context frames are hidden, for guidance on the context "
            "(prediction and interpolation)."
        },
    )
    decoder_noise: float = field(
        default=0.1,
        metadata={
            "help": "Standard deviation of the noise on normalised latents, drawn for every frame, from which the "
            "decoder's temporal layers learn not to flicker."
        },
    )

    def __post_init__(self) -> None:
        if self.temporal_task not in TASKS:
            raise InputError(
                f"temporal_task is {self.temporal_task!r}, but must be one of {', '.join(TASKS)}."
            )
        for name in ("context_dropout", "decoder_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 0 and below 1.")
        if self.temporal_from is None and (changed := changed_fields(self)):
            raise InputError(
                f"--{changed[0]} was given, but only temporal layers take it: pass --temporal_from IMAGE_MODEL."
            )


@dataclass
class StackArguments:
    """Long videos by Video LDM's stack: key frames of --model, two interpolations, decoding."""

    interpolation_model: str | None = field(
        default=None,
        metadata={
            "help": "Model that `pretrain --temporal_task interpolation` wrote: --num_frames 16k + 1 are made, by key "
            "frames of --model, three frames in each gap, and three in each gap of those."
        },
    )
    prediction_model: str | None = field(
        default=None,
        metadata={
            "help": "Model that `pretrain --temporal_task prediction` wrote, for key frames beyond the first nine. "
            "Unset: --model."
        },
    )
    key_frame_fps: float = field(
        default=2.0,
        metadata={"help": "Key frames a second; the video has sixteen times as many frames."},
    )
    context_guidance: float = field(
        default=1.0,
        metadata={
            "help": "Weight of guidance by context frames, in prediction and interpolation; 1 for none."
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.key_frame_fps < float("inf"):
            raise InputError(f"key_frame_fps is {self.key_frame_fps}, but must be above 0.")
        if self.interpolation_model is None and (changed := changed_fields(self)):
            raise InputError(
                f"--{changed[0]} was given, but only long videos of Video LDM take it: pass --interpolation_model "
                "FOLDER."
            )

    def check_combination(self, task: str | None, reward: str | None, solver: str) -> None:
        """Raises `InputError` where long videos go together with what they cannot.

        Args:
            task: images or videos as prompts, by the name of the argument.
            reward: by which videos are chosen or guided.
            solver: of the ODE.
        """
        other = task or ("reward" if reward else None) or ("solver" if solver != "euler" else None)
        if self.interpolation_model and other:
            raise InputError(
                f"--interpolation_model and --{other} were both given, but key frames are made from prompts by Euler "
                "steps: leave one of them out."
            )

    def changed(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        return {name: getattr(self, name) for name in changed_fields(self)}

    def models(self) -> list[str]:
        """Folders of the models beside the one of key frames."""
        return [name for name in (self.interpolation_model, self.prediction_model) if name]


def changed_fields(arguments: Any) -> list[str]:
    """Names of the fields of a dataclass that differ from their defaults."""
    return [each.name for each in fields(arguments) if getattr(arguments, each.name) != each.default]
