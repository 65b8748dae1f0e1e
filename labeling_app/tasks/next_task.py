"""Giving out tasks and keeping them.

Each task is judged by at most `campaign.overlap` different annotators. A task that is given out holds a place
until it is answered, skipped or its lease runs out. A skipped task frees its place, but never returns to the
same person.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, bindparam, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import false

from labeling_app.people.groups import may_work_on
from labeling_app.store.prepared import Prepared
from labeling_app.store.store import Store
from labeling_app.store.tables import (
    Acknowledgement,
    Assignment,
    Campaign,
    DemonstrationPrompt,
    Guidelines,
    GuidelineVideo,
    LibraryVideo,
    Media,
    Task,
    TaskVideo,
    Upload,
    User,
)
from labeling_app.tasks.guideline_reading import GuidelinesUnread
from labeling_app.tasks.hidden_tasks import choose_task, why_nothing
from labeling_app.tasks.lease import (
    AssignedTask,
    assigned_task,
    require_open,
    set_lease,
)
from labeling_app.tasks.progress import Progress, progress_among
from labeling_app.tasks.queue import Candidate, GivenCampaign, assign, first_free, this_task

IMAGE_SLOTS = {"image": Task.image_id, "last": Task.last_image_id}
"""Places of images in the ids under which annotators see them."""
SHOWN_ID = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9]|image|last)")
UNFORESEEN = random.SystemRandom()
OPEN = Prepared(
    select(
        Assignment.id,
        Assignment.token,
        Assignment.task_id,
        Assignment.permutation,
        Assignment.expires_at,
        Task.campaign_id,
    )
    .join(Task, Task.id == Assignment.task_id)
    .where(
        Assignment.user_id == bindparam("user"),
        Assignment.state == "open",
        Assignment.expires_at > bindparam("now"),
    )
    .order_by(Assignment.id)
)


def next_task(
    store: Store,
    user: User,
    campaign: str | None = None,
    order: Callable[[Task], Sequence[int]] | None = None,
    draw: Callable[[], float] = UNFORESEEN.random,
    only_informed: bool = False,
) -> AssignedTask | None:
    """The task that the user works on, or a new one, or None when nothing is left for this user.

    Args:
        campaign: only tasks of this campaign; by default of all campaigns, oldest first.
        order: gives the permutation in which a task's videos are shown; by default a random one.
        draw: gives the number in [0, 1) that decides on gold items and repeats; by default a random one.
        only_informed: the user must have acknowledged the guidelines of the task's campaign.

    Raises:
        GuidelinesUnread: the user has not. Then no task was taken.
    """
    only = store.campaign(campaign).id if campaign is not None else None
    with store.writing() as connection:
        campaigns = _campaigns_of(connection, user, only)
        return _taken(connection, store, user, campaigns, order, draw, only_informed)


@dataclass(frozen=True)
class NextTask:
    """Answer to an annotator who asks for a task.

    Attributes:
        task: None when nothing is left, or while guidelines are not acknowledged.
        unread: name of the campaign whose guidelines the user must acknowledge first.
        reason: one sentence on why tasks are closed to the user (daily limit, trial not passed, paused), or empty.
    """

    task: AssignedTask | None
    unread: str | None
    progress: Progress
    reason: str = ""


def next_with_progress(store: Store, user: User, campaign: str | None = None) -> NextTask:
    """The task that an informed user works on, or a new one, with the user's progress after it was taken."""
    only = store.campaign(campaign).id if campaign is not None else None
    task = unread = None
    campaigns: list[GivenCampaign] = []
    try:
        with store.writing() as connection:
            campaigns = _campaigns_of(connection, user, only)
            task = _taken(connection, store, user, campaigns, None, UNFORESEEN.random, only_informed=True)
    except GuidelinesUnread as error:
        unread = error.campaign
    mixes = {row.id: row.mixes_checks for row in campaigns if row.is_assigned and row.state == "open"}
    reason = "" if task or unread else _reason_for_nothing(store, user, campaigns)
    with store.single() as connection:
        return NextTask(task, unread, progress_among(connection, user.id, mixes, store.clock(), only), reason)


