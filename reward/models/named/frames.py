"""Rewards that judge single frames: which frames of a video, how they are resized, and how their scores become one."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from generator.one_or_several import as_list
from generator.output import InputError
from reward.models.base import RewardModel, Scores
from reward.models.named.entry import RewardRequest

logger = logging.getLogger(__name__)

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

FRAMES_WITH_GRADIENTS = 4
"""Most frames whose activations are held at a time where gradients pass; 0.4 GB each with CLIP-H in float32."""


def chosen_frames(count: int, choice: int | str) -> list[int]:
    """Indices of the frames to look at: `choice` of `count`, evenly from the first to the last and rounded half to
    even; `all`, `first` or `middle`."""
    if choice == "first":
        return [0]
    if choice == "middle":
        return [count // 2]
    if choice == "all" or int(choice) >= count:
        return list(range(count))
    if choice == 1:
        return [0]
    return [round(index * (count - 1) / (int(choice) - 1)) for index in range(int(choice))]


def reduce_frames(scores: Tensor, how: str) -> Tensor:
    """Scores `[batch, frames]` to one a video: `mean`, `min`, `max`, `first`, or `topNN`, the mean of the best NN % of
    the frames, at least one."""
    if how == "mean":
        return scores.mean(1)
    if how == "min":
        return scores.amin(1)
    if how == "max":
        return scores.amax(1)
    if how == "first":
        return scores[:, 0]
    share = int(how.removeprefix("top")) / 100
    best = max(1, math.floor(share * scores.shape[1] + 1e-9))
    return scores.topk(best, dim=1).values.mean(1)


def clamped(values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Values within the bounds; gradients pass as if nothing had been clamped, so that none is lost at the bounds."""
    within = values.clamp(low, high)
    if not (torch.is_grad_enabled() and values.requires_grad):
        return within
    return values + (within - values).detach()


def unit_range(frames: Tensor) -> Tensor:
    """Frames in [-1, 1] to [0, 1], float32."""
    return clamped((frames.float() + 1) / 2)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    if tuple(pixels.shape[2:]) == (height, width):
        return pixels
    return functional.interpolate(
        pixels, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


def crop_to_side(frames: Tensor, side: int, rounded: bool = False) -> Tensor:
    """Frames `[n, 3, height, width]` in [-1, 1] to pixels in [0, 1] `[n, 3, side, side]`: the shorter side resized
    (bicubic), the centre cut out.

    Args:
        rounded: an odd margin is halved by rounding to even, as torchvision does, and not down, as transformers does.
    """
    height, width = frames.shape[2:]
    shorter = min(height, width)
    size = [side if length == shorter else int(side * length / shorter) for length in (height, width)]
    resized = clamped(_resize(unit_range(frames), *size))
    top, left = ((round((length - side) / 2) if rounded else (length - side) // 2) for length in size)
    return resized[..., top : top + side, left : left + side]


def pad_to_side(frames: Tensor, side: int) -> Tensor:
    """As `crop_to_side`, but the longer side is resized and black is added around it, the smaller half of an odd margin
    above and to the left; overshoot of the resizing is kept, as HPSv2 keeps it."""
    height, width = frames.shape[2:]
    scale = side / max(height, width)
    size = [round(scale * length) for length in (height, width)]
    resized = _resize(unit_range(frames), *size)
    across, down = side - size[1], side - size[0]
    return functional.pad(resized, (across // 2, across - across // 2, down // 2, down - down // 2))


def squeeze_to_side(frames: Tensor, side: int) -> Tensor:
    """As `crop_to_side`, but the whole frame is resized to a square, whatever its aspect ratio."""
    return clamped(_resize(unit_range(frames), side, side))


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in [0, 1] minus the mean and divided by the deviation of each channel."""
    centre, width = (pixels.new_tensor(values)[:, None, None] for values in (mean, std))
    return (pixels - centre) / width


class FrameReward(RewardModel):
    """Judges some frames of each video and reduces their scores.

    A subclass has `frame_scores`; it works on one chunk of frames, on `device`, outside of autocast.

    Args:
        request: its options `frames`, `reduce`, `batch_size` and `scale` take the place of the defaults.
        device: where frames are judged.
        frames: see `chosen_frames`.
        reduce: see `reduce_frames`.
        batch_size: frames judged at a time.
    """

    names_dimensions = True
    pixel_gradients = True
    sees_frames = True

    def __init__(
        self,
        request: RewardRequest,
        device: torch.device,
        frames: int | str = 8,
        reduce: str = "mean",
        batch_size: int = 32,
    ) -> None:
        options = request.options
        self.name = request.name
        self.device = device
        self.frames = options.get("frames", frames)
        self.reduce = options.get("reduce", reduce)
        self.batch_size = options.get("batch_size", batch_size)
        self.factor = float(options.get("scale", 1.0))

    @abstractmethod
    def frame_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `[n]` of frames `[n, 3, height, width]` in [-1, 1], one prompt a frame."""

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Reduced scores of the chosen frames `[batch]`, float32 on the CPU."""
        return {name: value.cpu() for name, value in self._judge(videos, as_list(prompts), False).items()}

    def score_pixels(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """As `score`, with gradients; each chunk is computed again in the backward pass."""
        return self._judge(videos, as_list(prompts), True)

    def _judge(self, videos: Tensor, prompts: Sequence[str], gradients: bool) -> Scores:
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        indices = chosen_frames(videos.shape[2], self.frames)
        frames = videos[:, :, indices].transpose(1, 2).flatten(0, 1)
        texts = [prompt for prompt in prompts for _ in indices]
        size = min(self.batch_size, FRAMES_WITH_GRADIENTS) if gradients else self.batch_size
        parts = []
        for start in range(0, len(frames), size):
            chunk = frames[start : start + size].to(self.device)
            words = texts[start : start + size]
            parts.append(
                checkpoint(self._exact_scores, chunk, words, use_reentrant=False)
                if gradients
                else self._exact_scores(chunk, words)
            )
        scores = torch.cat(parts) if parts else videos.new_zeros(0)
        return {"overall": self.factor * reduce_frames(scores.unflatten(0, (-1, len(indices))), self.reduce)}

    def _exact_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        # A trainer's autocast is in force where rollouts are judged; scores are to be those of upstream.
        with torch.autocast(self.device.type, enabled=False):
            return self.frame_scores(frames, prompts).float()


def torch_dtype(request: RewardRequest) -> torch.dtype:
    """The data type of weights that the request names; float32 where it names none."""
    return getattr(torch, request.options.get("dtype", "float32"))


def torch_device(request: RewardRequest) -> torch.device:
    """The device of the request; a GPU where it names none and there is one."""
    return torch.device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def warn_of_cut_prompts(name: str, lengths: Sequence[int], limit: int) -> None:
    """Says which share of the prompts, of so many tokens each, is longer than what a text encoder reads."""
    cut = sum(length > limit for length in lengths)
    if cut:
        logger.warning(
            f"{name} reads {limit} tokens of a prompt: {cut} of {len(lengths)} prompts are longer, and their ends are "
            "not judged."
        )
