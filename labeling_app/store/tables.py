"""Tables of the labeling store.

Judgements are append-only: a changed answer is a new row with the next version. Times are UTC and stored as
seconds since the epoch, so that they compare alike on every database.
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

IMPORTED = "imported"
"""Role of external annotators, whose judgements came from a file (`labeling_app.files.foreign_preferences`)."""


def new_token() -> str:
    """Random characters that nobody guesses and that stand in a URL as they are."""
    return secrets.token_urlsafe(16)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {list[int]: JSON, list[str]: JSON, dict[str, Any]: JSON}


class User(Base):
    """An annotator, lead or admin; a simulated annotator; or an external one whose judgements were imported.

    Attributes:
        password_hash: scrypt hash with its own salt; empty means that nobody can log in by this name.
        simulated: a program that draws its answers from a score (`labeling_app.simulate`).
        state: `active`; `inactive`, who cannot log in and gets no tasks; or `removed`, whose name is a pseudonym.
        language: of the pages; empty where the browser decides.
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    password_hash: Mapped[str] = mapped_column(String(300), default="")
    role: Mapped[str] = mapped_column(String(20), default="annotator")
    simulated: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(10), default="active", server_default="active")
    language: Mapped[str] = mapped_column(String(10), default="", server_default="")
    created_at: Mapped[float]

    @property
    def imported(self) -> bool:
        """True where this is an external annotator, who never logs in."""
        return self.role == IMPORTED


class LoginSession(Base):
    """A browser that is logged in; only the hash of its cookie is kept."""

    __tablename__ = "login_sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    expires_at: Mapped[float]
    user: Mapped[User] = relationship(lazy="joined")


class Project(Base):
    """Campaigns that belong together."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[float]


class Campaign(Base):
    """Tasks that are judged under one set of rules.

    Attributes:
        overlap: how many different annotators judge each task; never more.
        dimensions: what is judged, in the order in which it is asked.
        gold_share: share of an annotator's tasks whose answer is known (hidden gold items).
        repeat_share: share of an annotator's tasks that this person has ranked before, in another order.
        daily_cap: answers a person may give in 24 hours; 0 is no limit.
        quiz_size: gold items that a person ranks first, to qualify; 0 is no quiz.
        quiz_pass: share of their pairs that must be right.
        tags: reasons that annotators may give for each video (`labeling_app.store.tags`).
        gold_feedback: after a gold item the annotator sees the known answer.
        state: `open`; `paused` or `closed`, in which no tasks are given out (`labeling_app.campaigns.lifecycle`).
    """

    __tablename__ = "campaigns"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id", name="campaigns_project"))
    overlap: Mapped[int]
    dimensions: Mapped[list[str]]
    gold_share: Mapped[float] = mapped_column(default=0.0, server_default="0")
    repeat_share: Mapped[float] = mapped_column(default=0.0, server_default="0")
    daily_cap: Mapped[int] = mapped_column(default=0, server_default="0")
    quiz_size: Mapped[int] = mapped_column(default=0, server_default="0")
    quiz_pass: Mapped[float] = mapped_column(default=0.7, server_default="0.7")
    tags: Mapped[list[str]] = mapped_column(JSON, default=list, server_default="[]")
    gold_feedback: Mapped[bool] = mapped_column(default=False, server_default=false())
    state: Mapped[str] = mapped_column(String(10), default="open", server_default="open")
    created_at: Mapped[float]
    project: Mapped[Project | None] = relationship(lazy="joined")


class Guidelines(Base):
    """One version of what annotators of a campaign are asked to go by; versions are only added."""

    __tablename__ = "guidelines"
    __table_args__ = (UniqueConstraint("campaign_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    version: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]


class GuidelineVideo(Base):
    """A video that some version of a campaign's guidelines shows as an example."""

    __tablename__ = "guideline_videos"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), primary_key=True, index=True)


