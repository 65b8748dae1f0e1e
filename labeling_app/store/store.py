"""The labeling store: users, campaigns, tasks and append-only judgements in SQLite or PostgreSQL."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from generator.one_or_several import as_list
from generator.output import InputError, is_storable
from generator.video_files.remote_files import CACHE_BYTES, RemoteFiles
from labeling_app.store.campaign_rows import campaign_row, find_campaign
from labeling_app.store.computed import Computation, ComputedResults, Kept
from labeling_app.store.computed_rows import campaign_state, keep_result, kept_result
from labeling_app.store.database import database_url, is_new_file, open_database, remove_unused
from labeling_app.store.judgement_rows import JudgementRow, judgement_rows
from labeling_app.store.names import composed, is_name
from labeling_app.store.new_tasks import NewTask, add_task_rows, check_task
from labeling_app.store.passwords import checked_hash, verify_password
from labeling_app.store.people_tables import Invitation
from labeling_app.store.playable import keep_playable
from labeling_app.store.prepared import Direct, Prepared, direct
from labeling_app.store.tables import (
    AuditEvent,
    Campaign,
    LoginSession,
    Task,
    User,
)

T = TypeVar("T")
ROLES = ("annotator", "lead", "admin")
"""A lead sees and steers campaigns; an admin may also make leads and admins."""
IDS_AT_A_TIME = 500
SMALL_CAMPAIGN = 2000
"""Tasks and answers of a campaign whose results are made whenever they are asked for."""
_OF_USER = tuple(column.name for column in User.__table__.columns)
_USER_OF_SESSION = Prepared(
    select(*User.__table__.columns)
    .join(LoginSession, LoginSession.user_id == User.id)
    .where(
        LoginSession.token_hash == bindparam("token"),
        LoginSession.expires_at > bindparam("now"),
        User.state == "active",
    )
)


UPLOADS = "vidalign-uploads"
"""Folder in the working folder for files of a database that is none."""


class Store:
    """Opens the database, makes its tables if they are not there and brings an older schema up to date.

    Args:
        database: SQLAlchemy URL (`sqlite:///labels.db`, `postgresql://user@host/name`) or the path of an
            SQLite file.
        lease_seconds: how long an annotator may be silent before a task goes to somebody else.
        edit_seconds: how long after an answer the annotator may still change it.
        clock: seconds since the epoch.
        uploads: folder for videos that annotators send; by default beside an SQLite file (`labels.uploads`), else
            `vidalign-uploads` in the working folder.
        cache_bytes: bytes of files of other storage that are kept in `remote` in that folder; None keeps all.

    Raises:
        InputError: the URL is not one, its driver is not installed, or the database cannot be opened.
    """

    def __init__(
        self,
        database: str | Path,
        lease_seconds: float = 900.0,
        edit_seconds: float = 86400.0,
        clock: Callable[[], float] = time.time,
        uploads: str | Path | None = None,
        cache_bytes: int | None = CACHE_BYTES,
    ) -> None:
        self.url = database_url(database)
        self.lease_seconds = lease_seconds
        self.edit_seconds = edit_seconds
        self.clock = clock
        file = self.url.removeprefix("sqlite:///") if self.url.startswith("sqlite:///") else None
        self.uploads = Path(uploads or (Path(file).with_suffix(".uploads") if file else UPLOADS))
        self.remote = RemoteFiles(self.uploads / "remote", cache_bytes)
        self._computed = ComputedResults()
        self._is_new = is_new_file(self.url)
        self._engine = open_database(self.url)
        # Reading takes single statements, which need no transaction around them on PostgreSQL.
        alone = {} if self._engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._reading = self._engine.execution_options(reading=True, **alone)
        # SQLite makes a second writer sleep and try again; threads of one process wait here instead, in turn.
        self._turn = threading.Lock() if self._engine.dialect.name == "sqlite" else nullcontext()

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # A command that is refused leaves no new database behind.
        if error is not None and self._is_new:
            remove_unused(self.url)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; committed at the end of the block, rolled back if the block fails."""
        with self._turn, Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads and holds up nobody."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The transaction of `write` for statements about columns, prepared ones among them."""
        with self._turn, self._engine.begin() as connection:
            yield connection

    def single(self) -> AbstractContextManager[Direct]:
        """A connection for prepared statements that only read, each of which sees the newest rows."""
        return direct(self._engine)

    def record(self, user_name: str, action: str, **details: Any) -> None:
        """Adds an event to the audit table, which nothing deletes."""
        with self.write() as session:
            session.add(
                AuditEvent(created_at=self.clock(), user_name=user_name[:100], action=action, details=details)
            )

    def audit_events(self, limit: int = 1000) -> list[AuditEvent]:
        """The latest events, newest first."""
        with self.read() as session:
            return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)))

    # Users -----------------------------------------------------------------------------------------------

    def add_user(
        self, name: str, password: str | None = None, role: str = "annotator", simulated: bool = False
    ) -> User:
        """Adds a user; without a password nobody can log in by this name.

        Raises:
            InputError: the name is taken, empty or too long, the password too short, or the role unknown.
        """
        name = usable_name(name)
        if role not in ROLES:
            raise InputError(f"The role {role!r} is unknown: choose one of {', '.join(ROLES)}.")
        user = User(
            name=name,
            password_hash=checked_hash(password) if password is not None else "",
            role=role,
            simulated=simulated,
            created_at=self.clock(),
        )
        try:
            with self.write() as session:
                session.add(user)
        except IntegrityError as error:
            raise InputError(f"The user {name!r} exists already: choose another name.") from error
        return user

    def set_password(self, name: str, password: str) -> None:
        """Gives a user a new password and ends this user's sessions.

        Raises:
            InputError: there is no such user, the user is simulated, or the password is too short or long.
        """
        password_hash = checked_hash(password)
        with self.write() as session:
            user = require_person(session, name)
            user.password_hash = password_hash
            session.execute(delete(LoginSession).where(LoginSession.user_id == user.id))

    def set_role(self, name: str, role: str) -> None:
        """Makes a user an annotator, a lead or an admin.

        Raises:
            InputError: there is no such person, the role is unknown, or it would leave no admin.
        """
        if role not in ROLES:
            raise InputError(f"The role {role!r} is unknown: choose one of {', '.join(ROLES)}.")
        with self.write() as session:
            user = require_person(session, name)
            if role != "admin":
                require_another_admin(session, user)
            if ROLES.index(role) < ROLES.index(user.role):
                end_invitations(session, user, self.clock())
            user.role = role

    def users(self) -> list[User]:
        """All users in the order in which they came."""
        with self.read() as session:
            return list(session.scalars(select(User).order_by(User.id)))

    def user(self, name: str) -> User | None:
        """The user of this name."""
        with self.read() as session:
            return _find_user(session, name)

    def authenticate(self, name: str, password: str) -> User | None:
        """The active user of this name if the password is right."""
        user = self.user(name)
        right = verify_password(password, user.password_hash if user else "")
        return user if right and user and user.state == "active" else None

    def open_session(self, user: User, lifetime: float = 7 * 86400.0) -> str:
        """Logs a browser in; returns the secret for its cookie."""
        token = secrets.token_urlsafe(32)
        now = self.clock()
        with self.write() as session:
            session.execute(delete(LoginSession).where(LoginSession.expires_at <= now))
            session.add(LoginSession(token_hash=_hash(token), user_id=user.id, expires_at=now + lifetime))
        return token

    def session_user(self, token: str) -> User | None:
        """The user whose browser holds this secret."""
        with self.single() as connection:
            known = {"token": _hash(token), "now": self.clock()}
            row = _USER_OF_SESSION.first(connection, known)
        return User(**dict(zip(_OF_USER, row))) if row is not None else None

    def close_session(self, token: str) -> None:
        """Logs a browser out."""
        with self.write() as session:
            session.execute(delete(LoginSession).where(LoginSession.token_hash == _hash(token)))

    # Campaigns and tasks ---------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """All campaigns in the order in which they came."""
        with self.read() as session:
            return list(session.scalars(select(Campaign).order_by(Campaign.id)))

    def campaign(self, name: str) -> Campaign:
        """The campaign of this name.

        Raises:
            InputError: there is none.
        """
        with self.read() as session:
            campaign = find_campaign(session, name)
            names = list(session.scalars(select(Campaign.name).order_by(Campaign.id)))
        if campaign is None:
            known = ", ".join(names) if names else "none yet"
            raise InputError(
                f"There is no campaign {name!r} (there is: {known}): name one of these or import videos."
            )
        return campaign

    def add_tasks(
        self,
        campaign: str,
        tasks: Sequence[NewTask],
        overlap: int | None = None,
        dimensions: Sequence[str] | None = None,
        change: bool = False,
        copy: bool = True,
    ) -> int:
        """Adds tasks to a campaign, which is made if it is new; all or none. Returns how many were new.

        Args:
            overlap: annotators a task, for a new or empty campaign (default 1).
            dimensions: what is judged, for a new or empty campaign (default `overall`).
            change: gives both also to a campaign that has tasks, as long as nothing was answered.
            copy: makes the copies for browsers now; else each is made when it is first shown.

        Raises:
            InputError: a task has fewer than 2 or more than 9 videos, the same file twice or an empty prompt;
                `overlap` or `dimensions` is illegal or differs from what the campaign has; a file has changed
                since it was imported.
        """
        dimensions = None if dimensions is None else as_list(dimensions)
        for task in tasks:
            check_task(task.prompt, [video.path for video in task.videos])
        if copy:
            keep_playable(self.uploads, (video for task in tasks for video in task.videos))
        with self.write() as session:
            row = campaign_row(session, campaign, overlap, dimensions, self.clock(), change)
            return add_task_rows(session, row, tasks, self.clock())

    def tasks(self, campaign: str, kind: str = "normal") -> list[Task]:
        """The tasks of a campaign (normal ones, gold items or repeats) in the order in which they came, with their
        videos."""
        row = self.campaign(campaign)
        query = select(Task).where(Task.campaign_id == row.id, Task.kind == kind).order_by(Task.id)
        with self.read() as session:
            return list(session.scalars(query))

    def tasks_of(self, numbers: Collection[int]) -> dict[int, Task]:
        """The tasks of these ids, with their videos."""
        found: dict[int, Task] = {}
        ids = sorted(numbers)
        with self.read() as session:
            for first in range(0, len(ids), IDS_AT_A_TIME):
                some = select(Task).where(Task.id.in_(ids[first : first + IDS_AT_A_TIME]))
                found |= {task.id: task for task in session.scalars(some)}
        return found

    def computed(self, name: str, campaign: str, how: Computation[T], patience: float | None = None) -> T:
        """A result over a whole campaign: of now, or, in a large one, of a moment ago (`labeling_app.store.computed`).

        Args:
            name: of the result.
            patience: seconds to wait for a result of a large campaign that is made for the first time; None waits.

        Raises:
            InputError: there is no such campaign.
            StillComputing: it is being made for the first time.
        """
        row = self.campaign(campaign)
        with self.read() as session:
            state = campaign_state(session, row)
        removed = state.removed_people
        if state.size <= SMALL_CAMPAIGN:
            return how.make(lambda share: None)

        def save(revision: str, text: str) -> None:
            with self.write() as session:
                keep_result(session, row.id, name, revision, removed, text, self.clock())

        def load() -> Kept | None:
            with self.read() as session:
                return kept_result(session, row.id, name, removed, self.clock())

        # SQLite gives the id of a deleted campaign to a new one; nobody sees the name of a person who was removed.
        key = (name, row.id, row.created_at, removed)
        return self._computed.get(key, state.revision, how, patience, load, save)

    def is_large(self, campaign: Campaign) -> bool:
        """Returns whether a campaign has so many tasks and answers that results over all of them take long."""
        with self.read() as session:
            return campaign_state(session, campaign).size > SMALL_CAMPAIGN

    def judgements(
        self,
        campaign: str,
        all_versions: bool = False,
        include_skips: bool = False,
        kind: str = "normal",
    ) -> list[JudgementRow]:
        """Judgements of a campaign's tasks of one kind, by task, annotator, version, dimension; the newest version of
        each answer by default.

        Raises:
            InputError: there is no such campaign.
        """
        row = self.campaign(campaign)
        with self.read() as session:
            return judgement_rows(session, row.id, all_versions, include_skips, kind)


