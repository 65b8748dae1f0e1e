"""Videos as latents and prompts as embeddings: encoded once, and kept on disk by content."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, concatenate
from generator.lost_words import warn_of_lost_words
from generator.one_or_several import as_list
from generator.output import InputError, atomic_path
from generator.provenance import autoencoder_hash, file_hash, fingerprint
from generator.sampling import encode_unique_prompts
from generator.training.progress import SharedBar
from generator.training.shared_work import SharedWork

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]
"""Frames, height, width of a video."""


class Clip(NamedTuple):
    """A part of a video file that is encoded.

    Attributes:
        path: the file.
        size: frames, height, width to which it is brought.
        start: seconds of the video before its first frame.
    """

    path: Path
    size: Size
    start: float = 0.0


CACHE_VERSION = 3
"""Version of the latents on disk: greater by one whenever the same file gives other latents."""

ENCODED_PIXELS = 2**24
"""Most pixels of all frames of the videos that are encoded together, unless one has more."""


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


def training_size(
    generator: VideoGenerator,
    path: Path,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    native_size: bool = False,
) -> tuple[Size, bool]:
    """Size at which a video file is trained on, and whether the model's own size has limited it.

    A dimension that is not given is the video's own, at the model's frame rate, and at most the model's own; all are
    reduced to the nearest size that the family can make.

    Args:
        native_size: no upper limit.

    Raises:
        InputError: the file is no video, or smaller than anything the family can make.
    """
    from generator.video import clip_shape, is_still
    from generator.video_files.timing import frames_in_clip

    if is_still(path):
        num_frames = 1  # frozen frames would teach the model to stand still
    if num_frames and height and width:
        return nearest_size(generator, (num_frames, height, width)), False
    shape, defaults = clip_shape(path), generator.defaults
    native_frames = frames_in_clip(shape.num_frames, shape.fps, defaults.fps)
    nearest_size(
        generator,
        (num_frames or native_frames, height or shape.height, width or shape.width),
        f"The video {path}",
    )
    limits = (defaults.num_frames, defaults.height, defaults.width)
    asked, wanted, limited = (num_frames, height, width), [], False
    for given, own, limit in zip(asked, (native_frames, shape.height, shape.width), limits, strict=True):
        wanted.append(given or (own if native_size else min(own, limit)))
        limited |= given is None and not native_size and own > limit
    return nearest_size(generator, (wanted[0], wanted[1], wanted[2])), limited


def _check_given_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, but must be at least 1.")


def _cached_file(cache_dir: Path, clip: Clip, encoder: str | None, fps: float) -> Path | None:
    """The file that keeps the latents of a clip; None where the autoencoder is not known by its weights."""
    if encoder is None:
        return None
    content = f"{file_hash(clip.path)} {encoder} {clip.size} {fps} {CACHE_VERSION}"
    content += f" {clip.start}" if clip.start else ""
    return cache_dir / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def _tell_of_reduction(generator: VideoGenerator, reduced: int, videos: int) -> None:
    own = generator.defaults
    print(
        f"{reduced} of {videos} videos are longer or larger than the model's own {own.num_frames} frames of "
        f"{own.height}x{own.width} and are cut to it; --native_size true keeps them, --num_frames, --height and "
        "--width set another size."
    )


def encode_files(
    generator: VideoGenerator,
    paths: Sequence[Path],
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    cache_dir: Path | None = None,
    progress: bool = True,
    native_size: bool = False,
    check: Callable[[Path, Size, bool], None] | None = None,
) -> list[Tensor]:
    """Latents `[C, F, H, W]` (float32, CPU) of video files, one a path; equal paths share one tensor.

    Args:
        num_frames, height, width, native_size: see `training_size`.
        cache_dir: where latents are kept, by the content of the file, the size, and the autoencoder's
            weights. `default_cache_dir() / "latents"` if None.
        check: is called with every file, its size, and whether its latents are kept, before the first is encoded;
            it raises `InputError` where that is too much.

    Raises:
        InputError: a file is missing or unreadable (named).
    """
    paths = as_list(paths)
    _check_given_sizes(num_frames=num_frames, height=height, width=width)
    sizes, reduced_count = {}, 0
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise InputError(
                f"The video {path} does not exist: correct the path or remove the row that names it."
            )
        sizes[path], reduced = training_size(generator, path, num_frames, height, width, native_size)
        reduced_count += reduced

    def tell() -> None:
        if reduced_count and progress:
            _tell_of_reduction(generator, reduced_count, len(sizes))

    clips = [Clip(path, sizes[path]) for path in paths]
    return encode_clips(generator, clips, batch_size, cache_dir, progress, check, tell)


def encode_clips(
    generator: VideoGenerator,
    clips: Sequence[Clip],
    batch_size: int = 8,
    cache_dir: Path | None = None,
    progress: bool = True,
    check: Callable[[Path, Size, bool], None] | None = None,
    begin: Callable[[], None] | None = None,
) -> list[Tensor]:
    """Latents `[C, F, H, W]` (float32, CPU) of clips; equal clips share one tensor.

    The processes of a launch, all of which must call this, share what is to be encoded.

    Args:
        batch_size, cache_dir, progress, check: see `encode_files`.
        begin: is called after the checks, before the first clip is read.

    Raises:
        InputError: a file is missing or unreadable (named).
    """
    from generator.video import read_clip

    cache_dir = cache_dir or default_cache_dir() / "latents"
    encoder, rate = autoencoder_hash(generator), generator.defaults.fps
    distinct = list(dict.fromkeys(clips))
    kept_in: dict[Clip, Path | None] = {}
    for clip in distinct:
        file = kept_in[clip] = _cached_file(cache_dir, clip, encoder, rate)
        if check is not None:
            check(clip.path, clip.size, file is not None and file.is_file())
    if begin is not None:
        begin()
    latents: dict[Clip, Tensor] = {}

    def encode(batch: list[Clip]) -> None:
        videos = [read_clip(clip.path, *clip.size, target_fps=rate, start=clip.start) for clip in batch]
        with torch.no_grad():
            encoded = generator.encode(torch.stack(videos).to(generator.device)).float().cpu()
        for clip, latent in zip(batch, encoded, strict=True):
            latents[clip] = latent.clone(memory_format=torch.contiguous_format)
            if (file := kept_in[clip]) is not None:
                write_cached(file, {"latents": latents[clip]})

    work = SharedWork()
    with SharedBar(len(distinct), "Encoding videos", "video", work, disable=not progress) as bar:
        missing = work.first(
            lambda: [i for i, clip in enumerate(distinct) if not _read(clip, kept_in, latents)]
        )
        if work.is_first:
            bar.add(len(distinct) - len(missing))
        for _, batch in work.portions(_batches([distinct[number] for number in missing], batch_size)):
            encode(batch)
            bar.add(len(batch))
        work.gather(None, bar.show)
        left = [clip for clip in distinct if clip not in latents and not _read(clip, kept_in, latents)]
        for batch in _batches(left, batch_size):  # where no disk is shared
            encode(batch)
    return [latents[clip] for clip in clips]


def _read(clip: Clip, kept_in: dict[Clip, Path | None], latents: dict[Clip, Tensor]) -> bool:
    """Takes the latents of a clip from the cache; returns whether they are there."""
    file = kept_in[clip]
    found = None if file is None else read_cached(file, ("latents",))
    if found is not None:
        latents[clip] = found["latents"]
    return found is not None


def _batches(clips: Sequence[Clip], batch_size: int) -> list[list[Clip]]:
    """Clips of one size together, as many as are encoded at once."""
    batches: list[list[Clip]] = []
    for size, same in itertools.groupby(
        sorted(clips, key=lambda clip: clip.size), key=lambda clip: clip.size
    ):
        together, remaining = min(batch_size, max(1, ENCODED_PIXELS // math.prod(size))), list(same)
        batches += [remaining[start : start + together] for start in range(0, len(remaining), together)]
    return batches


CACHED_ENCODER_SIZE = 50_000_000
"""Prompt embeddings are kept on disk where the text encoders have at least this many weights."""


def read_cached(file: Path, names: Sequence[str] = ()) -> dict[str, Tensor] | None:
    """The tensors of a file of the cache; None where there is none or, after a warning, where it cannot be used.

    Args:
        names: of the tensors that it must hold.
    """
    if not os.path.isfile(file):  # unlike `Path.is_file`, no error where the folder may not be looked into
        return None
    try:
        found = load_file(file)
        if found and set(names) <= found.keys():
            return found
        reason = "it holds other tensors"
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error)
    logger.warning("%s in the cache is damaged (%s): it is made again.", file, reason)
    return None


def write_cached(file: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a file of the cache; where that cannot be written, a warning says so once and work goes on without it."""
    try:
        with atomic_path(file) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:
        if file.parent not in _unwritable:
            _unwritable.add(file.parent)
            logger.warning("The cache %s cannot be written (%s): nothing is kept there.", file.parent, error)