class Acknowledgement(Base):
    """The confirmation of a person to have read a version of a campaign's guidelines."""

    __tablename__ = "acknowledgements"
    __table_args__ = (UniqueConstraint("campaign_id", "user_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    version: Mapped[int]
    created_at: Mapped[float]


class Media(Base):
    """A video file, or the image with which videos begin or end.

    Its id is random, so that it tells nothing about the file.

    Attributes:
        path: absolute path, or the URL of a file elsewhere (`generator.video_files.remote_files`).
        remote_version: of a file elsewhere, what its storage says of the version that was imported.
    """

    __tablename__ = "media"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    path: Mapped[str] = mapped_column(String(4096), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    content_type: Mapped[str] = mapped_column(String(50))
    fps: Mapped[float]
    num_frames: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    remote_version: Mapped[str] = mapped_column(String(200), default="", server_default="")


class Task(Base):
    """A prompt and the 2 to 9 videos that are ranked for it.

    Attributes:
        fingerprint: hash of the prompt and of the videos' contents; the same task is imported once.
        kind: `normal`; `gold`, whose answer is known and which every annotator may get; or `repeat`, a copy of
            a task for the one annotator who has ranked it before.
        completed: how many annotators have judged it (skips do not count).
        filled: a normal task that as many have judged as the campaign's overlap asks for.
        gold_ranks: the known ranks of a gold item for each dimension, in the task's order.
        copy_of: the task that a repeat repeats, or that a gold item was made from.
        image, last_image: what all videos begin and end with, where that is given.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("campaign_id", "fingerprint"),
        Index("ix_tasks_queue", "campaign_id", "kind", "filled", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    prompt: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(10), default="normal", server_default="normal")
    completed: Mapped[int] = mapped_column(default=0)
    filled: Mapped[bool] = mapped_column(default=False, server_default=false())
    gold_ranks: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    copy_of: Mapped[int | None] = mapped_column(ForeignKey("tasks.id", name="tasks_copy_of"), index=True)
    image_id: Mapped[str | None] = mapped_column(ForeignKey("media.id", name="tasks_image_id"), index=True)
    last_image_id: Mapped[str | None] = mapped_column(
        ForeignKey("media.id", name="tasks_last_image_id"), index=True
    )
    created_at: Mapped[float]
    campaign: Mapped[Campaign] = relationship(lazy="joined")
    videos: Mapped[list[TaskVideo]] = relationship(order_by="TaskVideo.position", lazy="selectin")
    image: Mapped[Media | None] = relationship(foreign_keys=[image_id], lazy="selectin")
    last_image: Mapped[Media | None] = relationship(foreign_keys=[last_image_id], lazy="selectin")

    @property
    def images(self) -> list[Media]:
        """The images that its videos begin and end with, as far as there are any."""
        return [each for each in (self.image, self.last_image) if each is not None]


class TaskVideo(Base):
    """The video at `position` (from 0) in the task's own order, in which ranks are stored.

    Attributes:
        model: name of the model that made it, where models are compared; never shown to annotators.
    """

    __tablename__ = "task_videos"

    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), index=True)
    model: Mapped[str | None] = mapped_column(String(200))
    media: Mapped[Media] = relationship(lazy="joined")


class TaskMetadata(Base):
    """A value that the imported file names for a task or for one of its videos; leads find tasks by it."""

    __tablename__ = "task_metadata"
    __table_args__ = (Index("ix_task_metadata_value", "name", "value"),)

    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(String(200), primary_key=True)


class Assignment(Base):
    """A task in the hands of an annotator.

    Attributes:
        token: random name by which the browser knows it. No other database has the same, so nothing that a browser
            keeps of one is taken for another's.
        permutation: `permutation[i]` is the task's position of the video shown at place i.
        state: open, done or skipped. An open one holds its place until `expires_at`.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        Index("ix_assignments_user", "user_id", "state"),
        Index("ix_assignments_open", "state", "task_id", "expires_at"),
        Index("ix_assignments_token", "token", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    token: Mapped[str] = mapped_column(String(32), default=new_token, server_default="")
    permutation: Mapped[list[int]]
    state: Mapped[str] = mapped_column(String(10), default="open")
    assigned_at: Mapped[float]
    expires_at: Mapped[float]
    task: Mapped[Task] = relationship(lazy="joined")


class Judgement(Base):
    """One version of one annotator's answer about one dimension of a task.

    Attributes:
        ranks: in the task's order, 1 is best, equal ranks are ties; None where the task was skipped.
        seconds: how long the annotator worked on the task.
        flag: why a lead should look at the task; empty for most. A flagged answer counts like any other.
        remark_videos: the videos that a remark (`flag`, `comment` or `skip_reason`) is about, by their positions in
            the task's order; a remark that is not in it is about the whole task.
        tags: reasons given for videos, and places of them (`labeling_app.store.tags`), with videos by their positions
            in the task's order; None where the annotator was not asked for any.
        guidelines_version: of the guidelines that held when it was given; 0 where there were none.
    """

    __tablename__ = "judgements"
    __table_args__ = (UniqueConstraint("task_id", "user_id", "dimension", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    dimension: Mapped[str] = mapped_column(String(50))
    version: Mapped[int]
    ranks: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    seconds: Mapped[float]
    comment: Mapped[str] = mapped_column(Text, default="")
    skip_reason: Mapped[str] = mapped_column(Text, default="")
    flag: Mapped[str] = mapped_column(String(200), default="", server_default="")
    remark_videos: Mapped[dict[str, list[int]] | None] = mapped_column(JSON(none_as_null=True))
    tags: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    guidelines_version: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[float]
    task: Mapped[Task] = relationship(lazy="joined")
    user: Mapped[User] = relationship(lazy="joined")


class Adjudication(Base):
    """A lead's decision where annotators disagree; the newest of a task and dimension holds.

    Attributes:
        ranks: in the task's order, 1 is best, equal ranks are ties.
        tags: as those of a judgement.
    """

    __tablename__ = "adjudications"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    dimension: Mapped[str] = mapped_column(String(50))
    ranks: Mapped[list[int]]
    tags: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    comment: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[float]
    user: Mapped[User] = relationship(lazy="joined")


class DemonstrationPrompt(Base):
    """A prompt that annotators are asked to answer with a video.

    Attributes:
        fingerprint: hash of the prompt; a campaign has each prompt once.
        wanted: how many demonstrations of it are asked for.
        image, last_image: what the video shall begin and end with, where that is given.
    """

    __tablename__ = "demonstration_prompts"
    __table_args__ = (UniqueConstraint("campaign_id", "fingerprint"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    prompt: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64))
    wanted: Mapped[int]
    image_id: Mapped[str | None] = mapped_column(
        ForeignKey("media.id", name="demonstration_prompts_image_id"), index=True
    )
    last_image_id: Mapped[str | None] = mapped_column(
        ForeignKey("media.id", name="demonstration_prompts_last_image_id"), index=True
    )
    created_at: Mapped[float]
    campaign: Mapped[Campaign] = relationship(lazy="joined")
    image: Mapped[Media | None] = relationship(foreign_keys=[image_id], lazy="selectin")
    last_image: Mapped[Media | None] = relationship(foreign_keys=[last_image_id], lazy="selectin")

    @property
    def images(self) -> list[Media]:
        """The images that its videos begin and end with, as far as there are any."""
        return [each for each in (self.image, self.last_image) if each is not None]


class LibraryVideo(Base):
    """A video that annotators of a campaign may choose as a demonstration."""

    __tablename__ = "library_videos"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), primary_key=True)
    media: Mapped[Media] = relationship(lazy="joined")


class Upload(Base):
    """A video that somebody sent: checked and written anew, so that nothing of the sent bytes is kept."""

    __tablename__ = "uploads"

    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[float]
    media: Mapped[Media] = relationship(lazy="joined")


class Demonstration(Base):
    """A video with which an annotator answered a prompt.

    Attributes:
        source: `upload` or `library`.
        state: `given`, or what a lead made of it: `accepted` or `rejected`.
    """

    __tablename__ = "demonstrations"
    __table_args__ = (UniqueConstraint("prompt_id", "user_id"), UniqueConstraint("prompt_id", "media_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("demonstration_prompts.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), index=True)
    source: Mapped[str] = mapped_column(String(10))
    comment: Mapped[str] = mapped_column(Text, default="")
    state: Mapped[str] = mapped_column(String(10), default="given")
    created_at: Mapped[float]
    prompt: Mapped[DemonstrationPrompt] = relationship(lazy="joined")
    user: Mapped[User] = relationship(lazy="joined")
    media: Mapped[Media] = relationship(lazy="joined")


class ComputedResult(Base):
    """A result over a whole campaign, kept for the next start of the server (`labeling_app.store.computed`).

    Attributes:
        revision: state of the data that it was made of.
        removed_people: how many people were removed then; with another number it is not shown, as it may name one.
    """

    __tablename__ = "computed_results"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    revision: Mapped[str] = mapped_column(String(64))
    removed_people: Mapped[int]
    value: Mapped[str] = mapped_column(Text)
    made_at: Mapped[float]


class AuditEvent(Base):
    """Something that somebody did; written once. Only the name of a person who is removed becomes a pseudonym."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    user_name: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(50))
    details: Mapped[dict[str, Any]]
