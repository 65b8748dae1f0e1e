"""Writing the judgements of a campaign as a rankings file (docs: data contracts)."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generator.output import InputError, check_output_file, has_rows_with, write_jsonl
from labeling_app.adjudication import final_rankings
from labeling_app.store import Store


def export_rankings(
    store: Store, campaign: str, path: str | Path, overwrite: bool = False, raw: bool = False
) -> int:
    """Writes the newest version of every judgement, one a line, in one step; returns the number of lines.

    Where a lead has decided, the decision stands in place of the annotators' rankings, unless `raw`. Gold items and
    repeats are not in it.

    Each line is `{"prompt", "videos", "ranks", "dimension", "annotator", "seconds", "created_at"}`: videos
    as paths relative to the file, lower rank is better, equal ranks are ties, `created_at` in UTC (ISO
    8601). Skipped tasks are not in it.

    Raises:
        InputError: the campaign does not exist or has no judgement yet, or the file exists and `overwrite`
            is not set.
    """
    path = Path(path)
    check_output_file(path, overwrite, is_rankings_file, "a rankings file")
    rows = ranking_rows(store, campaign, path.parent, raw)
    if not rows:
        raise InputError(f"The campaign {campaign!r} has no rankings yet: let annotators rank first.")
    write_jsonl(path, rows)
    return len(rows)


def is_rankings_file(path: Path) -> bool:
    """Whether the file is one that `export_rankings` writes."""
    return has_rows_with(path, "prompt", "videos", "ranks", "dimension", "annotator")


def ranking_rows(store: Store, campaign: str, folder: Path, raw: bool = False) -> list[dict[str, Any]]:
    """The rows of a rankings file that lies in `folder`."""
    tasks = {
        task.id: (
            task.prompt,
            [os.path.relpath(video.media.path, folder.resolve()) for video in task.videos],
        )
        for task in store.tasks(campaign)
    }
    return [
        {
            "prompt": tasks[ranking.task_id][0],
            "videos": tasks[ranking.task_id][1],
            "ranks": ranking.ranks,
            "dimension": ranking.dimension,
            "annotator": ranking.annotator,
            "seconds": round(ranking.seconds, 3),
            "created_at": datetime.fromtimestamp(ranking.created_at, UTC).isoformat(),
        }
        for ranking in final_rankings(store, campaign, raw)
    ]
