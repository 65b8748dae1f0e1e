"""Projects, campaigns and their rules: shares of gold items and repeats, limits, trials, guidelines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from generator.first_frames import ImageFiles
from generator.one_or_several import as_list
from generator.output import InputError, is_storable
from labeling_app.files.candidates import inspect_video
from labeling_app.files.remote_candidates import inspected_images, read_videos
from labeling_app.store.campaign_rows import campaign_row, change_setup, change_tags, find_campaign
from labeling_app.store.names import composed, is_name
from labeling_app.store.new_tasks import NewTask, add_task_rows, check_task, media_id, media_row
from labeling_app.store.playable import keep_playable
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign, Media, Project, Task, TaskVideo
from labeling_app.tasks.answers import dense_ranks
from labeling_app.tasks.lease import MAXIMUM_ID
from reward.preferences import MISSING, read_rankings

SETUP = ("overlap", "dimensions", "tags")


@dataclass(frozen=True)
class Rules:
    """Changes to a campaign's rules; None leaves one as it is.

    Attributes: see `labeling_app.store.tables.Campaign`. Overlap, dimensions and tags change only as far as
        `labeling_app.store.campaign_rows` lets them.
    """

    gold_share: float | None = None
    repeat_share: float | None = None
    daily_cap: int | None = None
    quiz_size: int | None = None
    quiz_pass: float | None = None
    overlap: int | None = None
    dimensions: list[str] | None = None
    tags: list[str] | None = None
    gold_feedback: bool | None = None


RULES = tuple(each.name for each in fields(Rules))
"""Columns of a campaign that are its rules."""


def add_project(store: Store, name: str, description: str = "") -> Project:
    """Makes a project.

    Raises:
        InputError: the name is taken, empty or too long, or a text cannot be stored.
    """
    name = composed(name) if is_storable(name) else name
    project = _new_project(name, description, store.clock())
    try:
        with store.write() as session:
            session.add(project)
    except IntegrityError as error:
        raise InputError(f"The project {name!r} exists already: choose another name.") from error
    return project


def _new_project(name: str, description: str, now: float) -> Project:
    if not is_name(name, 200) or not is_storable(description):
        raise InputError(
            f"The project {name[:60]!r} is not usable: give a name of 1 to 200 printable characters."
        )
    return Project(name=name, description=description[:10_000], created_at=now)


def projects(store: Store) -> list[Project]:
    """All projects in the order in which they came."""
    with store.read() as session:
        return list(session.scalars(select(Project).order_by(Project.id)))


def add_campaign(
    store: Store,
    name: str,
    overlap: int = 1,
    dimensions: Sequence[str] = ("overall",),
    project: str | None = None,
    tasks: Sequence[NewTask] = (),
) -> Campaign:
    """Makes a campaign; without tasks, videos are imported, or demonstrations asked for, later.

    Raises:
        InputError: it exists, there is no such project, or its name, overlap or dimensions are illegal. Then nothing
            was made.
    """
    dimensions = as_list(dimensions)
    keep_playable(store.uploads, (video for task in tasks for video in task.videos))
    with store.write() as session:
        if find_campaign(session, name) is not None:
            raise InputError(f"The campaign {name!r} exists already: choose another name.")
        row = campaign_row(session, name, overlap, dimensions, store.clock())
        if project is not None:
            row.project = _project(session, project)
        add_task_rows(session, row, tasks, store.clock())
        return row


def set_rules(
    store: Store, campaign: str, rules: Rules, project: str | None = None, make: bool = False
) -> Campaign:
    """Changes the rules of a campaign, from the next task on, or puts it into another project ("": into none).

    Args:
        make: also makes the campaign and the project where they are new.

    Raises:
        InputError: there is no such campaign or project, or a rule is out of range. Then nothing was changed.
    """
    row_id = None if make else store.campaign(campaign).id
    with store.write() as session:
        if row_id is None:
            row = campaign_row(session, campaign, None, None, store.clock())
        else:
            row = session.get_one(Campaign, row_id)
        change_setup(session, row, rules.overlap, rules.dimensions)
        if rules.tags is not None:
            change_tags(session, row, as_list(rules.tags))
        for name, value in asdict(rules).items():
            if value is not None and name not in SETUP:
                setattr(row, name, value)
        _check_rules(row)
        if project is not None:
            row.project = _project(session, project, store.clock() if make else None) if project else None
        return row


def _project(session: Session, name: str, made_at: float | None = None) -> Project:
    """The project of this name, which is made if it is new and `made_at` is given."""
    name = composed(name) if is_storable(name) else name
    found = session.scalar(select(Project).where(Project.name == name)) if is_storable(name) else None
    if found is None and made_at is not None:
        return _new_project(name, "", made_at)
    if found is None:
        raise InputError(f"There is no project {name!r}: make it first.")
    return found


def _check_rules(row: Campaign) -> None:
    shares = row.gold_share, row.repeat_share
    if not all(0 <= share <= 0.5 for share in shares) or sum(shares) > 0.8:
        raise InputError(
            f"The shares of gold items and repeats are {row.gold_share} and {row.repeat_share}: give numbers from "
            "0 to 0.5, together at most 0.8."
        )
    if not 0 <= row.daily_cap < 1_000_000 or not 0 <= row.quiz_size <= 1000 or not 0 <= row.quiz_pass <= 1:
        raise InputError(
            f"daily_cap, quiz_size and quiz_pass are {row.daily_cap}, {row.quiz_size} and {row.quiz_pass}: give 0 "
            "or more answers a day, up to 1000 trial tasks, and a share from 0 to 1."
        )


def import_gold(store: Store, path: str | Path, campaign: str) -> int:
    """Adds gold items from a rankings file, whose ranks are the known answers; returns how many are new.

    Rows of the same prompt and videos with other dimensions belong to one item.

    Raises:
        InputError: the campaign does not exist, the file or a video cannot be read, an item lacks one of the
            campaign's dimensions or a rank, or has another known answer already. Then nothing was added.
    """
    row = store.campaign(campaign)
    known: dict[tuple[str, tuple[Path, ...]], dict[str, list[int]]] = {}
    images: dict[tuple[str, tuple[Path, ...]], ImageFiles | None] = {}
    for ranking in read_rankings(path, store.remote):
        videos = tuple(Path(video) for video in ranking.videos)
        order = dense_ranks(ranking.ranks)
        answer = known.setdefault((ranking.prompt, videos), {})
        images.setdefault((ranking.prompt, videos), ranking.images)
        if MISSING in ranking.ranks or answer.setdefault(ranking.dimension, order) != order:
            raise InputError(
                f"{path} ranks the videos of {ranking.prompt[:60]!r} in two ways, or not all of them: the known "
                "answer of a gold item is one rank a video."
            )
    added = 0
    items = [
        (
            NewTask(
                key[0],
                tuple(read_videos(key[1], store.remote, inspect_video)),
                *inspected_images(images[key], store.remote),
            ),
            ranks,
        )
        for key, ranks in known.items()
    ]
    keep_playable(store.uploads, (video for task, _ in items for video in task.videos))
    with store.write() as session:
        for task, ranks in items:
            check_task(task.prompt, [video.path for video in task.videos])
            media = [media_row(session, video) for video in task.videos]
            shown = media_id(session, task.image), media_id(session, task.last_image)
            if _add_gold(session, row, task.prompt, media, ranks, store.clock(), shown) is not None:
                added += 1
            elif _known_order(session, row, task.prompt, media) != ranks:
                raise InputError(
                    f"The campaign {campaign!r} has a gold item {task.prompt[:60]!r} with these videos and another "
                    "known answer, which does not change: leave it out."
                )
    return added


def make_gold(store: Store, task_id: int, ranks: Mapping[str, Sequence[int]]) -> int | None:
    """Makes a gold item of a task whose answer is now known; returns its id, or None where it was one already.

    Who has ranked the task does not get the gold item.

    Args:
        ranks: for each dimension of the campaign, in the task's order.

    Raises:
        InputError: there is no such normal task, or the ranks are not legal.
    """
    with store.write() as session:
        task = session.get(Task, task_id) if 0 < task_id <= MAXIMUM_ID else None
        if task is None or task.kind != "normal":
            raise InputError(f"There is no task {task_id} that a gold item can be made of: name another.")
        media = [video.media for video in task.videos]
        known = {dimension: list(places) for dimension, places in ranks.items()}
        images = task.image_id, task.last_image_id
        return _add_gold(session, task.campaign, task.prompt, media, known, store.clock(), images, task.id)


def _add_gold(
    session: Session,
    campaign: Campaign,
    prompt: str,
    media: Sequence[Media],
    ranks: dict[str, list[int]],
    now: float,
    images: tuple[str | None, str | None] = (None, None),
    copy_of: int | None = None,
) -> int | None:
    if set(ranks) != set(campaign.dimensions) or any(len(r) != len(media) for r in ranks.values()):
        raise InputError(
            f"The gold item {prompt[:60]!r} has known ranks for {', '.join(ranks) or 'nothing'}: give one rank a "
            f"video for {', '.join(campaign.dimensions)}."
        )
    fingerprint = _gold_fingerprint(prompt, media)
    same = select(Task.id).where(Task.campaign_id == campaign.id, Task.fingerprint == fingerprint)
    if session.scalar(same) is not None:
        return None
    task = Task(
        campaign_id=campaign.id,
        prompt=prompt,
        fingerprint=fingerprint,
        kind="gold",
        gold_ranks=ranks,
        copy_of=copy_of,
        image_id=images[0],
        last_image_id=images[1],
        created_at=now,
    )
    task.videos = [TaskVideo(position=place, media_id=video.id) for place, video in enumerate(media)]
    session.add(task)
    session.flush()
    return task.id


def _gold_fingerprint(prompt: str, media: Sequence[Media]) -> str:
    """Fingerprint of a gold item: other than that of a normal task, whose prompt and videos it may have."""
    contents = "\0".join([prompt, *sorted(video.sha256 for video in media)])
    return "gold-" + hashlib.sha256(contents.encode(errors="surrogatepass")).hexdigest()[:58]


def _known_order(
    session: Session, campaign: Campaign, prompt: str, media: Sequence[Media]
) -> dict[str, list[int]]:
    """The known answer of a gold item that is there, for its videos in the order of `media`."""
    fingerprint = _gold_fingerprint(prompt, media)
    task = session.scalars(
        select(Task).where(Task.campaign_id == campaign.id, Task.fingerprint == fingerprint)
    ).one()
    places = {video.media.sha256: video.position for video in task.videos}
    return {
        dimension: dense_ranks([ranks[places[video.sha256]] for video in media])
        for dimension, ranks in (task.gold_ranks or {}).items()
    }
