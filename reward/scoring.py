"""Scores of video files: each is read and judged once, by one of the processes of a launch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.data.latent_cache import default_cache_dir
from generator.first_frames import read_images
from generator.output import InputError
from generator.passwords import without_passwords
from generator.training.progress import SharedBar
from generator.training.shared_work import SharedWork, kept_results
from reward.models.base import RewardModel, score_with_images

BATCH_BYTES = 2**28
"""Most memory of the videos that are judged together, unless one takes more."""

VideoKey = tuple[str, Path]
"""A prompt and a file that is judged for it."""
VideoScores = dict[VideoKey, dict[str, float]]


def score_videos(
    reward: RewardModel,
    keys: Sequence[VideoKey],
    batch_size: int = 16,
    progress: bool = True,
    work: SharedWork | None = None,
    source: str | None = None,
    images: Mapping[VideoKey, str] | None = None,
) -> VideoScores:
    """Scores of each distinct prompt and file, known to all processes of `work`.

    At most `batch_size` videos are judged at a time, the same together whatever the number of processes. What is judged
    is kept on disk until all are, for the next run.

    Args:
        source: how the reward model was named, by which what was kept is known; its own name by default.
        images: the images that videos begin with, for rewards that look at these.

    Raises:
        InputError: a score is not finite, or a file is no video.
    """
    work = SharedWork(0, 1) if work is None else work
    distinct = list(dict.fromkeys(keys))
    portions = [distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size)]
    shown = dict(images or {})
    begun = [("", Path(shown[key])) for key in distinct if key in shown]
    folder = folder_of_unfinished("scores", source or reward.name, [batch_size, *distinct, *begun])
    with SharedBar(len(distinct), "Scoring videos", "video", work, disable=not progress) as bar:
        found = kept_results(
            work,
            portions,
            lambda portion: _score(reward, portion, shown),
            folder,
            bar.show,
            lambda portion: bar.add(len(portion)),
        )
    return {
        key: scores
        for portion, values in zip(portions, found, strict=True)
        for key, scores in zip(portion, values)
    }


def folder_of_unfinished(what: str, source: str, inputs: Sequence[Any]) -> Path:
    """The folder in the cache that keeps what was found so far of a work, which another reward or input does not share.

    Args:
        what: kind of results.
        source: the reward model as it was named; of a folder, the states of its files count too.
        inputs: what is judged; of files (`(prompt, path)`), their states count too.
    """
    content = [what, without_passwords(source), *map(_state, source.split(","))]
    content += [[each[0], _state(each[1])] if isinstance(each, tuple) else each for each in inputs]
    return default_cache_dir() / "unfinished" / hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _state(path: str | Path) -> Any:
    """Path, size and time of a file, or of the files of a folder; the name alone where there is none."""
    place = Path(path)
    try:
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        states = [(str(each.resolve()), each.stat()) for each in files]
    except OSError:
        return str(path)
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def _score(
    reward: RewardModel, keys: Sequence[VideoKey], images: Mapping[VideoKey, str]
) -> list[dict[str, float]]:
    """Scores of some videos, those of one size and frame rate that follow each other judged together."""
    scores: list[dict[str, float]] = []
    for same, rate, videos in _of_one_size(reward, keys, images):
        reward.set_frame_rate(rate)
        files = [images[key] for key in same if key in images]
        begins = read_images(files, *videos[0].shape[2:]) if files else None
        found = score_with_images(reward, torch.stack(videos), [prompt for prompt, _ in same], begins)
        for row, (_, path) in enumerate(same):
            scores.append({name: float(value[row]) for name, value in found.items()})
            wrong = [name for name, value in scores[-1].items() if not math.isfinite(value)]
            if wrong:
                raise InputError(
                    f"The reward {reward.name!r} gave {path} the {wrong[0]} score {scores[-1][wrong[0]]}: it must give "
                    "every video a finite number."
                )
    return scores


def _of_one_size(
    reward: RewardModel, keys: Sequence[VideoKey], images: Mapping[VideoKey, str]
) -> Iterator[tuple[list[VideoKey], float, list[Tensor]]]:
    same: list[VideoKey] = []
    videos: list[Tensor] = []
    rate = 0.0
    for key in keys:
        video, fps = reward.read_video_and_rate(key[1])
        full = sum(each.nbytes for each in videos) + video.nbytes > BATCH_BYTES
        other = bool(same) and (same[0] in images) != (key in images)
        if videos and (full or other or videos[0].shape != video.shape or fps != rate):
            yield same, rate, videos
            same, videos = [], []
        rate = fps
        same.append(key)
        videos.append(video)
    if videos:
        yield same, rate, videos
