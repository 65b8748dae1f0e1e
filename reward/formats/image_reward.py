"""ImageReward's and HPD's rankings: a JSON list with one object a prompt (Xu et al., arXiv 2304.05977).

    [{"prompt": "a cat", "generations": ["1.png", "2.png", "3.png"], "ranking": [1, 2, 2]}]

A lower rank is better, and equal ranks are ties. Images are videos of one frame.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from generator.output import InputError
from reward.formats.tables import Row, VideoFinder, read_rows, text_of, write_rows
from reward.preferences import MAX_VIDEOS, MIN_VIDEOS, Ranking


def fits(row: Row) -> bool:
    """Returns whether a row has this layout."""
    return {"prompt", "generations", "ranking"} <= set(row)


def read(path: Path) -> list[Ranking]:
    """One overall ranking for each object."""
    rankings, finder = [], VideoFinder(path.parent)
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, entry {number}"
        generations, ranks = row.get("generations"), row.get("ranking")
        if not isinstance(generations, list) or not isinstance(ranks, list) or len(generations) != len(ranks):
            raise InputError(f"{where}: `generations` and `ranking` must be lists of the same length.")
        if not MIN_VIDEOS <= len(ranks) <= MAX_VIDEOS:
            raise InputError(
                f"{where}: {len(ranks)} generations were found, expected {MIN_VIDEOS} to {MAX_VIDEOS}."
            )
        if not all(isinstance(rank, int) and rank >= 0 for rank in ranks):
            raise InputError(f"{where}: the ranking {ranks!r} must hold whole numbers from 0 on.")
        videos = finder.find(generations, where)
        rankings.append(Ranking(text_of(row, "prompt", where), videos, ranks))
    return rankings


def write(path: Path, rankings: Sequence[Ranking]) -> None:
    """Writes overall rankings; videos that were not judged are left out.

    Raises:
        InputError: a ranking has another dimension.
    """
    rows = []
    for ranking in rankings:
        if ranking.dimension != "overall":
            raise InputError(f"This format holds overall rankings only, but {ranking.dimension!r} was found.")
        judged = [(video, rank) for video, rank in zip(ranking.videos, ranking.ranks) if rank >= 0]
        rows.append(
            {
                "prompt": ranking.prompt,
                "generations": [os.path.relpath(video, path.parent) for video, _ in judged],
                "ranking": [rank for _, rank in judged],
            }
        )
    write_rows(path, rows)
