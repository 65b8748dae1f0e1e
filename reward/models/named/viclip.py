"""`viclip`: the cosine of a video and its prompt in ViCLIP's space (InternVid, arXiv 2307.06942).

VBench's overall consistency is this cosine. The model is a CLIP L/14 whose image tokens of 8 frames attend to each
other, with an embedding for the time of each frame; it reads 32 tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from generator.one_or_several import as_list
from generator.output import InputError
from generator.weight_files.state_dicts import read_state_dict
from reward.models.base import RewardModel, Scores
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import (
    CLIP_MEAN,
    CLIP_STD,
    normalised,
    torch_device,
    torch_dtype,
    warn_of_cut_prompts,
)
from reward.models.named.open_clip import renamed
from reward.models.named.places import files_of, folder_of, identify
from reward.models.named.qwen_rewards import in_eight_bits, load_tokenizer
from reward.models.named.sharing import shared
from reward.models.named.state_dicts import load_exactly

HEAD_SIZE = 64
"""Width of an attention head in all CLIP models of OpenAI's sizes; weights do not say it."""


def middle_frames(count: int, shown: int) -> list[int]:
    """Index of the middle frame of each of `shown` equal parts; of a shorter video all frames, the last repeated."""
    parts = min(shown, count)
    edges = [index * count // parts for index in range(parts + 1)]
    middle = [(first + last - 1) // 2 for first, last in pairwise(edges)]
    return middle + [middle[-1]] * (shown - parts)


class ViCLIP(nn.Module):
    """Embeds videos and texts.

    Args:
        clip: `CLIPModel` with the weights of both encoders.
        temporal: embedding of each frame's time `[1, frames, width]`.
    """

    def __init__(self, clip: Any, temporal: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.temporal = nn.Parameter(temporal, requires_grad=False)

    @property
    def num_frames(self) -> int:
        return self.temporal.shape[1]

    @property
    def side(self) -> int:
        return int(self.clip.config.vision_config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.clip.config.text_config.max_position_embeddings)

    def embed_videos(self, pixels: Tensor) -> Tensor:
        """Embeddings `[batch, dim]` of normalised frames `[batch, frames, 3, side, side]`."""
        vision = self.clip.vision_model
        batch = len(pixels)
        grid = vision.embeddings.patch_embedding(pixels.flatten(0, 1).to(self.temporal.dtype))
        positions = vision.embeddings.position_embedding.weight
        patches = rearrange(grid, "(b t) c h w -> b (h w) t c", b=batch) + positions[1:, None]
        tokens = rearrange(patches + self.temporal, "b n t c -> b (n t) c")
        first = (vision.embeddings.class_embedding + positions[0]).expand(batch, 1, -1)
        hidden = vision.pre_layrnorm(torch.cat([first, tokens], dim=1))
        hidden = vision.encoder(inputs_embeds=hidden).last_hidden_state
        return self.clip.visual_projection(vision.post_layernorm(hidden[:, 0]))

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Embeddings `[batch, dim]` of token ids `[batch, tokens]`, each ended by the highest id."""
        return self.clip.get_text_features(input_ids=ids).pooler_output


def model_of(state: Mapping[str, Tensor], path: Path) -> ViCLIP:
    """The frozen model of ViCLIP's weights; all sizes but the heads follow from them.

    Raises:
        InputError: the keys are not ViCLIP's.
    """
    from transformers import CLIPConfig, CLIPModel

    names = {}
    for name, value in state.items():
        side, _, rest = name.partition(".")
        if side in ("vision_encoder", "text_encoder"):
            names[f"visual.{rest}" if side == "vision_encoder" else rest] = value
        elif name != "temp":
            names[name] = value
    temporal = names.pop("visual.temporal_positional_embedding", None)
    if temporal is None:
        raise InputError(
            f"{path} does not have ViCLIP's layout: vision_encoder.temporal_positional_embedding is missing."
        )
    try:
        names["visual.conv1.weight"] = names["visual.conv1.weight"].squeeze(2)
        config = CLIPConfig(**_sizes(names))
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} does not have ViCLIP's layout ({error!r}): check the file.") from error
    clip = CLIPModel(config)
    load_exactly(clip, {**renamed(names), "logit_scale": torch.zeros(())}, path)
    return ViCLIP(clip, temporal).eval()


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    text_width = state["token_embedding.weight"].shape[1]
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)

    def blocks(prefix: str) -> int:
        return 1 + max(int(name.split(".")[prefix.count(".")]) for name in state if name.startswith(prefix))

    shared_sizes = {"hidden_act": "quick_gelu", "projection_dim": state["visual.proj"].shape[1]}
    return {
        "projection_dim": state["visual.proj"].shape[1],
        "vision_config": {
            **shared_sizes,
            "hidden_size": width,
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": blocks("visual.transformer.resblocks."),
            "num_attention_heads": max(1, width // HEAD_SIZE),
            "patch_size": patch,
            "image_size": grid * patch,
        },
        "text_config": {
            **shared_sizes,
            "hidden_size": text_width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": blocks("transformer.resblocks."),
            "num_attention_heads": max(1, text_width // HEAD_SIZE),
            "vocab_size": state["token_embedding.weight"].shape[0],
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "eos_token_id": 2,  # transformers' sign for "where the highest id stands"
        },
    }


def prepared(frames: Tensor, side: int) -> Tensor:
    """Normalised pixels `[n, 3, side, side]` of frames in [-1, 1]: the shorter side resized (bicubic, not antialiased,
    rounded to 8 bits, as VBench does), the centre cut out."""
    pixels = in_eight_bits((frames.float() + 1) / 2)
    shorter = min(pixels.shape[2:])
    size = [side if length == shorter else int(side * length / shorter) for length in pixels.shape[2:]]
    if size != list(pixels.shape[2:]):
        pixels = in_eight_bits(
            functional.interpolate(pixels, size, mode="bicubic", antialias=False, align_corners=False)
        )
    top, left = (round((length - side) / 2) for length in size)
    return normalised(pixels[..., top : top + side, left : left + side], CLIP_MEAN, CLIP_STD)


class ViCLIPReward(RewardModel):
    """Cosine of a video and its prompt.

    Args:
        model: the model.
        tokenizer: CLIP's.
        batch_size: videos that pass the model together.
        factor: multiplies the scores.
    """

    name = "viclip"
    names_dimensions = True
    pixel_gradients = True

    def __init__(self, model: ViCLIP, tokenizer: Any, batch_size: int = 8, factor: float = 1.0) -> None:
        self.model, self.tokenizer, self.batch_size, self.factor = model, tokenizer, batch_size, factor

    @property
    def device(self) -> torch.device:
        return self.model.temporal.device

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Warns where prompts are longer than what the text encoder reads."""
        distinct = list(dict.fromkeys(as_list(prompts)))
        ids = self.tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        warn_of_cut_prompts(self.name, [len(each) for each in ids], self.model.max_tokens)

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Cosines `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1], on the CPU."""
        return {name: value.cpu() for name, value in self.score_pixels(videos, prompts).items()}

    def score_pixels(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """As `score`, with gradients; each chunk is computed again in the backward pass."""
        prompts = as_list(prompts)
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        texts = self.texts(prompts)
        parts = []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            recompute = torch.is_grad_enabled() and videos.requires_grad
            embedded = (
                checkpoint(self._videos, videos[rows], use_reentrant=False)
                if recompute
                else self._videos(videos[rows])
            )
            parts.append((functional.normalize(embedded.float(), dim=-1) * texts[rows]).sum(-1))
        return {"overall": self.factor * torch.cat(parts)}

    def _videos(self, videos: Tensor) -> Tensor:
        indices = middle_frames(videos.shape[2], self.model.num_frames)
        frames = videos[:, :, indices].to(self.device).transpose(1, 2)
        pixels = prepared(frames.flatten(0, 1), self.model.side).unflatten(0, frames.shape[:2])
        # A trainer's autocast is in force where rollouts are judged; scores are to be those of upstream.
        with torch.autocast(self.device.type, enabled=False):
            return self.model.embed_videos(pixels)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of length 1 `[batch, dim]`; a prompt that several videos share is embedded once."""
        distinct = list(dict.fromkeys(prompts))
        ids = self.tokenizer(
            distinct,
            padding="max_length",
            truncation=True,
            max_length=self.model.max_tokens,
            return_tensors="pt",
        )["input_ids"]
        with torch.autocast(self.device.type, enabled=False):
            found = self.model.embed_texts(ids.to(self.device)).float()
        rows = [distinct.index(prompt) for prompt in prompts]
        return functional.normalize(found, dim=-1)[rows]


def load(request: RewardRequest) -> RewardModel:
    """ViCLIP of the hub or of a folder or file.

    Raises:
        InputError: weights or tokenizer are not at hand.
    """
    request.refuse("frames", "reduce")
    options = request.options
    weights = next(iter(files_of(request).values()))
    tokenizer = load_tokenizer(folder_of(files_of(request, request.entry.weights[1])))
    device, dtype = torch_device(request), torch_dtype(request)

    def read() -> ViCLIP:
        return model_of(read_state_dict(weights, "viclip", inside="model"), weights).to(device, dtype)

    model = ViCLIPReward(
        shared(("viclip", weights.resolve(), device, dtype), read),
        tokenizer,
        options.get("batch_size", 8),
        float(options.get("scale", 1.0)),
    )
    return identify(model, request, [weights], frames=model.model.num_frames)
