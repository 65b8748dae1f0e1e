"""VideoGen-RewardBench and VideoAlign's annotations: a CSV row for a pair of videos, with a label for each
dimension (Liu et al., arXiv 2501.13918).

    path_A,path_B,prompt,VQ,MQ,TA,Overall,A_model,B_model,fps_A,num_frames_A,fps_B,num_frames_B
    ./videos/x.mp4,./videos/y.mp4,a red ball,A,same,B,A,gen2,pika,24.0,96.0,24.0,72.0

A label is `A`, `B` or `same`, in any case; an empty one means that the dimension was not judged. Others are left out
and counted in a warning. VideoAlign's own files have no `Overall` and no models.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from generator.output import InputError
from reward.formats.tables import Row, VideoFinder, read_rows, text_of, write_rows
from reward.preferences import Ranking

DIMENSIONS = {"VQ": "visual", "MQ": "motion", "TA": "alignment", "Overall": "overall"}
RANKS = {"a": [1, 2], "b": [2, 1], "same": [1, 1]}
COLUMNS = ("path_A", "path_B", "prompt")


def fits(row: Row) -> bool:
    """Returns whether a row has this layout."""
    return set(COLUMNS) <= set(row)


def read(path: Path) -> list[Ranking]:
    """Each pair's rankings, one for each dimension that has a label; labels that are not known are counted in a
    warning on stderr."""
    rankings, finder = [], VideoFinder(path.parent)
    unknown: Counter[str] = Counter()
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        videos = finder.find([row.get("path_A"), row.get("path_B")], where)
        prompt = text_of(row, "prompt", where)
        for column, dimension in DIMENSIONS.items():
            label = str(row.get(column) or "").strip()
            if label.casefold() in RANKS:
                rankings.append(Ranking(prompt, videos, RANKS[label.casefold()], dimension))
            elif label:
                unknown[label] += 1
    if unknown:
        named = ", ".join(f"{label!r} ({count})" for label, count in unknown.most_common(5))
        print(
            f"Warning: {path} has {unknown.total()} labels that are none of A, B and same and are left out: {named}.",
            file=sys.stderr,
        )
    return rankings


def write(path: Path, rankings: Sequence[Ranking]) -> None:
    """Writes rankings of two videos; those of one pair share a row, and the files' own rates and lengths are noted.
    A second label of a pair and dimension, such as of another annotator, stands in a row of its own.

    Raises:
        InputError: a ranking has more than two videos.
    """
    from generator.video import video_shape

    pairs: dict[tuple[str, Path, Path], list[dict[str, str]]] = {}
    for ranking in rankings:
        if len(ranking.videos) != 2:
            raise InputError(
                f"The ranking of {ranking.prompt!r} has {len(ranking.videos)} videos, but this format holds pairs."
            )
        first, second = ranking.ranks
        label = "same" if first == second else "A" if first < second else "B"
        if -1 in (first, second):
            label = ""
        key = (ranking.prompt, *ranking.videos)
        own_rows = pairs.setdefault(key, [])  # type: ignore[arg-type]
        if all(ranking.dimension in labels for labels in own_rows):
            own_rows.append({})
        next(labels for labels in own_rows if ranking.dimension not in labels)[ranking.dimension] = label
    facts: dict[Path, tuple[float, int]] = {}
    for _, *videos in pairs:
        for video in videos:
            if video not in facts:
                shape = video_shape(video)
                facts[video] = (shape.fps, shape.num_frames)
    rows = []
    for (prompt, first_video, second_video), labels in (
        (key, labels) for key, own_rows in pairs.items() for labels in own_rows
    ):
        row: Row = {
            "path_A": os.path.relpath(first_video, path.parent),
            "path_B": os.path.relpath(second_video, path.parent),
            "prompt": prompt,
        }
        row |= {column: labels.get(dimension, "") for column, dimension in DIMENSIONS.items()}
        row |= {"A_model": "", "B_model": ""}
        for side, video in (("A", first_video), ("B", second_video)):
            row |= {f"fps_{side}": facts[video][0], f"num_frames_{side}": facts[video][1]}
        rows.append(row)
    write_rows(path, rows)
