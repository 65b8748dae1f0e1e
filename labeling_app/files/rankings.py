"""Writing the judgements of a campaign as a rankings file (docs: data contracts)."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generator.output import InputError, check_output_file, has_rows_with, write_jsonl
from generator.video_files.remote_files import is_url
from labeling_app.quality.adjudication import FinalRanking, final_rankings
from labeling_app.store.contents import changed_files, require_unchanged, task_media
from labeling_app.store.remarks import exported
from labeling_app.store.store import Store
from labeling_app.store.tables import Task
from labeling_app.store.tags import exported_tags


def export_rankings(
    store: Store,
    campaign: str,
    path: str | Path,
    overwrite: bool = False,
    raw: bool = False,
    skip_bad: bool = False,
) -> int:
    """Writes the newest version of every judgement, one a line, in one step; returns the number of lines.

    Where a lead has decided, the decision stands in place of the annotators' rankings, unless `raw`. Gold items and
    repeats are not in it.

    Each line is `{"prompt", "videos", "ranks", "dimension", "annotator", "seconds", "created_at"}`: videos
    as paths relative to the file, lower rank is better, equal ranks are ties, `created_at` in UTC (ISO
    8601). Where videos begin or end with an image there are `image`, `last_image` and their SHA-256. With a remark it
    has more (see `labeling_app.store.remarks.exported`), and of a campaign with tags those that were given, `tags`
    (`labeling_app.store.tags.exported_tags`). Skipped tasks are not in it.

    Args:
        skip_bad: leave out rankings of videos whose files have changed or gone.

    Raises:
        InputError: the campaign does not exist or has no judgement yet, a video's file is not what was judged and
            `skip_bad` is not set, or the file exists and `overwrite` is not set.
    """
    path = Path(path)
    check_output_file(path, overwrite, is_rankings_file, "a rankings file")
    rows = ranking_rows(store, campaign, path.parent, raw, skip_bad)
    if not rows:
        raise InputError(f"The campaign {campaign!r} has no rankings yet: let annotators rank first.")
    write_jsonl(path, rows)
    return len(rows)


def is_rankings_file(path: Path) -> bool:
    """Returns whether the file is one that `export_rankings` writes."""
    return has_rows_with(path, "prompt", "videos", "ranks", "dimension", "annotator")


def ranking_rows(
    store: Store, campaign: str, folder: Path | None, raw: bool = False, skip_bad: bool = False
) -> list[dict[str, Any]]:
    """The rows of a rankings file that lies in `folder`, or with absolute paths; see `export_rankings`."""
    tasks, rankings = countable_rankings(store, campaign, raw, skip_bad)
    videos = {
        number: [_named(video.media.path, folder) for video in task.videos] for number, task in tasks.items()
    }
    return [
        {
            "prompt": tasks[ranking.task_id].prompt,
            "videos": videos[ranking.task_id],
            "ranks": ranking.ranks,
            "dimension": ranking.dimension,
            "annotator": ranking.annotator,
            "seconds": round(ranking.seconds, 3),
            "created_at": datetime.fromtimestamp(ranking.created_at, UTC).isoformat(),
            **_images(tasks[ranking.task_id], folder),
            **exported(ranking.remarks, videos[ranking.task_id]),
            **exported_tags(ranking.tags, videos[ranking.task_id]),
        }
        for ranking in rankings
    ]


def _named(path: str, folder: Path | None) -> str:
    return path if folder is None or is_url(path) else os.path.relpath(path, folder.resolve())


def _images(task: Task, folder: Path | None) -> dict[str, str]:
    """Files of the images of a task, and the hashes of what they hold."""
    row = {}
    for name, media in (("image", task.image), ("last_image", task.last_image)):
        if media is not None:
            row[name] = _named(media.path, folder)
            row[f"{name}_sha256"] = media.sha256
    return row


def countable_rankings(
    store: Store, campaign: str, raw: bool = False, skip_bad: bool = False
) -> tuple[dict[int, Task], list[FinalRanking]]:
    """The rankings that count and are of videos that are still there as they were judged, with their tasks.

    Raises:
        InputError: there is no such campaign, or, without `skip_bad`, a video's file has changed or gone.
    """
    tasks = {task.id: task for task in store.tasks(campaign)}
    rankings = final_rankings(store, campaign, raw)
    used = {ranking.task_id: tasks[ranking.task_id] for ranking in rankings}
    if not skip_bad:
        require_unchanged(task_media(used.values()), "pass --skip_bad to leave out their rankings")
        return used, rankings
    bad = set(changed_files(task_media(used.values())))
    kept = {
        number: task
        for number, task in used.items()
        if not any(media.path in bad for media in task_media([task]))
    }
    return kept, [ranking for ranking in rankings if ranking.task_id in kept]
