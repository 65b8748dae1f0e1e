"""Tables of the labeling store.

Judgements are append-only: a changed answer is a new row with the next version. Times are UTC and stored as
seconds since the epoch, so that they compare alike on every database.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {list[int]: JSON, list[str]: JSON, dict[str, Any]: JSON}


class User(Base):
    """An annotator or an administrator.

    Attributes:
        password_hash: scrypt hash with its own salt; empty means that nobody can log in by this name.
        simulated: a program that draws its answers from a score (`labeling_app.simulate`).
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    password_hash: Mapped[str] = mapped_column(String(300), default="")
    role: Mapped[str] = mapped_column(String(20), default="annotator")
    simulated: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[float]


class LoginSession(Base):
    """A browser that is logged in; only the hash of its cookie is kept."""

    __tablename__ = "login_sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    expires_at: Mapped[float]
    user: Mapped[User] = relationship(lazy="joined")


class Campaign(Base):
    """Tasks that are judged under one set of rules.

    Attributes:
        overlap: how many different annotators judge each task; never more.
        dimensions: what is judged, in the order in which it is asked.
    """

    __tablename__ = "campaigns"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    overlap: Mapped[int]
    dimensions: Mapped[list[str]]
    created_at: Mapped[float]


class Media(Base):
    """A video file. Its id is random, so that it tells nothing about the file."""

    __tablename__ = "media"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    path: Mapped[str] = mapped_column(String(4096), unique=True)
    sha256: Mapped[str] = mapped_column(String(64))
    content_type: Mapped[str] = mapped_column(String(50))
    fps: Mapped[float]
    num_frames: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]


class Task(Base):
    """A prompt and the 2 to 9 videos that are ranked for it.

    Attributes:
        fingerprint: hash of the prompt and of the videos' contents; the same task is imported once.
        completed: how many annotators have judged it (skips do not count).
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("campaign_id", "fingerprint"),
        Index("ix_tasks_open", "campaign_id", "completed", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    prompt: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64))
    completed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    campaign: Mapped[Campaign] = relationship(lazy="joined")
    videos: Mapped[list[TaskVideo]] = relationship(order_by="TaskVideo.position", lazy="selectin")


class TaskVideo(Base):
    """The video at `position` (from 0) in the task's own order, in which ranks are stored."""

    __tablename__ = "task_videos"

    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("media.id"), index=True)
    media: Mapped[Media] = relationship(lazy="joined")


class Assignment(Base):
    """A task in the hands of an annotator.

    Attributes:
        permutation: `permutation[i]` is the task's position of the video shown at place i.
        state: open, done or skipped. An open one holds its place until `expires_at`.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        Index("ix_assignments_user", "user_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
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
    created_at: Mapped[float]
    task: Mapped[Task] = relationship(lazy="joined")
    user: Mapped[User] = relationship(lazy="joined")


class AuditEvent(Base):
    """Something that somebody did; written once and never changed."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    user_name: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(50))
    details: Mapped[dict[str, Any]]
