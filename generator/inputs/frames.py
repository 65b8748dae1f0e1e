"""`FrameVelocity`: the capability of families whose frames may have noise levels of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from generator.inputs.conditions import Conditions
from generator.output import InputError


@dataclass(frozen=True)
class FrameVelocity:
    """Velocities with a noise level for each latent frame; given frames have level 0.

    Attributes:
        predict: the family's computation; takes the arguments of a call, by position.
        name: of the generator, for messages.
        takes_key_frames: also knows other distances between frames, and frames that are images of their own.
    """

    predict: Callable[[Tensor, Tensor, Conditions, float | None, bool, nn.Module | None], Tensor]
    name: str
    takes_key_frames: bool = False

    def __call__(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        seconds_per_frame: float | None = None,
        key_frames: bool = False,
        transformer: nn.Module | None = None,
    ) -> Tensor:
        """Predicted velocity in float32, shaped like `latents`.

        Args:
            latents: `[batch, channels, frames, height, width]`, float32.
            sigma: `[batch, frames]`, float32 noise levels in [0, 1].
            conditions: from `encode_prompts`, one row a video.
            seconds_per_frame: time between latent frames; the family's own by default.
            key_frames: every latent frame is an image of its own.
            transformer: called in place of the generator's own, such as the engine that wraps it.

        Raises:
            InputError: `seconds_per_frame` or `key_frames` is given to a family that knows only its own frame rate.
        """
        if not self.takes_key_frames and (seconds_per_frame is not None or key_frames):
            raise InputError(
                f"{self.name} knows only frames that follow each other at its own frame rate: interpolation and long "
                "videos need the built-in model."
            )
        return self.predict(latents, sigma, conditions, seconds_per_frame, key_frames, transformer)
