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
from reward.models.vlm_loading import VideoBudget, fit_size, resize_frames, sample_frames


@dataclass(frozen=True)
class JudgingMemory:
    """Bytes beside the weights.

    Attributes:
        scoring: while one video is judged.
        gradients: while its score's gradient goes to the pixels or latents; 0 where it does not.
        of_latents: whether latents are judged, which are not decoded.
    """

    scoring: int = 0
    gradients: int = 0
    of_latents: bool = False


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
    words = PROMPT_TOKENS[request.entry.name]
    if request.entry.name == "videoalign":
        settings = videoalign.VideoAlignSettings()
        rate = request.options.get("fps") or fps
        count = len(videoalign.sampled_frames(num_frames, rate, settings.frame_rate))
        return _Way(_qwen_pass(model, dtype, settings.budget, words, eight_bit_resize, True), count, count)
    count = len(chosen_frames(num_frames, request.options.get("frames", 5)))
    at_a_time = min(request.options.get("batch_size", 4), count)
    return _Way(_qwen_pass(model, dtype, HPSV3_BUDGET, words, pillow_resize, False), count, at_a_time)


def qwen_judging(
    model: Any, dtype: torch.dtype, video: Tensor, fps: float, budget: VideoBudget, words: int
) -> int:
    """Bytes that a Qwen2-VL on the meta device makes while it judges one video, of one message.

    Args:
        video: `[3, frames, height, width]` on the meta device.
        fps: its frames a second.
        budget: frames and pixels that the model sees of it.
        words: tokens of text beside the video.
    """
    shown = sample_frames(video, fps, budget, model.config.vision_config.temporal_patch_size)
    return _peak(_qwen_pass(model, dtype, budget, words, resize_frames, True), shown, len(shown))


def _qwen_pass(
    model: Any,
    dtype: torch.dtype,
    budget: VideoBudget,
    words: int,
    resize: Callable[[Tensor, int, int], Tensor],
    video: bool,
) -> Callable[[Tensor], Tensor]:
    """A pass of frames through a Qwen2-VL, all in one message where they are a `video`."""
    vision = model.config.vision_config
    merge, patch, time = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size

    def run(frames: Tensor) -> Tensor:
        height, width = fit_size(frames.shape[2], frames.shape[3], patch * merge, budget)
        pixels = resize(frames, height, width).to(dtype)
        messages, steps = (1, len(frames) // time) if video else (len(frames), 1)
        flat = pixels.reshape(-1, 3, 1, patch, patch).expand(-1, -1, 1 if video else time, -1, -1)
        flat = flat.reshape(messages * steps * (height // patch) * (width // patch), -1)
        grid = torch.tensor([[steps, height // patch, width // patch]] * messages)
        seen = _seen(model.visual, flat, grid)
        text = torch.empty(messages, words, seen.shape[-1], dtype=dtype, device="meta")
        hidden = torch.cat([seen.unflatten(0, (messages, -1)), text], dim=1)
        positions = sequential_positions(hidden.shape[:2]).to("meta")
        return model.language_model(
            inputs_embeds=hidden, position_ids=positions, attention_mask=None, use_cache=False
        ).last_hidden_state

    return run


def _seen(visual: Any, flat: Tensor, grid: Tensor) -> Tensor:
    """Tokens of patches `[patches, values]` behind the merger, for a grid on the CPU, whose values are read."""
    rotary = visual.rotary_pos_emb
    rows = torch.empty(len(flat), visual.config.embed_dim // visual.config.num_heads, device="meta")
    with mock.patch.object(rotary, "forward", return_value=(rows, rows)):
        found: Tensor = visual(flat, grid_thw=grid).pooler_output
    return found
