"""Rapidata's text-to-video preferences: shares of the votes of many people for each of two videos, for each
question, as rows of Parquet, CSV or JSONL (Hugging Face, Rapidata/text-2-video-human-preferences…).

    prompt, video1, video2, weighted_results1_Preference, weighted_results2_Preference,
    weighted_results1_Coherence, …, weighted_results1_Alignment, …, file_name1, file_name2, model1, model2

`video1` and `video2` are addresses; the files lie beside the table or in `videos`, under `file_name1` and `file_name2`
or under the last part of the address. Coherence (fewer glitches, plausible in time) is read as `motion`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generator.output import InputError
from reward.formats.tables import Row, VideoFinder, read_rows, text_of, write_rows
from reward.preferences import Ranking

QUESTIONS = {"Preference": "overall", "Coherence": "motion", "Alignment": "alignment", "Aesthetic": "visual"}
SHARES = "weighted_results1_", "weighted_results2_"


def fits(row: Row) -> bool:
    """Returns whether a row has this layout."""
    return any(f"{SHARES[0]}{question}" in row for question in QUESTIONS)


def read(path: Path) -> list[Ranking]:
    """A ranking with votes for each question of each row that was answered."""
    rankings, finder = [], VideoFinder(path.parent)
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        videos = finder.find(
            [row.get(f"file_name{side}") or row.get(f"video{side}") for side in (1, 2)], where
        )
        prompt = text_of(row, "prompt", where)
        for question, dimension in QUESTIONS.items():
            votes = [_share(row.get(f"{name}{question}"), where) for name in SHARES]
            if None in votes or not sum(votes):  # type: ignore[arg-type]
                continue
            first, second = votes
            ranks = [1, 1] if first == second else [1, 2] if first > second else [2, 1]  # type: ignore[operator]
            rankings.append(Ranking(prompt, videos, ranks, dimension, votes=votes))  # type: ignore[arg-type]
    return rankings


def _share(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        share = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: the share of votes {value!r} is not a number.") from None
    if math.isnan(share):
        return None
    if share < 0 or math.isinf(share):
        raise InputError(f"{where}: the share of votes {share} must be a finite number, 0 or more.")
    return share


def write(path: Path, rankings: Sequence[Ranking]) -> None:
    """Writes rankings of two videos, those of one pair in a row; a second answer to a question, such as of another
    annotator, stands in a row of its own. One without votes counts as one vote, or half a vote each for a tie.

    Raises:
        InputError: a ranking has more than two videos or a video without a rank.
    """
    rows: dict[tuple[str, Path, Path, int], Row] = {}
    answers: Counter[tuple[str, Path, Path, str]] = Counter()
    used = {ranking.dimension for ranking in rankings}
    columns = [question for question, dimension in QUESTIONS.items() if dimension in used]
    for ranking in rankings:
        if len(ranking.videos) != 2 or -1 in ranking.ranks:
            raise InputError(
                f"The ranking of {ranking.prompt!r} has {len(ranking.videos)} videos, but this format holds pairs of "
                "judged videos."
            )
        first, second = ranking.videos
        names = [os.path.relpath(video, path.parent) for video in ranking.videos]
        asked = (ranking.prompt, first, second, ranking.dimension)
        row = rows.setdefault(
            (ranking.prompt, first, second, answers[asked]),
            {"prompt": ranking.prompt, "video1": names[0], "video2": names[1]}
            | {f"{share}{question}": None for question in columns for share in SHARES},
        )
        answers[asked] += 1
        question = next(name for name in columns if QUESTIONS[name] == ranking.dimension)
        difference = ranking.ranks[1] - ranking.ranks[0]
        votes = ranking.votes or (
            [0.5, 0.5] if not difference else [float(difference > 0), float(difference < 0)]
        )
        row |= {f"{share}{question}": vote for share, vote in zip(SHARES, votes)}
    write_rows(path, list(rows.values()))
