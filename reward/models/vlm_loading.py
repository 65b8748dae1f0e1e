"""Vision-language models of transformers: loading, videos and texts to inputs, hidden states, yes-or-no questions.

Qwen2-VL, Qwen2.5-VL and Qwen3-VL get whole videos, prepared here (their own video processors need torchvision and
choose the size and frames by themselves); every other image-text-to-text model gets the frames as a series of images
through its own processor. Frame rate and pixel budget are always said explicitly: scores depend on them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from generator.one_or_several import as_list
from generator.output import InputError
from generator.video_files.timing import frame_indices, frames_in_clip

QWEN_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
_YES, _NO = ("Yes", "yes", " Yes", " yes"), ("No", "no", " No", " no")


@dataclass(frozen=True)
class VideoBudget:
    """Limits on the part of a video that the model sees.

    Attributes:
        frame_rate: frames a second that are taken from the video.
        max_frames: at most so many; a longer video is then sampled evenly.
        max_frame_pixels, min_frame_pixels: largest and smallest area of a frame; it is resized into them.
    """

    frame_rate: float = 2.0
    max_frames: int = 32
    max_frame_pixels: int = 448 * 448
    min_frame_pixels: int = 56 * 56

    def __post_init__(self) -> None:
        if self.frame_rate <= 0 or self.max_frames < 1:
            raise InputError(
                f"A frame rate of {self.frame_rate} and {self.max_frames} frames show nothing: give more than 0."
            )
        if not 0 < self.min_frame_pixels <= self.max_frame_pixels:
            raise InputError(
                f"The pixel budget {self.min_frame_pixels} to {self.max_frame_pixels} is empty: the smallest area must "
                "not exceed the largest."
            )

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def sample_frames(video: Tensor, fps: float, budget: VideoBudget, multiple: int = 1) -> Tensor:
    """Frames `[frames, 3, height, width]` of a video at the budget's rate.

    Args:
        video: `[3, frames, height, width]` in [-1, 1].
        fps: its frames a second.
        multiple: the number of frames is brought to a multiple of it; the last frame is repeated where needed.
    """
    if fps <= 0:
        raise InputError(f"A video of {fps} frames a second was given: say its real frame rate.")
    count = frames_in_clip(video.shape[1], fps, budget.frame_rate)
    evenly = count > budget.max_frames
    count = min(count, budget.max_frames)
    count = max(multiple, math.ceil(count / multiple) * multiple)
    indices = frame_indices(video.shape[1], fps, count, None if evenly else budget.frame_rate)
    return video[:, indices].transpose(0, 1)


def fit_size(height: int, width: int, factor: int, budget: VideoBudget) -> tuple[int, int]:
    """Multiples of `factor` nearest to a size, scaled into the pixel budget, the aspect ratio kept (`smart_resize` of
    Qwen2-VL)."""
    if max(height, width) > 200 * min(height, width):
        raise InputError(
            f"Frames of {height}x{width} are too long: the longer side may be 200 times the shorter."
        )
    rounded = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if rounded[0] * rounded[1] > budget.max_frame_pixels:
        scale = math.sqrt(height * width / budget.max_frame_pixels)
        rounded = [max(factor, math.floor(side / scale / factor) * factor) for side in (height, width)]
    elif rounded[0] * rounded[1] < budget.min_frame_pixels:
        scale = math.sqrt(budget.min_frame_pixels / (height * width))
        rounded = [math.ceil(side * scale / factor) * factor for side in (height, width)]
    return rounded[0], rounded[1]


def resize_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """`[frames, 3, …]` in [-1, 1] to pixels in [0, 1] of another size (bicubic, antialiased)."""
    pixels = (frames.float() + 1) / 2
    if tuple(frames.shape[2:]) == (height, width):
        return pixels
    size = (height, width)
    return functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 1
    )


class Preparation(ABC):
    """Makes a model's inputs of videos and texts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.padding_side = "right"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @abstractmethod
    def __call__(
        self, videos: Sequence[Tensor], fps: Sequence[float], texts: Sequence[str], budget: VideoBudget
    ) -> dict[str, Tensor]:
        """Inputs for one user message a video, each followed by its text, and the start of the answer.

        Args:
            videos: each `[3, frames, height, width]` in [-1, 1].
            fps: their frames a second.
        """