def _find_user(session: Session, name: str) -> User | None:
    if not is_storable(name):
        return None
    found = session.scalar(select(User).where(User.name == composed(name)))
    return found or session.scalar(select(User).where(User.name == name))


def usable_name(name: str, thing: str = "user") -> str:
    """The name in the form in which it is stored.

    Raises:
        InputError: it is empty, too long or not printable.
    """
    name = composed(name) if is_storable(name) else name
    if not is_name(name, 100):
        raise InputError(
            f"The {thing} name {name[:100]!r} is not usable: give 1 to 100 printable characters."
        )
    return name


def require_person(session: Session, name: str) -> User:
    """The person of this name who was not removed.

    Raises:
        InputError: there is none.
    """
    user = _find_user(session, name)
    if user is None or user.simulated or user.imported or user.state == "removed":
        raise InputError(f"There is no person {name!r} among the users: list them or add one.")
    return user


def end_invitations(session: Session, user: User, now: float) -> None:
    """Revokes the invitations of somebody who may not invite any more."""
    made = (Invitation.user_id == user.id, Invitation.revoked_at.is_(None))
    session.execute(update(Invitation).where(*made).values(revoked_at=now))


def require_another_admin(session: Session, user: User) -> None:
    """Checks that an active admin is left without this user.

    Raises:
        InputError: there is none.
    """
    # Locked, so that two admins cannot take this from each other at the same moment.
    active = select(User.id).where(User.role == "admin", User.state == "active").order_by(User.id)
    if list(session.scalars(active.with_for_update())) == [user.id]:
        raise InputError(f"{user.name!r} is the only admin: make another one first.")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
