"""Videos in the trackers that a training reports to: TensorBoard, W&B, trackio."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from generator.video import read_video
from generator.video_files.animation import animated_gif

logger = logging.getLogger(__name__)

STEP = "train/global_step"
"""Metric by which `transformers` orders what W&B and trackio are told."""


def show_video(callbacks: Iterable[TrainerCallback], tag: str, path: Path, caption: str, step: int) -> None:
    """Shows a video file in each tracker among a trainer's callbacks; to be called in its first process.

    TensorBoard is given an animated GIF as an image, since `SummaryWriter.add_video` writes nothing without an old
    moviepy; W&B and trackio are given the file. A tracker that fails is named in a warning, once.

    Args:
        tag: name under which videos of different steps belong together.
        caption: the prompt, say.
        step: optimiser step.
    """
    for callback in callbacks:
        try:
            _show(callback, tag, path, caption, step)
        except Exception as error:  # whatever troubles a tracker, a network say, training goes on
            name = type(callback).__name__
            if name not in _failed:
                _failed.add(name)
                logger.warning("%s does not show %s (%s): training goes on.", name, path, error)


_failed: set[str] = set()


def _show(callback: TrainerCallback, tag: str, path: Path, caption: str, step: int) -> None:
    # Private names, as `transformers` offers nothing for media.
    if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
        _show_in_tensorboard(callback.tb_writer, tag, path, step)
    elif isinstance(callback, WandbCallback) and callback._wandb is not None:
        video = callback._wandb.Video(str(path), caption=caption, format="mp4")
        callback._wandb.log({tag: video, STEP: step})
    elif isinstance(callback, TrackioCallback):
        callback._trackio.log({tag: callback._trackio.Video(str(path), caption=caption), STEP: step})


def _show_in_tensorboard(writer: Any, tag: str, path: Path, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    content, height, width = animated_gif(*read_video(path))
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    writer.flush()