class QwenPreparation(Preparation):
    """Patches, grids and placeholder tokens of the Qwen-VL family.

    Args:
        tokenizer: with the family's vision tokens.
        config: of the model.
        mean, std: of its normalised pixels.
    """

    def __init__(self, tokenizer: Any, config: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(tokenizer)
        vision = config.vision_config
        self.patch = int(vision.patch_size)
        self.merge = int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.family = config.model_type
        self.video_token_id = int(config.video_token_id)
        names = (config.vision_start_token_id, config.video_token_id, config.vision_end_token_id)
        self.start, self.pad, self.end = tokenizer.convert_ids_to_tokens(list(names))

    def patches(self, frames: Tensor, budget: VideoBudget) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches `[tokens, 3 · frames · patch²]` of sampled frames, merged neighbours together, and their grid."""
        height, width = fit_size(frames.shape[2], frames.shape[3], self.patch * self.merge, budget)
        return self.cut(resize_frames(frames, height, width))

    def cut(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """As `patches`, of frames `[frames, 3, height, width]` in [0, 1] that have their size."""
        count, _, height, width = pixels.shape
        grid = (count // self.frames, height // self.patch, width // self.patch)
        flat = rearrange(
            (pixels - self.mean.to(pixels.device)) / self.std.to(pixels.device),
            "(t p) c (h m a) (w n b) -> (t h w m n) (c p a b)",
            p=self.frames,
            m=self.merge,
            n=self.merge,
            a=self.patch,
            b=self.patch,
        )
        return flat, grid

    def placeholder(self, grid: tuple[int, int, int], frame_rate: float) -> str:
        """The text that stands for a video: one token a merged patch; Qwen3-VL says the time before each step."""
        steps, tokens = grid[0], grid[1] * grid[2] // self.merge**2
        if not self.family.startswith("qwen3"):
            return self.start + self.pad * (steps * tokens) + self.end
        middle = (self.frames - 1) / 2
        return "".join(
            f"<{(step * self.frames + middle) / frame_rate:.1f} seconds>{self.start}{self.pad * tokens}{self.end}"
            for step in range(steps)
        )

    def conversation(self, content: str) -> str:
        """One user message and the start of the answer, in the model's own chat template where it has one."""
        if self.tokenizer.chat_template:
            message = [{"role": "user", "content": content}]
            return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"

    def __call__(
        self, videos: Sequence[Tensor], fps: Sequence[float], texts: Sequence[str], budget: VideoBudget
    ) -> dict[str, Tensor]:
        patches, grids, contents, seconds = [], [], [], []
        for video, rate, text in zip(videos, fps, texts, strict=True):
            frames = sample_frames(video, rate, budget, self.frames)
            flat, grid = self.patches(frames, budget)
            # A long video is sampled evenly over its whole length, at less than the budget's rate.
            shown = min(budget.frame_rate, budget.max_frames / (video.shape[1] / rate))
            patches.append(flat)
            grids.append(grid)
            seconds.append(self.frames / shown)
            contents.append(self.conversation(self.placeholder(grid, shown) + text))
        tokens = self.tokenizer(contents, padding=True, return_tensors="pt", add_special_tokens=False)
        ids = tokens["input_ids"]
        inputs = {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (ids == self.video_token_id).int() * 2,
            "pixel_values_videos": torch.cat(patches),
            "video_grid_thw": torch.tensor(grids),
        }
        if self.family == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.tensor(seconds)
        return inputs


class ImagesPreparation(Preparation):
    """Frames as a series of images, through the model's own processor and chat template."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor.tokenizer)
        self.processor = processor

    def __call__(
        self, videos: Sequence[Tensor], fps: Sequence[float], texts: Sequence[str], budget: VideoBudget
    ) -> dict[str, Tensor]:
        from PIL import Image

        contents, images = [], []
        for video, rate, text in zip(videos, fps, texts, strict=True):
            frames = sample_frames(video, rate, budget)
            height, width = fit_size(frames.shape[2], frames.shape[3], 1, budget)
            pixels = (
                (resize_frames(frames, height, width) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            )
            pictures = [Image.fromarray(frame) for frame in pixels]
            content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
            message = [{"role": "user", "content": content}]
            contents.append(self.processor.apply_chat_template(message, add_generation_prompt=True))
            images.append(pictures)
        return dict(self.processor(text=contents, images=images, padding=True, return_tensors="pt"))


class VisionLanguageModel:
    """A model with what makes its inputs.

    Args:
        model: an image-text-to-text model of transformers.
        preparation: makes its inputs.
        name: what it was loaded from.
        budget: how much of a video it sees.
    """

    def __init__(
        self, model: nn.Module, preparation: Preparation, name: str, budget: VideoBudget | None = None
    ) -> None:
        self.model = model
        self.preparation = preparation
        self.name = name
        self.budget = budget or VideoBudget()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def tokenizer(self) -> Any:
        return self.preparation.tokenizer

    def inputs(
        self, videos: Sequence[Tensor], fps: Sequence[float], texts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Inputs on the model's device; floating ones in its precision. See `Preparation`."""
        texts = as_list(texts)
        found = self.preparation(videos, fps, texts, self.budget)
        precision = next(self.model.parameters()).dtype
        return {
            name: value.to(self.device, precision) if value.is_floating_point() else value.to(self.device)
            for name, value in found.items()
        }

    def hidden_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Last hidden states `[batch, tokens, hidden]`, after the final norm."""
        base: Any = getattr(self.model, "model", self.model)
        return base(**inputs, use_cache=False).last_hidden_state

    @torch.no_grad()
    def probability_of_yes(
        self, videos: Sequence[Tensor], questions: Sequence[str], fps: float = 8.0, batch_size: int = 8
    ) -> Tensor:
        """P(yes) / (P(yes) + P(no)) of the next word `[batch]` (VQAScore, arXiv 2404.01291), on the CPU.

        Args:
            videos: each `[3, frames, height, width]` in [-1, 1].
            questions: one a video.
            fps: frames a second of the videos.
        """
        questions = as_list(questions)
        yes, no = self._answer_tokens()
        parts = []
        for start in range(0, len(videos), batch_size):
            chunk = slice(start, start + batch_size)
            texts = [f"{question} Answer yes or no." for question in questions[chunk]]
            inputs = self.inputs(videos[chunk], [fps] * len(texts), texts)
            last = inputs["attention_mask"].sum(1) - 1
            hidden = self.hidden_states(inputs)[torch.arange(len(texts), device=last.device), last]
            head: Any = self.model
            logits = head.get_output_embeddings()(hidden).float()
            odds = logits[:, yes].logsumexp(1) - logits[:, no].logsumexp(1)
            parts.append(odds.sigmoid().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def write(self, video: Tensor, fps: float, text: str, max_new_tokens: int) -> str:
        """The answer to an instruction about a video `[3, frames, height, width]` in [-1, 1], the likeliest word each
        time.

        Args:
            fps: frames a second of the video.
            text: the instruction.
            max_new_tokens: of the answer, at most.
        """
        inputs = self.inputs([video], [fps], [text])
        written: Any = self.model
        ids = written.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
        answer = ids[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()

    def _answer_tokens(self) -> tuple[list[int], list[int]]:
        """First tokens of the ways to write yes and no."""

        def first(words: Sequence[str]) -> set[int]:
            found = [self.tokenizer.encode(word, add_special_tokens=False) for word in words]
            return {ids[0] for ids in found if ids and ids[0] != self.tokenizer.unk_token_id}

        yes, no = first(_YES), first(_NO)
        yes, no = yes - no, no - yes
        if not yes or not no:
            raise InputError(f"The tokenizer of {self.name} cannot write yes and no: use another model.")
        return sorted(yes), sorted(no)


def load_vision_language_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    budget: VideoBudget | None = None,
) -> VisionLanguageModel:
    """Loads any image-text-to-text model of transformers.

    Args:
        path: folder or hub id.
        dtype: precision; bfloat16 on GPUs and float32 elsewhere by default.

    Raises:
        InputError: there is no such model, or it needs what is not installed.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        config = AutoConfig.from_pretrained(path)
        model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
        preparation: Preparation
        if config.model_type in QWEN_FAMILIES:
            tokenizer = AutoTokenizer.from_pretrained(path)
            preparation = QwenPreparation(tokenizer, config, *_normalisation(path, config.model_type))
        else:
            preparation = ImagesPreparation(AutoProcessor.from_pretrained(path))
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} cannot be loaded as a vision-language model of transformers ({reason}): give the folder or hub id "
            "of an image-text-to-text model."
        ) from error
    model.requires_grad_(False)
    return VisionLanguageModel(model.to(device).eval(), preparation, str(path), budget)


def _normalisation(path: str | Path, family: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, from the model's preprocessor or as its family has them."""
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    half = [0.5, 0.5, 0.5]
    mean, std = (half, half) if family.startswith("qwen3") else (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError:
        settings = {}
    return list(settings.get("image_mean", mean)), list(settings.get("image_std", std))
