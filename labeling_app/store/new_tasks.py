"""Tasks and videos that are not yet in the store, and their way into its tables."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from generator.files.folders import file_identity
from generator.one_or_several import as_list
from generator.output import InputError, is_storable
from labeling_app.store.tables import Campaign, Media, Task, TaskMetadata, TaskVideo

MINIMUM_VIDEOS, MAXIMUM_VIDEOS = 2, 9


@dataclass(frozen=True)
class VideoFile:
    """A video that was read to its end, or an image, which has one frame.

    Attributes:
        path: absolute path.
        sha256: hash of the file's bytes.
        content_type: what the browser is told, for example `video/mp4`.
        fps: frames per second; of a film of variable rate, those of its fastest parts.
        num_frames: frames in the file.
        width, height: as it is shown: upright, with square pixels.
        playable: every browser plays the file as it is; else a copy is shown (`labeling_app.store.playable`).
        url: of a file elsewhere, of which `path` is a copy; else empty.
        remote_version: what its storage says of its version (`generator.video_files.remote_files`).
    """

    path: Path
    sha256: str
    content_type: str
    fps: float
    num_frames: int
    width: int
    height: int
    playable: bool = True
    url: str = ""
    remote_version: str = ""


@dataclass(frozen=True)
class NewTask:
    """A prompt and its 2 to 9 videos, not yet in the store, and what they begin and end with, if that is given.

    Attributes:
        models: the model of each video, where models are compared.
        metadata: names and values by which leads find the task.
    """

    prompt: str
    videos: tuple[VideoFile, ...]
    image: VideoFile | None = None
    last_image: VideoFile | None = None
    models: tuple[str, ...] | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the prompt and the contents of videos, in whatever order they come, of images and of models."""
        parts = [self.prompt, *sorted(video.sha256 for video in self.videos)]
        images = (self.image, self.last_image)
        if any(images):
            parts += ["images", *("" if each is None else each.sha256 for each in images)]
        if self.models is not None:
            made = sorted(zip(self.models, (video.sha256 for video in self.videos), strict=True))
            parts += ["models", *(part for each in made for part in each)]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def check_task(prompt: str, videos: Sequence[Path]) -> None:
    """Raises `InputError` unless there is a prompt and 2 to 9 different videos."""
    videos = as_list(videos)
    shown = prompt if len(prompt) <= 60 else prompt[:57] + "…"
    if not is_storable(prompt):
        raise InputError(f"The prompt {shown!r} holds a NUL or half a character: write it as plain UTF-8.")
    if not prompt.strip():
        raise InputError("A task has an empty prompt: every task needs the text that its videos answer.")
    if not MINIMUM_VIDEOS <= len(videos) <= MAXIMUM_VIDEOS:
        raise InputError(
            f"The prompt {shown!r} has {len(videos)} video(s): a task needs {MINIMUM_VIDEOS} to "
            f"{MAXIMUM_VIDEOS}; split larger sets with the key `group`."
        )
    if len({file_identity(video) for video in videos}) < len(videos):
        raise InputError(f"The prompt {shown!r} names the same video twice: name each video once.")


def add_task_rows(session: Session, campaign: Campaign, tasks: Sequence[NewTask], now: float) -> int:
    """Adds the tasks that the campaign does not have yet; returns how many."""
    known = set(session.scalars(select(Task.fingerprint).where(Task.campaign_id == campaign.id)))
    added = 0
    for task in tasks:
        media = [media_row(session, video) for video in task.videos]
        if task.fingerprint in known:
            continue
        known.add(task.fingerprint)
        new = Task(
            campaign_id=campaign.id,
            prompt=task.prompt,
            fingerprint=task.fingerprint,
            created_at=now,
            image_id=media_id(session, task.image),
            last_image_id=media_id(session, task.last_image),
        )
        models = task.models or (None,) * len(media)
        new.videos = [
            TaskVideo(position=i, media_id=m.id, model=model)
            for i, (m, model) in enumerate(zip(media, models, strict=True))
        ]
        session.add(new)
        session.flush()
        session.add_all(
            [TaskMetadata(task_id=new.id, name=n, value=v) for n, v in dict.fromkeys(task.metadata)]
        )
        added += 1
    return added


def media_id(session: Session, image: VideoFile | None) -> str | None:
    """Id of the row of an image; None where there is none."""
    return None if image is None else media_row(session, image).id


def media_row(session: Session, video: VideoFile) -> Media:
    path = video.url or str(video.path.resolve())
    row = session.scalar(select(Media).where(Media.path == path))
    if row is None:
        row = Media(
            id=secrets.token_urlsafe(16),
            path=path,
            sha256=video.sha256,
            content_type=video.content_type,
            fps=video.fps,
            num_frames=video.num_frames,
            width=video.width,
            height=video.height,
            remote_version=video.remote_version,
        )
        session.add(row)
        session.flush()
    elif row.sha256 != video.sha256:
        raise InputError(
            f"{path} has changed since it was imported, and earlier judgements are about the old content: "
            "put the new videos in another folder and import that."
        )
    elif video.url:
        row.remote_version = video.remote_version
    return row