def _campaigns_of(connection: Connection, user: User, only: int | None) -> list[GivenCampaign]:
    """The campaigns that may give tasks to the user, whose row is locked from here on."""
    rows = _given_campaigns(only is not None).all(connection, {"user": user.id, "campaign": only})
    # Programs work on all campaigns.
    return [given for given in map(GivenCampaign._make, rows) if user.simulated or given.is_assigned]


def _taken(
    connection: Connection,
    store: Store,
    user: User,
    campaigns: Sequence[GivenCampaign],
    order: Callable[[Task], Sequence[int]] | None,
    draw: Callable[[], float],
    only_informed: bool,
) -> AssignedTask | None:
    now = store.clock()
    expires_at = now + store.lease_seconds
    known = {row.id: row for row in campaigns}
    opened = OPEN.all(connection, {"user": user.id, "now": now})
    for number, token, task_id, permutation, before, campaign_id in opened:
        if campaign_id not in known:
            continue
        if only_informed and known[campaign_id].is_unread:
            raise GuidelinesUnread(known[campaign_id].name)
        expires_at = max(before, expires_at)
        set_lease(connection, number, expires_at)
        return assigned_task(token, this_task(connection, user.id, task_id), permutation, expires_at)
    for row in (row for row in campaigns if row.state == "open"):
        candidate = choose_task(connection, user.id, row, now, draw)
        if only_informed and candidate is not None and row.is_unread:
            raise GuidelinesUnread(row.name)
        while candidate is not None:
            permutation = _order_to_show(connection, user, candidate, order)
            made = assign(connection, user.id, row, candidate, permutation, now, expires_at)
            if made is not None:
                return assigned_task(made, candidate, permutation, expires_at)
            candidate = first_free(connection, user.id, row, now)
    return None


def task_to_look_at(store: Store, campaign: str | None = None, after: int = 0) -> Task | None:
    """A task that a lead looks at without taking it: the next of those that are given out, or of all where none is.

    Args:
        after: id of the task that was looked at before; after the last one the first comes again.
    """
    only = store.campaign(campaign).id if campaign is not None else None
    normal = select(Task).where(Task.kind == "normal").order_by(Task.id).limit(1)
    if only is not None:
        normal = normal.where(Task.campaign_id == only)
    waiting = normal.join(Campaign, Campaign.id == Task.campaign_id).where(
        Task.filled == false(), Campaign.state == "open"
    )
    with store.read() as session:
        for query in (waiting.where(Task.id > after), waiting, normal.where(Task.id > after), normal):
            if (found := session.scalar(query)) is not None:
                return found
    return None


def _reason_for_nothing(store: Store, user: User, campaigns: Sequence[GivenCampaign]) -> str:
    """One sentence for an annotator to whom tasks are closed, or empty."""
    # An open campaign without these rules closes nothing, so nearly always the database is not asked.
    closing = [
        row
        for row in campaigns
        if row.is_assigned and (row.state != "open" or row.daily_cap or row.quiz_size)
    ]
    if not closing:
        return ""
    with store.read() as session:
        reasons = (why_nothing(session.connection(), user.id, row, store.clock()) for row in closing)
        return next((reason for reason in reasons if reason), "")


def renew(store: Store, user: User, token: str) -> float:
    """Extends the lease; returns when it ends.

    Raises:
        Refused: the assignment is not this user's.
        AlreadyAnswered, LeaseExpired: it is not open any more.
    """
    with store.writing() as connection:
        assignment = require_open(connection, user, token, store)
        expires_at = store.clock() + store.lease_seconds
        set_lease(connection, assignment.id, expires_at)
        return expires_at


def shown_id(token: str, slot: int | str) -> str:
    """The id under which an annotator sees the video in a slot of a task, or one of its images (`IMAGE_SLOTS`).

    It is made of the assignment's token alone, so that the same video in a repeat or a gold item has another one, and
    that a browser never takes a video that it has kept for one of another database. No id of a video in the store has
    a dot.
    """
    return f"{token}.{slot}"


