"""GenAI-Bench's video generation votes (Jiang et al., arXiv 2406.04485), as rows of JSON, JSONL or Parquet:

    {"prompt": "a cat", "left_model": "…", "right_model": "…", "left_video": "1.mp4", "right_video": "2.mp4",
     "vote_type": "leftvote"}

`vote_type` is `leftvote`, `rightvote`, `tievote` or `bothbad_vote`; the last two are ties.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from generator.output import InputError
from reward.formats.tables import Row, VideoFinder, read_rows, text_of, write_rows
from reward.preferences import Ranking

RANKS = {"leftvote": [1, 2], "rightvote": [2, 1], "tievote": [1, 1], "bothbad_vote": [1, 1]}
COLUMNS = ("prompt", "left_video", "right_video", "vote_type")


def fits(row: Row) -> bool:
    """Returns whether a row has this layout."""
    return set(COLUMNS) <= set(row)


def read(path: Path) -> list[Ranking]:
    """One overall ranking of two videos for each vote."""
    rankings, finder = [], VideoFinder(path.parent)
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        vote = row.get("vote_type")
        if not isinstance(vote, str) or vote not in RANKS:
            raise InputError(f"{where}: vote_type is {vote!r}, expected one of {', '.join(RANKS)}.")
        videos = finder.find([row.get("left_video"), row.get("right_video")], where)
        rankings.append(Ranking(text_of(row, "prompt", where), videos, RANKS[vote]))
    return rankings


def write(path: Path, rankings: Sequence[Ranking]) -> None:
    """Writes overall rankings of two videos; a tie becomes `tievote`.

    Raises:
        InputError: a ranking has more than two videos, another dimension, or a video without a rank.
    """
    rows = []
    for ranking in rankings:
        if len(ranking.videos) != 2 or ranking.dimension != "overall" or -1 in ranking.ranks:
            raise InputError(
                f"The {ranking.dimension} ranking of {ranking.prompt!r} has {len(ranking.videos)} videos, but this "
                "format holds overall rankings of two judged videos."
            )
        first, second = ranking.ranks
        vote = "tievote" if first == second else "leftvote" if first < second else "rightvote"
        left, right = (os.path.relpath(video, path.parent) for video in ranking.videos)
        rows.append(
            {
                "prompt": ranking.prompt,
                "left_model": "",
                "right_model": "",
                "left_video": left,
                "right_video": right,
                "vote_type": vote,
            }
        )
    write_rows(path, rows)
