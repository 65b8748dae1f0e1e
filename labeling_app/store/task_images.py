"""Images that the videos of a task begin and end with: checked when they come, and shown as copies.

A copy is a png with nothing but pixels, so that no metadata of a photo, and nothing that hides in a file, reaches a
browser. It is kept beside the copies of videos, under the hash of the original's content.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from generator.first_frames import ImageFiles
from generator.output import InputError, atomic_path, check_storable
from generator.provenance import file_hash
from generator.video_files.decoding import VideoReader, opened_video
from generator.video_files.remote_files import RemoteFiles
from generator.video_files.still_images import BROKEN_IMAGE, IMAGE_SUFFIXES, image_frames
from labeling_app.store.new_tasks import VideoFile
from labeling_app.store.tables import Media

MAXIMUM_BYTES = 50_000_000
MAXIMUM_SIDE = 8192
SHOWN_SIDE = 1280
"""Longest side of the copy that annotators are shown."""
IMAGE_TYPE = "image/png"


def inspect_image(path: str | Path) -> VideoFile:
    """Reads the image, or the first frame of the video, with which videos begin.

    Raises:
        InputError: it does not exist, is no image, is broken, or larger than 50 MB or 8192 pixels a side.
    """
    path = Path(path)
    check_storable(str(path.resolve()), "The path of an image is not UTF-8")
    if not path.is_file():
        raise InputError(f"The image {path} does not exist: correct the path.")
    size = path.stat().st_size
    if path.suffix.lower() in IMAGE_SUFFIXES and size > MAXIMUM_BYTES:
        raise InputError(
            f"The image {path} has {size / 1e6:.0f} MB, more than {MAXIMUM_BYTES // 1_000_000}: make it smaller."
        )
    height, width = first_frame(path).shape[:2]
    return VideoFile(
        path=path.resolve(),
        sha256=file_hash(path),
        content_type=IMAGE_TYPE,
        fps=1.0,
        num_frames=1,
        width=width,
        height=height,
    )


def inspect_images(files: ImageFiles | None) -> tuple[VideoFile | None, VideoFile | None]:
    """The first and the last image of `files`, read; see `inspect_image`."""
    first, last = files or (None, None)
    return None if first is None else inspect_image(first), None if last is None else inspect_image(last)


def first_frame(path: Path) -> np.ndarray:
    """Pixels `[height, width, 3]` (uint8) of an image, or of the first frame of a video.

    Raises:
        InputError: it is neither, is broken, or has more than 8192 pixels a side.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        with opened_video(path) as reader:
            if not isinstance(reader, VideoReader):
                raise InputError(f"{path} is neither a video nor a png, jpg, webp or bmp image: convert it.")
            codec = reader.stream.codec_context
            _check_sides(path, codec.width, codec.height)  # before it is decoded
            frame = next(reader.raw_frames())[1]
            _check_sides(path, frame.width, frame.height)
            return reader.picture(frame)
    try:
        with Image.open(path) as image:
            sides = image.size
    except BROKEN_IMAGE:  # `image_frames` says what it is
        sides = (0, 0)
    _check_sides(path, *sides)
    return next(image_frames(path))[2]


def _check_sides(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAXIMUM_SIDE:
        raise InputError(
            f"The image {path} has {width}x{height} pixels, more than {MAXIMUM_SIDE} a side: make it smaller."
        )


def shown_image(uploads: Path, media: Media, remote: RemoteFiles) -> Path:
    """The copy of an image that annotators are shown, which is made where it is missing.

    Raises:
        InputError: the original cannot be read.
    """
    copy = uploads / "playable" / f"{media.sha256}.png"
    if not copy.is_file():
        picture = Image.fromarray(first_frame(remote.local(media)))
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        with atomic_path(copy) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            picture.save(temporary, format="PNG")
    return copy
