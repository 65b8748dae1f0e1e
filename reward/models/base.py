"""`RewardModel`: what judges videos, and the judges that are not trained: the world's verifier and user
functions."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.one_or_several import as_list
from generator.output import InputError

Scores = dict[str, Tensor]
"""One score a video `[batch]`, float32, for each dimension; higher is better."""


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive batches as one, float32 on the CPU."""
    names = parts[0] if parts else ()
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in names}


def score_with_images(
    reward: RewardModel, videos: Tensor, prompts: Sequence[str], images: Tensor | None = None
) -> Scores:
    """Scores of videos, and where the reward looks at it, with the image that each begins with.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        prompts: one a video.
        images: `[batch, 3, height, width]` in [-1, 1]; None where videos begin with none.
    """
    if images is None or not reward.takes_images:
        return reward.score(videos, prompts)
    scored: Any = reward.score
    return scored(videos, prompts, images=images)


class RewardModel(ABC):
    """Judges videos of prompts.

    Attributes:
        name: what it was loaded from.
        dimensions: the names of its scores, for example `("overall",)`.
        scores_latents: whether `score_latents` works and is differentiable.
        scores_noisy_latents: whether `score_noisy_latents` does.
        pixel_gradients: whether `score_pixels` works.
        takes_images: whether `score` has an argument `images`, the images that the videos begin with.
        sees_frames: whether it looks at single frames, so that it cannot tell a still from a moving video.
        compares_groups: whether the score of a video depends on the others of its prompt, which have to be in the same
            call of `score`.
        frame_rate: frames a second of the videos that are judged next; None where nobody has said.
        scale: usual range of its scores, where that is known.
        settings: what a run records of it beside its name: place, options, hashes of its weights.
    """

    name: str = ""
    dimensions: tuple[str, ...] = ("overall",)
    names_dimensions: bool = False
    """True where `dimensions` is known before the first video is judged."""
    scores_latents: bool = False
    scores_noisy_latents: bool = False
    pixel_gradients: bool = False
    takes_images: bool = False
    sees_frames: bool = False
    compares_groups: bool = False
    frame_rate: float | None = None
    scale: tuple[float, float] | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores of videos `[batch, 3, frames, height, width]` in [-1, 1], one prompt a video."""

    def set_frame_rate(self, fps: float) -> None:
        """Says how many frames a second the videos have that are judged next."""
        self.frame_rate = fps

    def score_pixels(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """As `score`, differentiable in `videos`, whose values may lie outside of [-1, 1]."""
        raise InputError(
            f"The reward {self.name!r} passes no gradients to pixels: use `ppo`, which needs none, or another reward."
        )

    def record(self) -> dict[str, Any]:
        """Facts that say which judge this was, for the record of a run."""
        return {"name": self.name, **self.settings}

    def video_size(self) -> dict[str, float] | None:
        """`{num_frames, height, width, fps}` of the videos that this model wants; None where any will do."""
        return None

    def read_video(self, path: Path) -> Tensor:
        """The video of a file `[3, frames, height, width]`: at `video_size`, or whole (a large one reduced, see
        `generator.bounded_reading`).

        Raises:
            InputError: it is missing or is not a video.
        """
        return self.read_video_and_rate(path)[0]

    def read_video_and_rate(self, path: Path) -> tuple[Tensor, float]:
        """As `read_video`, with the frames a second of what it returns."""
        from generator.bounded_reading import read_within
        from generator.video import read_clip

        size = self.video_size()
        if size is None:
            return read_within(path)
        frames, height, width = (int(size[name]) for name in ("num_frames", "height", "width"))
        return read_clip(path, frames, height, width, size["fps"]), float(size["fps"])

    def score_latents(self, latents: Tensor, conditions: dict[str, Tensor]) -> Scores:
        """Scores of a generator's normalised latents, differentiable in `latents`; see `check_generator`."""
        raise InputError(
            f"The reward {self.name!r} judges decoded videos only: use it where no gradient through it is needed."
        )

    def score_noisy_latents(self, latents: Tensor, sigma: Tensor, conditions: dict[str, Tensor]) -> Scores:
        """Scores of latents that hold the noise `sigma [batch]`, differentiable in `latents`."""
        raise InputError(
            f"The reward {self.name!r} does not judge noisy latents: train one with --noise_conditioned true."
        )

    def uncertainty(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Standard deviation `[batch]` of each score as the model itself sees it; nothing where it has no idea."""
        return {}

    def uncertainty_of_latents(self, latents: Tensor, conditions: dict[str, Tensor]) -> Scores:
        """As `uncertainty`, of a generator's normalised latents."""
        return {}

    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Raises `InputError` where videos of some prompt cannot be judged; called before they are made."""

    def reads_latents_of(self, generator: VideoGenerator) -> bool:
        """Returns whether the latents and conditions of `generator` are ones that this model understands; True where it
        judges decoded videos."""
        return True

    def check_generator(self, generator: VideoGenerator) -> None:  # noqa: B027
        """Raises `InputError` unless the latents and conditions of `generator` are ones this model
        understands."""


class WorldReward(RewardModel):
    """The gold score: `generator.world.verify`, which reads the pixels. For studies of the built-in world."""

    name = "world"
    names_dimensions = True

    def check_prompts(self, prompts: Sequence[str]) -> None:
        from generator.world import check_prompts

        check_prompts(prompts)

    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        prompts = as_list(prompts)
        from generator.world import verify_batch

        return {
            "overall": torch.tensor(
                [adherence.score for adherence in verify_batch(videos, list(prompts))], dtype=torch.float32
            )
        }


UserFunction = Callable[
    [Tensor, Sequence[str]], "Sequence[float] | Tensor | Mapping[str, Sequence[float] | Tensor]"
]


class FunctionReward(RewardModel):
    """A user's function `(videos, prompts) -> scores [batch]` or `{dimension: scores [batch]}`.

    One with a parameter `fps` is told the frames a second, None where they are not known; one with a parameter `images`
    is given the images that the videos begin with `[batch, 3, height, width]` in [-1, 1], None where there are none.
    """

    def __init__(self, function: UserFunction, name: str) -> None:
        self.function = function
        self.name = name
        self.wants_fps = _has_parameter(function, "fps")
        self.takes_images = _has_parameter(function, "images")

    def score(self, videos: Tensor, prompts: Sequence[str], images: Tensor | None = None) -> Scores:
        prompts = as_list(prompts)
        told: dict[str, Any] = {"fps": self.frame_rate} if self.wants_fps else {}
        if self.takes_images:
            told["images"] = images
        result = self.function(videos, prompts, **told)
        named = result if isinstance(result, Mapping) else {"overall": result}
        try:
            scores = {
                dimension: torch.as_tensor(values, dtype=torch.float32).detach().cpu()
                for dimension, values in named.items()
            }
        except (TypeError, ValueError, RuntimeError):
            scores = {}
        if not scores:
            raise InputError(
                f"The reward function {self.name} returned {str(result)[:100]!r}: it must return one number a video, "
                "or {dimension: one number a video}."
            )
        for dimension, values in scores.items():
            if values.shape != (len(prompts),):
                raise InputError(
                    f"The reward function {self.name} gave {dimension!r} scores of shape {tuple(values.shape)} for "
                    f"{len(prompts)} videos: it must return one number a video."
                )
        return scores


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
