"""Memory that rewards by name need beside their weights while they judge, computed without weights and GPU.

Models of the published sizes run once on meta tensors (`generator.hardware.memory_tracker`): frames at the video's size
are resized and pass the model, with gradients to the pixels where back-propagation needs them. Text encoders, whose
embeddings are kept, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from generator.hardware.memory_tracker import StorageTracker, fused_attention
from reward.models.named import videoalign
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import (
    FRAMES_WITH_GRADIENTS,
    chosen_frames,
    crop_to_side,
    pad_to_side,
    squeeze_to_side,
)
from reward.models.named.hpsv3 import BUDGET as HPSV3_BUDGET
from reward.models.named.published_sizes import PROMPT_TOKENS, vision_model
from reward.models.named.qwen_rewards import eight_bit_resize, pillow_resize, sequential_positions
from reward.models.named.viclip import ViCLIP, middle_frames, prepared
from reward.models.vlm_loading import fit_size


@dataclass(frozen=True)
class JudgingMemory:
    """Bytes beside the weights.

    Attributes:
        scoring: while one video is judged.
        gradients: while its score's gradient goes to the pixels; 0 where it does not.
    """

    scoring: int = 0
    gradients: int = 0


def judging_memory(
    request: RewardRequest, num_frames: int, height: int, width: int, fps: float
) -> JudgingMemory:
    """Memory of a reward by name that judges one video of this size, in the request's precision; none where it runs no
    model on the GPU."""
    key = (request.name, *sorted(map(str, request.options.items())), num_frames, height, width, fps)
    if key not in _known:
        _known[key] = _measured(request, num_frames, height, width, fps)
    return _known[key]


_known: dict[tuple[Any, ...], JudgingMemory] = {}


def _measured(request: RewardRequest, num_frames: int, height: int, width: int, fps: float) -> JudgingMemory:
    name = request.entry.name
    qwen = name in PROMPT_TOKENS
    dtype = getattr(torch, request.options.get("dtype", "bfloat16" if qwen else "float32"))
    model = vision_model(name, dtype)
    if model is None or num_frames < (2 if name == "videoalign" else 1):
        return JudgingMemory()
    way = (_qwen if qwen else _frames)(request, model, dtype, num_frames, fps)
    chosen = torch.empty(way.frames, 3, height, width, device="meta")
    scoring = _peak(way.run, chosen, way.at_a_time)
    together = (
        way.at_a_time if name in ("viclip", "videoalign") else min(way.at_a_time, FRAMES_WITH_GRADIENTS)
    )
    passes = request.entry.gradients
    return JudgingMemory(scoring, _peak(way.run, chosen.requires_grad_(), together) if passes else 0)


@dataclass(frozen=True)
class _Way:
    """Pass of frames `[n, 3, height, width]` through a model, their number in a video, and how many at a time."""

    run: Callable[[Tensor], Tensor]
    frames: int
    at_a_time: int


def _peak(run: Callable[[Tensor], Tensor], frames: Tensor, at_a_time: int) -> int:
    """Most bytes that judging makes, a copy of the chosen frames among them; with the backward pass where they ask."""
    with torch.set_grad_enabled(frames.requires_grad), fused_attention(), StorageTracker() as tracker:
        score = run(frames.clone()[:at_a_time]).float().sum()
        if frames.requires_grad:
            score.backward()
    frames.grad = None
    return tracker.peak


def _frames(request: RewardRequest, model: Any, dtype: torch.dtype, num_frames: int, _: float) -> _Way:
    """Frames through a model of the CLIP family."""
    name, side = request.entry.name, model.config.image_size
    if name == "viclip":
        count = len(middle_frames(num_frames, 8))
        return _Way(_viclip(model, dtype), count, count)
    shape = {"hpsv2": pad_to_side, "siglip": squeeze_to_side, "aesthetic-v2.5": squeeze_to_side}
    resize = shape.get(name, crop_to_side)

    def run(frames: Tensor) -> Tensor:
        return model(pixel_values=resize(frames, side).to(dtype)).last_hidden_state

    count = len(chosen_frames(num_frames, request.options.get("frames", 8)))
    return _Way(run, count, min(request.options.get("batch_size", 32), count))


def _viclip(model: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    class _Clip(torch.nn.Module):
        config = type("Config", (), {"vision_config": model.config})
        vision_model, visual_projection = model.vision_model, model.visual_projection

    whole = ViCLIP(_Clip(), torch.empty(1, 8, model.config.hidden_size, dtype=dtype, device="meta"))
    side = model.config.image_size
    return lambda frames: whole.embed_videos(prepared(frames, side)[None])


def _qwen(request: RewardRequest, model: Any, dtype: torch.dtype, num_frames: int, fps: float) -> _Way:
    """Frames through a Qwen2-VL: one message a video (VideoReward) or a frame (HPSv3)."""
    video = request.entry.name == "videoalign"
    settings = videoalign.VideoAlignSettings()
    budget = settings.budget if video else HPSV3_BUDGET
    vision = model.config.vision_config
    merge, patch, time = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
    if video:
        count = len(
            videoalign.sampled_frames(num_frames, request.options.get("fps") or fps, settings.frame_rate)
        )
        at_a_time = count
    else:
        count = len(chosen_frames(num_frames, request.options.get("frames", 5)))
        at_a_time = min(request.options.get("batch_size", 4), count)

    def run(frames: Tensor) -> Tensor:
        height, width = fit_size(frames.shape[2], frames.shape[3], patch * merge, budget)
        pixels = (eight_bit_resize if video else pillow_resize)(frames, height, width).to(dtype)
        messages, steps = (1, len(frames) // time) if video else (len(frames), 1)
        flat = pixels.reshape(-1, 3, 1, patch, patch).expand(-1, -1, 1 if video else time, -1, -1)
        flat = flat.reshape(messages * steps * (height // patch) * (width // patch), -1)
        grid = torch.tensor([[steps, height // patch, width // patch]] * messages)
        seen = _seen(model.visual, flat, grid)
        words = torch.empty(
            messages, PROMPT_TOKENS[request.entry.name], seen.shape[-1], dtype=dtype, device="meta"
        )
        hidden = torch.cat([seen.unflatten(0, (messages, -1)), words], dim=1)
        positions = sequential_positions(hidden.shape[:2]).to("meta")
        return model.language_model(
            inputs_embeds=hidden, position_ids=positions, attention_mask=None, use_cache=False
        ).last_hidden_state

    return _Way(run, count, at_a_time)


def _seen(visual: Any, flat: Tensor, grid: Tensor) -> Tensor:
    """Tokens of patches `[patches, values]` behind the merger, for a grid on the CPU, whose values are read."""
    rotary = visual.rotary_pos_emb
    rows = torch.empty(len(flat), visual.config.embed_dim // visual.config.num_heads, device="meta")
    with mock.patch.object(rotary, "forward", return_value=(rows, rows)):
        found: Tensor = visual(flat, grid_thw=grid).pooler_output
    return found
