"""Demonstrations: a folder of videos with a prompt each.

The layout is the `videofolder` of Hugging Face datasets: `metadata.jsonl` next to the videos, one line a video,
`{"file_name": "0001.mp4", "prompt": "...", "repeats": 1}`, the last of which may be left out; `image` and `last_image`
name the images that a video begins and ends with. Without that file, every
video of the folder counts, and every image with a text; the prompt is the text of the file beside it: `0001.txt` for
`0001.mp4`. Names that begin with a dot do not count; linked folders do.
Videos may have any size, duration and frame rate.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.data.prompts import read_image_files
from generator.files.folders import visible_files
from generator.one_or_several import as_list
from generator.output import InputError, atomic_path, check_storable, read_jsonl, read_text, write_jsonl
from generator.seeds import Stream, example_seeds
from generator.video import IMAGE_SUFFIXES, check_video, write_video

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
ORIGINAL = "original_prompt"
"""Key of the prompt that a video had before it was captioned."""
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif")
_NAMED_AT_MOST = 20
_IMAGES = "images"
"""Key of a row that was read, for the files of its images."""


@dataclass(frozen=True)
class Demonstration:
    """A video that shows what a prompt asks for.

    Attributes:
        video: its file.
        prompt: what it shows.
        repeats: how often an epoch has it.
        images: files of the image that it begins with and of that with which it ends, where they are named.
        original: its prompt before `vidalign caption` wrote another, where there was one.
    """

    video: Path
    prompt: str
    repeats: int = 1
    images: tuple[str, str | None] | None = None
    original: str | None = None


def read_demonstrations(
    folder: str | Path, skip_bad: bool = False, require_prompts: bool = True
) -> list[Demonstration]:
    """The demonstrations of a folder, in the order of its `metadata.jsonl`, or else of the names of its videos.

    The first frame of every video is decoded, so that a broken file is known before hours of training.

    Args:
        folder: holds `metadata.jsonl` and the videos it names, or videos with a text file beside each.
        skip_bad: leave out missing and unreadable videos with a warning, instead of failing.
        require_prompts: every video needs a prompt; else one without has the empty prompt, and so has every video of
            the folder that `metadata.jsonl` does not name.

    Raises:
        InputError: no `metadata.jsonl` and no text files, a wrong line in it, no demonstration at all, or (without
            `skip_bad`) missing or unreadable videos, all of which are named.
    """
    folder = Path(folder)
    rows = _read_rows(folder, require_prompts)
    demonstrations, bad = [], []
    for row in rows:
        video = folder / row["file_name"]
        try:
            check_video(video)
        except InputError as error:
            bad.append(str(error))
        else:
            known = (row.get("repeats", 1), row.get(_IMAGES), row.get(ORIGINAL))
            demonstrations.append(Demonstration(video, row["prompt"], *known))
    if bad:
        listed = "".join(f"\n  {message}" for message in bad[:_NAMED_AT_MOST])
        listed += f"\n  … and {len(bad) - _NAMED_AT_MOST} more" if len(bad) > _NAMED_AT_MOST else ""
        if not skip_bad:
            raise InputError(
                f"{len(bad)} of {len(rows)} videos in {folder} cannot be used; mend them, remove their lines from "
                f"{METADATA}, or go on without them (skip_bad):{listed}"
            )
        logger.warning("%d of %d videos in %s are left out:%s", len(bad), len(rows), folder, listed)
    if not demonstrations:
        raise InputError(f"{folder} holds no usable demonstration: {METADATA} must name at least one video.")
    return demonstrations


def write_demonstrations(
    folder: str | Path,
    videos: Iterable[Tensor],
    prompts: Sequence[str],
    fps: float,
    extra: Sequence[dict[str, Any]] | None = None,
) -> list[Path]:
    """Writes a folder that `read_demonstrations` reads; the folder is complete or it is not there.

    Args:
        folder: must not exist, or be empty.
        videos: each `[3, frames, height, width]` in [-1, 1]; a tensor with a batch dimension, or a generator.
        prompts: one a video.
        fps: frames per second.
        extra: further keys for the line of each video in `metadata.jsonl`.

    Returns:
        The files of the videos, in order.

    Raises:
        InputError: the folder exists and is not empty.
        ValueError: the numbers of videos, prompts and extras differ.
    """
    prompts = as_list(prompts)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: name another folder for the demonstrations.")
    if extra is not None and len(extra) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(extra)} extras.")
    digits = max(4, len(str(len(prompts) - 1)))
    names = [f"{index:0{digits}d}.mp4" for index in range(len(prompts))]
    extras = extra if extra is not None else [{}] * len(prompts)
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for name, video in zip(names, videos, strict=True):
            write_video(temporary / name, video, fps)
        rows = [
            {"file_name": name, "prompt": prompt, **more}
            for name, prompt, more in zip(names, prompts, extras, strict=True)
        ]
        write_jsonl(temporary / METADATA, rows)
    return [folder / name for name in names]


def folder_rows(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of `metadata.jsonl`, then every other video of the folder with the text beside it as prompt, if any.

    Nothing is decoded; a prompt may be empty.

    Raises:
        InputError: no folder, no video and no `metadata.jsonl`, or a wrong line in it.
    """
    rows = _read_rows(Path(folder), require_prompts=False)
    return [{key: value for key, value in row.items() if key != _IMAGES} for row in rows]


