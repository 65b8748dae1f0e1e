"""Preferences of other projects: brought into a campaign, and written from one (`reward.formats`)."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from tqdm import tqdm

from generator.one_or_several import as_list
from generator.output import InputError, check_output_file
from labeling_app.files.candidates import inspect_video
from labeling_app.files.ranking_tables import TABLES
from labeling_app.files.rankings import countable_rankings
from labeling_app.files.remote_candidates import inspected_images, read_videos
from labeling_app.store.campaign_rows import DIMENSIONS, campaign_row, find_campaign
from labeling_app.store.contents import content_hash, copy_verified, task_media
from labeling_app.store.names import composed, is_name
from labeling_app.store.new_tasks import NewTask, VideoFile, add_task_rows, check_task
from labeling_app.store.playable import keep_playable
from labeling_app.store.store import Store
from labeling_app.store.tables import IMPORTED, Campaign, Judgement, Media, Task, User
from labeling_app.tasks.answers import dense_ranks
from reward.formats import FORMATS, OWN, read_preferences, write_preferences
from reward.formats.tables import read_rows
from reward.preferences import MISSING, Ranking, merge_annotators

PAIRS = ("videogen-rewardbench", "genai-bench", "rapidata")
"""Layouts that hold two videos a row."""
OVERALL_ONLY = ("genai-bench", "imagereward")
SUFFIXES = {"imagereward": (".json", ".jsonl", ".parquet"), OWN: (".jsonl",)}
ANY_SUFFIX = (".csv", ".json", ".jsonl", ".parquet")
VIDEOS = "videos"
"""The folder beside an exported file that holds its videos; readers look there."""


@dataclass(frozen=True)
class PreferenceImport:
    """Result of an import of preferences.

    Attributes:
        tasks: tasks that are new in the store.
        judgements: judgements that are new in the store.
        known: rankings of the file that were there already.
        annotators: names of the external annotators of the file.
    """

    tasks: int
    judgements: int
    known: int
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class _Vote:
    """A ranking of the file with what the store needs of it."""

    annotator: str
    ranking: Ranking
    task: NewTask
    created_at: float


def import_preferences(
    store: Store,
    path: str | Path,
    campaign: str = "default",
    annotator: str = "imported",
    format: str = "auto",
    overlap: int | None = None,
    dimensions: Sequence[str] | None = None,
    progress: bool = False,
) -> PreferenceImport:
    """Imports the rankings of a file of any layout of `reward.formats` as tasks with judgements.

    The judgements belong to users of the role `imported`, who can never log in. A ranking that names its annotator is
    of `annotator/NAME`, any other of `annotator`; a second one about the same videos and dimension is somebody else's,
    of `annotator-2`, and so on. Videos without a rank are left out of their task. Importing the same file again adds
    nothing. An annotator who has judged all dimensions of a task counts towards its overlap.

    Args:
        annotator: name of the external annotator.
        format: a name of `reward.formats.FORMATS`, `vidalign`, or `auto`.
        overlap: annotators a task, for a new or empty campaign; by default as many as judged the task with the most.
        dimensions: for a new or empty campaign; by default those of the file.

    Raises:
        InputError: the file, a video or a name cannot be used, the campaign has other dimensions, or the annotator has
            ranked the same videos differently. Then nothing was imported.
    """
    dimensions = None if dimensions is None else as_list(dimensions)
    rankings = read_preferences(path, format, store.remote)
    votes = list(_votes(store, rankings, annotator, progress))
    found = {vote.ranking.dimension for vote in votes}
    per_task = Counter(
        fingerprint for fingerprint, _ in {(vote.task.fingerprint, vote.annotator) for vote in votes}
    )
    keep_playable(store.uploads, (video for vote in votes for video in vote.task.videos))
    with store.write() as session:
        known = find_campaign(session, campaign)
        if known is None or not session.scalar(select(Task.id).where(Task.campaign_id == known.id).limit(1)):
            overlap = max(per_task.values()) if overlap is None else overlap
            dimensions = [name for name in DIMENSIONS if name in found] if dimensions is None else dimensions
        row = campaign_row(session, campaign, overlap, dimensions, store.clock())
        if not found <= set(row.dimensions):
            raise InputError(
                f"{path} has rankings of {', '.join(sorted(found))}, but the campaign {campaign!r} asks for "
                f"{', '.join(row.dimensions)}: name another campaign."
            )
        tasks = list({vote.task.fingerprint: vote.task for vote in votes}.values())
        new_tasks = add_task_rows(session, row, tasks, store.clock())
        users = _users(session, sorted({vote.annotator for vote in votes}), store.clock())
        judgements = _add_judgements(session, row, votes, users)
    return PreferenceImport(new_tasks, judgements, len(votes) - judgements, tuple(users))


def _votes(store: Store, rankings: Sequence[Ranking], annotator: str, progress: bool) -> Iterator[_Vote]:
    named = list(dict.fromkeys(video for ranking in rankings for video in ranking.videos))
    found = read_videos(named, store.remote, inspect_video)
    bar = tqdm(found, desc="Reading videos", unit="video", disable=not progress, total=len(named))
    files = dict(zip(named, bar, strict=True))
    images: dict[Any, tuple[VideoFile | None, VideoFile | None]] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for ranking in rankings:
        judged = [(files[v], rank) for v, rank in zip(ranking.videos, ranking.ranks) if rank != MISSING]
        check_task(ranking.prompt, [video.path for video, _ in judged])
        ranks = dense_ranks([rank for _, rank in judged])
        kept = replace(ranking, videos=[video.path for video, _ in judged], ranks=ranks, tags=None)
        if ranking.images not in images:
            images[ranking.images] = inspected_images(ranking.images, store.remote)
        task = NewTask(ranking.prompt, tuple(video for video, _ in judged), *images[ranking.images])
        name = composed(f"{annotator}/{ranking.annotator}" if ranking.annotator else annotator)
        key = (name, task.fingerprint, ranking.dimension)
        seen[key] += 1
        if seen[key] > 1:
            name = f"{name}-{seen[key]}"
        yield _Vote(name, kept, task, _seconds_since_epoch(ranking.created_at, store.clock()))


def _seconds_since_epoch(text: str | None, now: float) -> float:
    if text is None:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"created_at is {text!r}: write a time as ISO 8601, such as 2025-01-31T12:00:00Z."
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _users(session: Session, names: Sequence[str], now: float) -> dict[str, User]:
    users = {}
    for name in names:
        if not is_name(name, 100):
            raise InputError(
                f"The annotator {name[:100]!r} is not usable: give 1 to 100 printable characters."
            )
        user = session.scalar(select(User).where(User.name == name))
        if user is None:
            user = User(name=name, role=IMPORTED, created_at=now)
            session.add(user)
            session.flush()
        elif user.role != IMPORTED:
            raise InputError(
                f"The user {name!r} is {'simulated' if user.simulated else 'a person here'}: give the external "
                "annotator another name with --annotator."
            )
        users[name] = user
    return users


def _add_judgements(
    session: Session, campaign: Campaign, votes: Sequence[_Vote], users: dict[str, User]
) -> int:
    tasks = {
        task.fingerprint: task
        for task in session.scalars(
            select(Task).where(Task.campaign_id == campaign.id, Task.kind == "normal")
        )
    }
    given: dict[tuple[int, int], dict[str, list[int] | None]] = defaultdict(dict)
    for known in session.scalars(
        select(Judgement).where(Judgement.user_id.in_([user.id for user in users.values()]))
    ).unique():
        given[known.task_id, known.user_id][known.dimension] = known.ranks
    wanted, added = set(campaign.dimensions), 0
    for vote in votes:
        task, user, ranking = tasks[vote.task.fingerprint], users[vote.annotator], vote.ranking
        answers = given[task.id, user.id]
        ranks = _in_task_order(task, vote.task.videos, ranking.ranks)
        if ranking.dimension in answers:
            if answers[ranking.dimension] != ranks:
                raise InputError(
                    f"{user.name!r} has ranked the videos of {ranking.prompt[:60]!r} differently before "
                    f"({ranking.dimension}): give the external annotator another name with --annotator."
                )
            continue
        answers[ranking.dimension] = ranks
        added += 1
        session.add(
            Judgement(
                task_id=task.id,
                user_id=user.id,
                dimension=ranking.dimension,
                version=1,
                ranks=ranks,
                seconds=ranking.seconds or 0.0,
                created_at=vote.created_at,
            )
        )
        if set(answers) == wanted:
            task.completed += 1
            task.filled = task.completed >= campaign.overlap
    session.flush()
    return added


def _in_task_order(task: Task, videos: Sequence[VideoFile], ranks: Sequence[int]) -> list[int]:
    """The ranks in the task's own order; it may have come with its videos in another one, or from a copy."""
    left = list(zip(videos, ranks))
    ordered = []
    for place in task.videos:
        media: Media = place.media
        same = next((item for item in left if str(item[0].path) == media.path), None)
        same = same or next(item for item in left if item[0].sha256 == media.sha256)
        left.remove(same)
        ordered.append(same[1])
    return ordered