_unwritable: set[Path] = set()


def text_encoder_hash(generator: VideoGenerator) -> str | None:
    """Fingerprint of the text encoders' weights; None where keeping their output would not pay."""
    generator.restore_text_encoder()
    components = getattr(generator.pipeline, "components", {})
    names = getattr(generator, "text_encoders", ("text_encoder",))
    encoders = {
        name: part
        for name, part in sorted(components.items())
        if name in names and isinstance(part, torch.nn.Module)
    }
    size = sum(weight.numel() for part in encoders.values() for weight in part.parameters())
    if not encoders or size < CACHED_ENCODER_SIZE:
        return None
    return " ".join(f"{name} {fingerprint(part)}" for name, part in encoders.items())


def encode_prompts_cached(
    generator: VideoGenerator, prompts: Sequence[str], cache_dir: Path | None = None, batch_size: int = 64
) -> Conditions:
    """Conditions of distinct prompts, each read from disk if the same text encoders have encoded it before.

    The processes of a launch, all of which must call this, share what is to be encoded.

    Args:
        cache_dir: where embeddings are kept, by text and text encoders; `default_cache_dir() / "prompts"` if
            None.
    """
    prompts = as_list(prompts)
    warn_of_lost_words(generator, prompts)
    cache_dir = cache_dir or default_cache_dir() / "prompts"
    encoder = text_encoder_hash(generator)
    if encoder is None:
        return encode_unique_prompts(generator, prompts, batch_size)[0]
    files = {
        prompt: cache_dir
        / f"{hashlib.sha256(f'{encoder} {generator.dtype} {prompt}'.encode()).hexdigest()}.safetensors"
        for prompt in prompts
    }
    known = {prompt: kept for prompt in prompts if (kept := read_cached(files[prompt])) is not None}

    def encode(batch: Sequence[str]) -> None:
        with torch.no_grad():
            encoded = generator.encode_prompts(list(batch))
        for row, prompt in enumerate(batch):
            known[prompt] = {
                name: value[row : row + 1].cpu().clone().contiguous() for name, value in encoded.items()
            }
            write_cached(files[prompt], known[prompt])

    def in_batches(texts: Sequence[str]) -> list[Sequence[str]]:
        return [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]

    work = SharedWork()
    missing = work.first(lambda: [prompt for prompt in prompts if prompt not in known])
    with SharedBar(len(missing), "Encoding prompts", "prompt", work, disable=len(missing) < 2) as bar:
        for _, batch in work.portions(in_batches(missing)):
            encode(batch)
            bar.add(len(batch))
        work.gather(None, bar.show)
        known |= {
            prompt: kept
            for prompt in missing
            if prompt not in known and (kept := read_cached(files[prompt])) is not None
        }
        for batch in in_batches([prompt for prompt in prompts if prompt not in known]):
            encode(batch)  # where no disk is shared
    return concatenate([known[prompt] for prompt in prompts])
