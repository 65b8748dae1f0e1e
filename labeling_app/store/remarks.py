"""Remarks of people about a task (flags, comments, reasons of skips), and the videos that they are about.

The letters on the ranking page follow the order in which one annotator saw the videos, so the same letter is another
video for the next one and for the lead. What is stored are positions in the task's own order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Judgement, Task

KINDS = ("flag", "comment", "skip_reason")
_NAMED = re.compile(r"\bvideos?\s+([a-i])\b", re.IGNORECASE)


@dataclass(frozen=True)
class Remark:
    """One text of a person about a task.

    Attributes:
        kind: `flag`, `comment` or `skip_reason`.
        videos: positions, in the task's order, of the videos that it is about; empty for the whole task.
        shown: the order in which the person saw the videos, as in `Assignment.permutation`; None where it is unknown.
    """

    annotator: str
    kind: str
    text: str
    videos: tuple[int, ...]
    shown: tuple[int, ...] | None

    def as_json(self) -> dict[str, Any]:
        """Its fields, with the letter of each video here and as the person saw it.

        `letters` has a pair for each video of the task, in the order in which the person saw them.
        """
        shown = self.shown or ()
        return {
            "annotator": self.annotator,
            "kind": self.kind,
            "text": self.text,
            "videos": [
                {"lead": letter(position), "annotator": letter(shown.index(position)) if shown else None}
                for position in self.videos
            ],
            "letters": [
                {"lead": letter(position), "annotator": letter(place)} for place, position in enumerate(shown)
            ],
        }


def letter(place: int) -> str:
    """The letter of the video at a place of a page."""
    return chr(ord("A") + place)


def named_videos(text: str, count: int) -> list[int]:
    """Places of the videos that a text names by their letters, as in "Video B looks broken"."""
    places = [ord(found.upper()) - ord("A") for found in _NAMED.findall(text)]
    return sorted({place for place in places if place < count})


def remarks_of(
    judgements: Iterable[JudgementRow | Judgement], orders: Mapping[tuple[int, int], list[int]]
) -> list[Remark]:
    """The remarks of judgements, each once: all dimensions of an answer carry the same."""
    found: dict[tuple[int, int, str], Remark] = {}
    for judgement in judgements:
        key = judgement.task_id, judgement.user_id
        shown = tuple(orders[key]) if key in orders else None
        for kind in KINDS:
            if text := getattr(judgement, kind):
                videos = tuple((judgement.remark_videos or {}).get(kind, ()))
                found[*key, kind] = Remark(judgement.user.name, kind, text, videos, shown)
    return list(found.values())


def orders_shown(store: Store, campaign: str) -> dict[tuple[int, int], list[int]]:
    """The order in which each person saw the videos of each task, by the ids of task and user."""
    row = store.campaign(campaign)
    query = (
        select(Assignment.task_id, Assignment.user_id, Assignment.permutation)
        .join(Task, Task.id == Assignment.task_id)
        .where(Task.campaign_id == row.id)
    )
    with store.read() as session:
        return {(task, user): order for task, user, order in session.execute(query)}


def exported(remarks: Sequence[Remark], videos: Sequence[str]) -> dict[str, Any]:
    """Remarks of a row of a rankings file: nothing where there are none.

    Returns:
        `flag` and `comment`, the texts; `flag_videos` and `comment_videos`, the videos that each is about where it is
        not about all; `letters`, which video each letter stood for: for the `annotator`, and on the `lead`'s page.
    """
    row: dict[str, Any] = {}
    for remark in remarks:
        row[remark.kind] = remark.text
        if remark.videos:
            row[f"{remark.kind}_videos"] = [videos[position] for position in remark.videos]
        letters = {"lead": {letter(place): video for place, video in enumerate(videos)}}
        if remark.shown is not None:
            letters["annotator"] = {
                letter(place): videos[position] for place, position in enumerate(remark.shown)
            }
        row["letters"] = letters
    return row