def mix_captions(demonstrations: Sequence[Demonstration], share: float, seed: int) -> list[Demonstration]:
    """Demonstrations of which about `share` keep their caption, and the others have their original prompt.

    Which ones follows from the seed and the place of each; videos without an original prompt keep their caption.

    Args:
        share: in [0, 1]; 0.95 in the recipe of Sora's technical report.

    Raises:
        InputError: `share` is below 1, and no video has an original prompt.
    """
    if share >= 1:
        return list(demonstrations)
    if all(each.original is None for each in demonstrations):
        raise InputError(
            f"caption_mix is {share:g}, but no line has an `{ORIGINAL}`: run vidalign caption on videos with prompts, "
            "or leave caption_mix out."
        )
    mixed = []
    for place, each in enumerate(demonstrations):
        drawn = random.Random(example_seeds(seed, Stream.CAPTION_MIX, place)[0]).random()
        original = each.original if drawn >= share else None
        mixed.append(each if original is None else replace(each, prompt=original))
    return mixed


def _read_rows(folder: Path, require_prompts: bool) -> list[dict[str, Any]]:
    """File and prompt of every video, from `metadata.jsonl` or from the text files beside the videos."""
    videos = visible_files(folder, VIDEO_SUFFIXES, deep=True) if folder.is_dir() else []
    if require_prompts and folder.is_dir() and not (folder / METADATA).is_file():
        videos = sorted([*videos, *_captioned_images(folder, videos)])
    captioned = any(video.with_suffix(".txt").is_file() for video in videos)
    if (folder / METADATA).is_file() or not videos or (require_prompts and not captioned):
        rows = _read_metadata(folder, require_prompts)
        if require_prompts:
            return rows
        named = {(folder / row["file_name"]).resolve() for row in rows}
        videos = [video for video in videos if video.resolve() not in named]
    else:
        rows = []
    silent = []
    for video in videos:
        check_storable(str(video), f"The name of a video in {str(folder)!r} is not UTF-8")
        prompt = _caption(video.with_suffix(".txt"))
        if not prompt:
            silent.append(video.name)
        rows.append({"file_name": str(video.relative_to(folder)), "prompt": prompt})
    if silent and require_prompts:
        listed = ", ".join(silent[:_NAMED_AT_MOST])
        raise InputError(
            f"{len(silent)} of {len(videos)} videos in {folder} have no prompt ({listed}): write one into a text file "
            "of the same name, or remove the video."
        )
    return rows


def _captioned_images(folder: Path, videos: Sequence[Path]) -> list[Path]:
    """Images with a text beside them, except those beside a video of the same name, whose text it is."""
    taken = {video.with_suffix("") for video in videos}
    images = visible_files(folder, tuple(IMAGE_SUFFIXES), deep=True)
    return [
        image
        for image in images
        if image not in videos and image.with_suffix("") not in taken and image.with_suffix(".txt").is_file()
    ]


def _caption(file: Path) -> str:
    """The text of a file as one line; empty where there is no file."""
    # Other white space than that of ASCII belongs to the prompt, as in `metadata.jsonl`.
    return re.sub(r"[ \t-\r]+", " ", read_text(file)).strip() if file.is_file() else ""


def require_data_set(path: str | Path) -> None:
    """Raises `InputError` where there is no folder of demonstrations at `path`."""
    folder = Path(path)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"The data set {folder} {found}: name a folder with videos and a {METADATA}.")


def _read_metadata(folder: Path, require_prompts: bool) -> list[dict[str, Any]]:
    require_data_set(folder)
    metadata = folder / METADATA
    if not metadata.is_file():
        raise InputError(
            f'{folder} holds no {METADATA}: write one with a line {{"file_name": "clip.mp4", "prompt": "…"}} a video, '
            "or a text file with the prompt beside each video."
        )
    rows: list[dict[str, Any]] = []
    opened: set[str] = set()
    for place, row in read_jsonl(metadata):
        row[_IMAGES] = read_image_files(row, place, folder, opened) if require_prompts else None
        if not require_prompts:
            row["prompt"] = row.get("prompt") or ""
        for key in ("file_name", "prompt"):
            value = row.get(key)
            if not isinstance(value, str) or not (value.strip() or (key == "prompt" and not require_prompts)):
                raise InputError(f"{place}: expected an object with a non-empty text `{key}`.")
        repeats = row.get("repeats", 1)
        if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
            raise InputError(f"{place}: `repeats` is {repeats!r}, but must be a whole number of at least 1.")
        original = row.get(ORIGINAL)
        if (
            require_prompts
            and original is not None
            and (not isinstance(original, str) or not original.strip())
        ):
            raise InputError(
                f"{place}: `{ORIGINAL}` is {original!r}, but must be a text: correct it or leave it out."
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{metadata} is empty: it must name at least one video.")
    return rows