def export_preferences(
    store: Store,
    campaign: str,
    path: str | Path,
    format: str,
    overwrite: bool = False,
    raw: bool = False,
    skip_bad: bool = False,
) -> tuple[int, int]:
    """Writes the rankings that count of a campaign in a layout of another project, with the videos beside it.

    Where the layout holds pairs, a ranking becomes all its pairs. VideoGen-RewardBench has one label for a pair and
    dimension: the majority's; Rapidata has the shares of the annotators' votes; the others have a row for each
    ranking. Videos are linked or copied into `videos`, under names made of
    their contents.

    Returns:
        Rankings written, after that, and rankings left out, because the layout holds overall ones only.

    Raises:
        InputError: the layout is unknown, the file's suffix does not suit it, the file exists and `overwrite` is not
            set, a video's file is not what was judged and `skip_bad` is not set, or there is nothing that it could
            hold. Then nothing was written.
    """
    path = Path(path)
    if format != OWN and format not in FORMATS:
        raise InputError(f"The format {format!r} is unknown: use {', '.join([OWN, *TABLES, *FORMATS])}.")
    suffixes = SUFFIXES.get(format, ANY_SUFFIX)
    if path.suffix not in suffixes:
        raise InputError(
            f"{path} cannot be in the layout {format}: its suffix must be {' or '.join(suffixes)}."
        )
    check_output_file(
        path, overwrite, lambda file: _has_layout(file, format), f"a file of the layout {format}"
    )
    tasks, final = countable_rankings(store, campaign, raw, skip_bad)
    if not final:
        raise InputError(f"The campaign {campaign!r} has no rankings yet: let annotators rank first.")
    used = [row for row in final if format not in OVERALL_ONLY or row.dimension == "overall"]
    if not used:
        raise InputError(
            f"The layout {format} holds overall rankings only, and the campaign {campaign!r} has none: use another."
        )
    folder = path.parent / VIDEOS
    shown = task_media(tasks[row.task_id] for row in used)
    media = {each.sha256: each for each in shown}
    rankings = [
        Ranking(
            tasks[row.task_id].prompt,
            [folder / _name(video.media) for video in tasks[row.task_id].videos],
            row.ranks,
            row.dimension,
            row.annotator,
            images=_images(tasks[row.task_id], folder),
        )
        for row in used
    ]
    rankings = _fitted(rankings, format)
    with _videos_beside(folder, media, store):
        write_preferences(path, rankings, format)
    return len(rankings), len(final) - len(used)


