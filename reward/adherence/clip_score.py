"""CLIPScore: how near a video's frames are to its prompt in CLIP's space (Hessel et al., 2021, arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generator.one_or_several import as_list
from generator.output import InputError, read_json
from reward.adherence.judgement import Judgement
from reward.models.named.frames import CLIP_MEAN, CLIP_STD, crop_to_side, normalised

WEIGHT = 2.5
"""CLIPScore's w: cosines of natural images and texts lie about in [0, 0.4]."""


class ClipScore:
    """Any CLIP model of transformers (`get_image_features`, `get_text_features`) with its tokenizer.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        mean, std: of the model's normalised pixels, a channel each.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.mean, self.std = tuple(mean), tuple(std)
        self.side = int(model.config.vision_config.image_size)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str | torch.device | None = None) -> ClipScore:
        """Loads a folder (or hub id) with a model and a tokenizer.

        Raises:
            InputError: it holds no such model.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            model, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path} cannot be loaded as a CLIP model of transformers ({reason})."
            ) from error
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise InputError(
                f"{path} holds a {type(model).__name__}, but a CLIP model was expected: give another."
            )
        settings: dict[str, Any] = {}
        stored = Path(path) / "preprocessor_config.json"
        if stored.is_file():
            settings = read_json(stored)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            model.to(device),
            tokenizer,
            settings.get("image_mean", CLIP_MEAN),
            settings.get("image_std", CLIP_STD),
        )

    def pixels(self, frames: Tensor) -> Tensor:
        """`[n, 3, height, width]` in [-1, 1] as CLIP sees it: shorter side resized (bicubic), centre cut out."""
        return normalised(crop_to_side(frames, self.side), self.mean, self.std)

    @torch.no_grad()
    def cosines(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of each frame of each video and its prompt `[batch, frames]`."""
        prompts = as_list(prompts)
        device = next(self.model.parameters()).device
        limit = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(device)
        text = functional.normalize(_features(self.model.get_text_features(**words)), dim=-1)
        frames = self.pixels(videos.transpose(1, 2).flatten(0, 1).to(device))
        image = _features(self.model.get_image_features(pixel_values=frames.to(self.model.dtype)))
        image = functional.normalize(image, dim=-1).unflatten(0, (len(videos), -1))
        return (image * text[:, None]).sum(-1).float().cpu()

    def judge(self, videos: Tensor, prompts: Sequence[str]) -> list[Judgement]:
        """CLIPScore w·max(cos, 0) of the mean cosine over the frames, w = 2.5, at most 1."""
        prompts = as_list(prompts)
        means = self.cosines(videos, prompts).mean(1)
        return [Judgement(float(score)) for score in (WEIGHT * means.clamp(min=0)).clamp(max=1)]


def _features(output: Any) -> Tensor:
    """The embedding, which some versions of transformers return inside of an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
