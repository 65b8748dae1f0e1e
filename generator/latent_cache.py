"""Videos as latents and prompts as embeddings: encoded once, and kept on disk by content."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from generator.base import Conditions, VideoGenerator, concatenate
from generator.output import InputError, atomic_path
from generator.provenance import autoencoder_hash, file_hash, fingerprint
from generator.sampling import encode_unique_prompts

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]
"""Frames, height, width of a video."""

CACHE_VERSION = 2
"""Of the latents on disk: greater by one whenever the same file gives other latents."""


def default_cache_dir() -> Path:
    """`$VIDALIGN_CACHE`, or `vidalign` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("VIDALIGN_CACHE", f"{cache}/vidalign")).expanduser()


def nearest_size(generator: VideoGenerator, size: Size, what: str = "A video") -> Size:
    """The largest size that the family can make with no dimension above `size`'s; `what` has it, in messages.

    Raises:
        InputError: some dimension is below the smallest one possible.
    """
    side, time = generator.size_multiples()
    frames = (size[0] - 1) // time * time + 1
    height, width = size[1] // side * side, size[2] // side * side
    if min(frames, height, width) < 1:
        raise InputError(
            f"{what} of {size[0]} frames of {size[1]}x{size[2]} is smaller than anything {generator.name} "
            "can make: use a larger video, or give --num_frames, --height and --width."
        )
    generator.check_size(frames, height, width)
    return frames, height, width


def _load_video(
    generator: VideoGenerator, path: Path, num_frames: int | None, height: int | None, width: int | None
) -> Tensor:
    from generator.video import read_clip, read_video, resample

    if num_frames and height and width:
        # Only the frames of the clip are held in memory, so long and large videos can be read.
        size = nearest_size(generator, (num_frames, height, width))
        return read_clip(path, *size, target_fps=generator.defaults.fps)
    video, fps = read_video(path)
    target_fps = generator.defaults.fps
    native_frames = max(1, round(video.shape[1] * target_fps / fps))
    wanted = (num_frames or native_frames, height or video.shape[2], width or video.shape[3])
    frames, height, width = nearest_size(generator, wanted, f"The video {path}")
    return resample(video, fps, num_frames=frames, height=height, width=width, target_fps=target_fps)


def encode_files(
    generator: VideoGenerator,
    paths: Sequence[Path],
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> list[Tensor]:
    """Latents `[C, F, H, W]` (float32, CPU) of video files, one a path; equal paths share one tensor.

    Every dimension that is not given is the video's own, at the model's frame rate, reduced to the nearest
    size that the family can make.

    Args:
        cache_dir: where latents are kept, by the content of the file, the size, and the autoencoder's
            weights. `default_cache_dir() / "latents"` if None.

    Raises:
        InputError: a file is missing or unreadable (named).
    """
    for name, value in (("num_frames", num_frames), ("height", height), ("width", width)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, but must be at least 1.")
    cache_dir = cache_dir or default_cache_dir() / "latents"
    encoder = autoencoder_hash(generator)
    distinct = list(dict.fromkeys(paths))
    keys = {}
    for path in distinct:
        if not path.is_file():
            raise InputError(
                f"The video {path} does not exist: correct the path or remove the row that names it."
            )
        content = f"{file_hash(path)} {encoder} {num_frames} {height} {width} {generator.defaults.fps} {CACHE_VERSION}"
        keys[path] = hashlib.sha256(content.encode()).hexdigest()
    latents: dict[Path, Tensor] = {}
    waiting: dict[tuple[int, ...], list[tuple[Path, Tensor]]] = {}

    def encode(batch: list[tuple[Path, Tensor]]) -> None:
        videos = torch.stack([video for _, video in batch]).to(generator.device)
        with torch.no_grad():
            encoded = generator.encode(videos).float().cpu()
        for (path, _), latent in zip(batch, encoded):
            latents[path] = latent.clone(memory_format=torch.contiguous_format)
            if encoder is not None:
                with atomic_path(cache_dir / f"{keys[path]}.safetensors") as temporary:
                    save_file({"latents": latents[path]}, temporary)

    for path in tqdm(distinct, desc="Encoding videos", unit="video", disable=not progress):
        cached = cache_dir / f"{keys[path]}.safetensors"
        if encoder is not None and cached.is_file():
            latents[path] = load_file(cached)["latents"]
            continue
        video = _load_video(generator, path, num_frames, height, width)
        batch = waiting.setdefault(tuple(video.shape), [])
        batch.append((path, video))
        if len(batch) == batch_size:
            encode(waiting.pop(tuple(video.shape)))
    for batch in waiting.values():
        encode(batch)
    return [latents[path] for path in paths]


CACHED_ENCODER_SIZE = 50_000_000
"""Prompt embeddings are kept on disk where the text encoders have at least this many weights."""


def text_encoder_hash(generator: VideoGenerator) -> str | None:
    """Fingerprint of the text encoders' weights; None where keeping their output would not pay."""
    generator.restore_text_encoder()
    components = getattr(generator.pipeline, "components", {})
    encoders = {
        name: part
        for name, part in sorted(components.items())
        if name.startswith("text_encoder") and isinstance(part, torch.nn.Module)
    }
    size = sum(weight.numel() for part in encoders.values() for weight in part.parameters())
    if not encoders or size < CACHED_ENCODER_SIZE:
        return None
    return " ".join(f"{name} {fingerprint(part)}" for name, part in encoders.items())


def encode_prompts_cached(
    generator: VideoGenerator, prompts: Sequence[str], cache_dir: Path | None = None, batch_size: int = 64
) -> Conditions:
    """Conditions of distinct prompts, each read from disk if the same text encoders have encoded it before.

    Args:
        cache_dir: where embeddings are kept, by text and text encoders; `default_cache_dir() / "prompts"` if
            None.
    """
    cache_dir = cache_dir or default_cache_dir() / "prompts"
    encoder = text_encoder_hash(generator)
    if encoder is None:
        return encode_unique_prompts(generator, prompts, batch_size)[0]
    files = {
        prompt: cache_dir
        / f"{hashlib.sha256(f'{encoder} {generator.dtype} {prompt}'.encode()).hexdigest()}.safetensors"
        for prompt in prompts
    }
    missing = [prompt for prompt in prompts if not files[prompt].is_file()]
    for start in tqdm(range(0, len(missing), batch_size), desc="Encoding prompts", disable=len(missing) < 2):
        batch = missing[start : start + batch_size]
        with torch.no_grad():
            encoded = generator.encode_prompts(batch)
        for row, prompt in enumerate(batch):
            tensors = {name: value[row : row + 1].cpu().clone() for name, value in encoded.items()}
            with atomic_path(files[prompt]) as temporary:
                save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    return concatenate([load_file(files[prompt]) for prompt in prompts])