def visible_media(store: Store, user: User, media_id: str) -> Media | None:
    """The video or image of this id if the user may see it: one shown in a task that this person was ever given
    (`shown_id`), an upload of the person's own, one to choose as a demonstration, the image of a prompt to demonstrate,
    an example in guidelines, or any for a lead."""
    if "." in media_id:
        return _shown_media(store, user, media_id)
    with store.read() as session:
        if user.role != "annotator":
            return session.get(Media, media_id)
        own = select(Upload.media_id).where(Upload.media_id == media_id, Upload.user_id == user.id)
        library = (
            select(LibraryVideo.media_id)
            .join(Campaign, Campaign.id == LibraryVideo.campaign_id)
            .where(LibraryVideo.media_id == media_id, may_work_on(user.id))
        )
        images = or_(DemonstrationPrompt.image_id == media_id, DemonstrationPrompt.last_image_id == media_id)
        asked = (
            select(DemonstrationPrompt.id)
            .join(Campaign, Campaign.id == DemonstrationPrompt.campaign_id)
            .where(images, may_work_on(user.id))
        )
        example = select(GuidelineVideo.media_id).where(GuidelineVideo.media_id == media_id)
        seen = or_(own.exists(), library.exists(), asked.exists(), example.exists())
        return session.scalar(select(Media).where(Media.id == media_id, seen))


def _shown_media(store: Store, user: User, media_id: str) -> Media | None:
    parts = SHOWN_ID.fullmatch(media_id)
    if parts is None:
        return None
    token, place = parts[1], parts[2]
    with store.read() as session:
        found = session.execute(
            select(Assignment.task_id, Assignment.permutation).where(
                Assignment.token == token, Assignment.user_id == user.id
            )
        ).first()
        if found is None:
            return None
        if place in IMAGE_SLOTS:
            image = IMAGE_SLOTS[place]
            return session.scalar(select(Media).join(Task, image == Media.id).where(Task.id == found[0]))
        slot = int(place)
        if slot >= len(found[1]):
            return None
        here = (TaskVideo.task_id == found[0]) & (TaskVideo.position == found[1][slot])
        return session.scalar(select(Media).join(TaskVideo, TaskVideo.media_id == Media.id).where(here))


def random_order(count: int) -> list[int]:
    """A permutation that nobody can foresee."""
    return UNFORESEEN.sample(range(count), count)


@cache
def _given_campaigns(one: bool) -> Prepared:
    """Campaigns by age, or the one of the parameter `campaign`, as `GivenCampaign`; none for a user (parameter `user`)
    who was deactivated. The user's row is locked: one window of a person at a time.

    SQLite ignores FOR UPDATE; there BEGIN IMMEDIATE does it for all.
    """
    newest = select(func.max(Guidelines.version)).where(Guidelines.campaign_id == Campaign.id)
    read = select(func.max(Acknowledgement.version)).where(
        Acknowledgement.campaign_id == Campaign.id, Acknowledgement.user_id == bindparam("user")
    )
    rules = [getattr(Campaign, name) for name in GivenCampaign._fields[:9]]
    active = (User.id == bindparam("user")) & (User.state == "active")
    query = (
        select(
            *rules,
            may_work_on(bindparam("user")),
            newest.correlate(Campaign).scalar_subquery(),
            read.correlate(Campaign).scalar_subquery(),
        )
        .join(User, active)
        .with_for_update(of=User, key_share=True)
        .order_by(Campaign.id)
    )
    return Prepared(query.where(Campaign.id == bindparam("campaign")) if one else query)


def _order_to_show(
    connection: Connection, user: User, candidate: Candidate, order: Callable[[Task], Sequence[int]] | None
) -> list[int]:
    """The order before where the lease ran out, else a new one; a repeat has another than what it repeats."""
    if candidate.lapsed is not None:
        return candidate.lapsed
    count = len(candidate.videos)
    permutation = random_order(count)
    if order is not None:
        with Session(bind=connection) as session:
            permutation = list(order(session.get_one(Task, candidate.task)))
    if candidate.copy_of is None:
        return permutation
    before = connection.scalar(
        select(Assignment.permutation).where(
            Assignment.task_id == candidate.copy_of, Assignment.user_id == user.id
        )
    )
    while permutation == before and count > 1:
        permutation = random_order(count)
    return permutation
