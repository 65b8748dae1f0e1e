"""Videos as latents: encoded once, cached on disk by content, and batched by shape."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm.auto import tqdm

from alignment.example_weights import Filler, as_fillers, whole_rounds
from generator.base import Conditions, VideoGenerator, concatenate
from generator.output import InputError, atomic_path
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


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def autoencoder_hash(generator: VideoGenerator) -> str | None:
    """SHA-256 of the autoencoder's weights; None if the pipeline has no `vae` (latents are then not
    cached)."""
    vae = getattr(generator.pipeline, "vae", None)
    if not isinstance(vae, torch.nn.Module):
        return None
    digest = hashlib.sha256(type(vae).__name__.encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    from reward.models.trunk import fingerprint

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


@dataclass
class PromptTable:
    """Conditions of all prompts of a data set; row 0 is the unconditional prompt."""

    conditions: Conditions
    rows: Tensor

    @classmethod
    def encode(cls, generator: VideoGenerator, prompts: Sequence[str]) -> PromptTable:
        """Encodes each distinct prompt once (large text encoders: once ever); `rows[i]` is the row of
        `prompts[i]`."""
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        conditions = encode_prompts_cached(generator, list(row_of))
        rows = torch.tensor([row_of[prompt] for prompt in prompts], dtype=torch.long)
        return cls({name: value.cpu() for name, value in conditions.items()}, rows)


class LatentDataset(Dataset):
    """Rows of latents (one each for SFT; those of a ranking for DPO) with the row of their prompt.

    An item is `{"latents": [sides, C, F, H, W], "row": int, "key": int, "weight": float}`, and `"ranks": [sides]`
    where ranks are given; all sides of an item have one shape. The weight is 0 for a `Filler`, else 1.
    """

    def __init__(
        self,
        latents: Sequence[Sequence[Tensor]],
        rows: Tensor,
        ranks: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.latents = latents
        self.rows = rows.tolist()
        self.ranks = ranks
        for sides in latents:
            shapes = [tuple(side.shape) for side in sides]
            if len(set(shapes)) > 1:
                raise InputError(
                    f"The videos of one row have latents of different shapes {shapes}: give --num_frames, "
                    "--height and --width, so that they become equal."
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {
            "latents": torch.stack(list(self.latents[index])),
            "row": self.rows[index],
            "key": int(index),
            "weight": float(not isinstance(index, Filler)),
        }
        return item if self.ranks is None else {**item, "ranks": torch.tensor(self.ranks[index])}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(sides[0].shape) for sides in self.latents]

    @property
    def buckets(self) -> list[tuple[int, ...]]:
        """Number of sides and their shape; items of one bucket can stand in one batch."""
        return [(len(sides), *shape) for sides, shape in zip(self.latents, self.shapes)]


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """`latents [batch, sides, C, F, H, W]`, `rows [batch]`, `keys [batch, 2]`: index of the row and its
    occurrence; `weights [batch]`; and `ranks [batch, sides]` where the items have them."""
    seen: dict[int, int] = {}
    keys = []
    for item in items:
        keys.append((item["key"], seen.get(item["key"], 0)))
        seen[item["key"]] = seen.get(item["key"], 0) + 1
    batch = {
        "latents": torch.stack([item["latents"] for item in items]),
        "rows": torch.tensor([item["row"] for item in items]),
        "keys": torch.tensor(keys),
        "weights": torch.tensor([item["weight"] for item in items]),
    }
    if "ranks" in items[0]:
        batch["ranks"] = torch.stack([item["ranks"] for item in items])
    return batch


class BucketBatchSampler(Sampler[list[int]]):
    """Batches whose latents have one shape, in an order that depends only on seed and epoch.

    Every batch is full: the last one of a shape is filled up from the start of that shape's order, and with several
    `processes` each gets equally many. What fills up is a `Filler`, and does not count.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], batch_size: int, seed: int, processes: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.processes = processes
        self.seed = seed
        self.epoch = 0
        self.drop_last = False
        self.buckets: dict[tuple[int, ...], list[int]] = {}
        for index, shape in enumerate(shapes):
            self.buckets.setdefault(shape, []).append(index)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        count = sum(-(-len(bucket) // self.batch_size) for bucket in self.buckets.values())
        return count + -count % self.processes

    def __iter__(self) -> Iterator[list[int]]:
        order = random.Random(f"{self.seed} {self.epoch}")
        batches = []
        for bucket in self.buckets.values():
            indices = bucket.copy()
            order.shuffle(indices)
            missing = -len(indices) % self.batch_size
            indices += as_fillers([indices[i % len(bucket)] for i in range(missing)])
            batches += [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        if len(self.buckets) > 1:
            order.shuffle(batches)
        yield from whole_rounds(batches, self.processes)


def example_seeds(*key: int, rows: Tensor | None = None) -> list[int]:
    """Seeds that depend on nothing but `key` and each row `[batch, n]` of `rows`.

    Noise drawn from them is the same in every batch, on every process, and after resuming from a checkpoint.
    """
    tails = [[]] if rows is None else rows.tolist()
    return [int(np.random.SeedSequence([*key, *tail]).generate_state(1)[0]) for tail in tails]


def split_prompts(prompts: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices `(train, held_out)` of examples, such that no prompt is on both sides.

    Args:
        fraction: share of the distinct prompts that is held out; at least one is, if it is above 0.

    Raises:
        InputError: `fraction` is not in [0, 1), or leaves nothing to train on.
    """
    distinct = sorted(set(prompts))
    count = max(1, round(fraction * len(distinct))) if fraction > 0 else 0
    if not 0 <= fraction < 1 or count >= len(distinct):
        raise InputError(
            f"eval_fraction is {fraction} for {len(distinct)} distinct prompts, which leaves none to "
            f"train on: "
            "lower it or add prompts."
        )
    random.Random(seed).shuffle(distinct)
    held_out = set(distinct[:count])
    indices = range(len(prompts))
    return [i for i in indices if prompts[i] not in held_out], [i for i in indices if prompts[i] in held_out]
