"""Demonstrations: a folder of videos with a prompt each.

The layout is the `videofolder` of Hugging Face datasets: `metadata.jsonl` next to the videos, one line a video,
`{"file_name": "0001.mp4", "prompt": "..."}`. Videos may have any size, duration and frame rate.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.output import InputError, atomic_path, write_jsonl
from generator.video import check_video, write_video

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Demonstration:
    """A video that shows what a prompt asks for.

    Attributes:
        video: its file.
        prompt: what it shows.
    """

    video: Path
    prompt: str


def read_demonstrations(folder: str | Path, skip_bad: bool = False) -> list[Demonstration]:
    """The demonstrations of a folder, in the order of its `metadata.jsonl`.

    The first frame of every video is decoded, so that a broken file is known before hours of training.

    Args:
        folder: holds `metadata.jsonl` and the videos it names.
        skip_bad: leave out missing and unreadable videos with a warning, instead of failing.

    Raises:
        InputError: no `metadata.jsonl`, a wrong line in it, no demonstration at all, or (without `skip_bad`)
            missing or unreadable videos, all of which are named.
    """
    folder = Path(folder)
    rows = _read_metadata(folder)
    demonstrations, bad = [], []
    for row in rows:
        video = folder / row["file_name"]
        try:
            check_video(video)
        except InputError as error:
            bad.append(str(error))
        else:
            demonstrations.append(Demonstration(video, row["prompt"]))
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


def _read_metadata(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"The data set {folder} {found}: name a folder with videos and a {METADATA}.")
    metadata = folder / METADATA
    if not metadata.is_file():
        raise InputError(
            f'{folder} holds no {METADATA}: write one with a line {{"file_name": "clip.mp4", "prompt": "…"}} a video.'
        )
    rows = []
    try:
        lines = metadata.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{metadata} is not UTF-8 text: save it as UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{metadata}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: not a JSON object ({error.msg}).") from error
        for key in ("file_name", "prompt"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
                raise InputError(f"{place}: expected an object with a non-empty text `{key}`.")
        rows.append(row)
    if not rows:
        raise InputError(f"{metadata} is empty: it must name at least one video.")
    return rows
