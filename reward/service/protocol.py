"""Messages between the reward service and its clients.

A request to `POST /score` is either

- `application/octet-stream`: a safetensors file with `videos [batch, 3, frames, height, width]` in [-1, 1], float16,
  perhaps `images [batch, 3, height, width]` with which they begin, and in the metadata the prompts as JSON under
  `prompts` and, where it is known, their frames a second under `fps`; or
- `application/json`: `{"prompts": [text…], "videos": [base64 of a video file…]}`, and perhaps `"images": [base64 of an
  image file…]`; a file says its own frame rate.

Images are for services whose `/info` says `"takes_images": true`; others leave them unread.

The answer is `{"scores": {dimension: [number…]}, "uncertainty": {dimension: [number…]}}`, the latter only where
`?uncertainty=true` asks for it and the model knows it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError, check_storable

TENSORS = "application/octet-stream"


def pack(
    videos: Tensor, prompts: Sequence[str], fps: float | None = None, images: Tensor | None = None
) -> bytes:
    """Videos, prompts and perhaps images as the body of a request; 16-bit floats keep more than a file's 8 bits."""
    prompts = as_list(prompts)
    given = {"videos": videos} if images is None else {"videos": videos, "images": images}
    tensors = {
        name: value.detach().to(device="cpu", dtype=torch.float16).contiguous()
        for name, value in given.items()
    }
    metadata = {"prompts": json.dumps(list(prompts))}
    if fps is not None:
        metadata["fps"] = repr(float(fps))
    return save(tensors, metadata=metadata)


def unpack(body: bytes) -> tuple[Tensor, list[str], float | None, Tensor | None]:
    """Videos (float32), prompts, frames a second and images of a request; None for those that it does not say.

    Raises:
        InputError: the body is not what `pack` makes.
    """
    try:
        tensors = load(body)
        videos, images = tensors["videos"].float(), tensors.get("images")
        length = int.from_bytes(body[:8], "little")
        metadata = json.loads(body[8 : 8 + length])["__metadata__"]
        prompts = json.loads(metadata["prompts"])
        fps = float(metadata["fps"]) if "fps" in metadata else None
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The request is not a safetensors file with videos and prompts ({error})."
        ) from error
    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"The request says {fps} frames a second: give a number above 0.")
    return *check(videos, prompts), fps, None if images is None else check_images(images.float(), videos)


def check_images(images: Tensor, videos: Tensor) -> Tensor:
    """The images of a request, if there is one for each of its videos.

    Raises:
        InputError: they have another shape or number, or values that are not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(videos):
        raise InputError(
            f"Images of shape {tuple(images.shape)} were sent with {len(videos)} videos: [batch, 3, height, width] and "
            "one image a video are needed."
        )
    if not torch.isfinite(images).all():
        raise InputError("The images hold values that are not finite numbers.")
    return images


def check(videos: Tensor, prompts: object) -> tuple[Tensor, list[str]]:
    """The videos and prompts of a request, if they fit each other.

    Raises:
        InputError: wrong shapes, other numbers than prompts, or values that are not finite.
    """
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError("`prompts` must be a list of texts.")
    check_storable(prompts, "A prompt of the request is not usable")
    if videos.ndim != 5 or videos.shape[1] != 3 or len(videos) != len(prompts):
        raise InputError(
            f"Videos of shape {tuple(videos.shape)} and {len(prompts)} prompts were sent: [batch, 3, frames, height, "
            "width] and one prompt a video are needed."
        )
    if not torch.isfinite(videos).all():
        raise InputError("The videos hold values that are not finite numbers.")
    return videos, prompts