def _has_layout(path: Path, format: str) -> bool:
    """Returns whether the file has the columns of a layout."""
    example = Ranking("a", [path.parent / VIDEOS / "1.mp4", path.parent / VIDEOS / "2.mp4"], [1, 2])
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            write_preferences(made, _fitted([example], format), format)
            return read_rows(path)[0].keys() == read_rows(made)[0].keys()
    except (InputError, OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def _name(media: Media) -> str:
    return f"{media.sha256[:20]}{Path(media.path).suffix.lower()}"


def _images(task: Task, folder: Path) -> tuple[str, str | None] | None:
    """Copies in a folder of the images of a task."""
    if task.image is None:
        return None
    last = None if task.last_image is None else str(folder / _name(task.last_image))
    return str(folder / _name(task.image)), last


def _fitted(rankings: Sequence[Ranking], format: str) -> list[Ranking]:
    """The rankings as a layout holds them."""
    if format not in PAIRS:
        return list(rankings)
    pairs = [
        replace(
            r, videos=[r.videos[i] for i in pair], ranks=dense_ranks([r.ranks[i] for i in pair]), tags=None
        )
        for r in rankings
        for pair in combinations(range(len(r.videos)), 2)
    ]
    if format == "videogen-rewardbench":
        return merge_annotators(pairs)
    return _shares(pairs) if format == "rapidata" else pairs


def _shares(pairs: Sequence[Ranking]) -> list[Ranking]:
    """One ranking for each pair and dimension with the shares of the votes; a tie is half a vote for each."""
    groups: dict[tuple[str, str, tuple[Path, ...]], list[Ranking]] = defaultdict(list)
    for pair in pairs:
        groups[pair.prompt, pair.dimension, tuple(pair.videos)].append(pair)
    shared = []
    for (prompt, dimension, videos), group in groups.items():
        first = sum(0.5 * (1 + (a.ranks[0] < a.ranks[1]) - (a.ranks[0] > a.ranks[1])) for a in group)
        share = first / len(group)
        ranks = [1, 1] if share == 0.5 else [1, 2] if share > 0.5 else [2, 1]
        shared.append(Ranking(prompt, list(videos), ranks, dimension, votes=[share, 1 - share]))
    return shared


@contextlib.contextmanager
def _videos_beside(folder: Path, media: dict[str, Media], store: Store) -> Iterator[None]:
    """Copies videos into a folder; takes away again what it made if the block fails.

    They are not linked: what is written into the original later would be in a linked one too.
    """
    made: list[Path] = []
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for sha256, source in media.items():
            target = folder / _name(source)
            if not target.exists():
                made.append(target)
                copy_verified(store.remote.local(source), target, sha256)
            elif content_hash(target) != sha256:
                raise InputError(
                    f"The file {target} does not hold the video after which it is named: remove it and try again."
                )
        yield
    except BaseException:
        for target in made:
            target.unlink(missing_ok=True)
        if is_new:
            folder.rmdir()
        raise
