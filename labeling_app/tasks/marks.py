"""Checks of the tags that come with an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labeling_app.store.tags import PLACE
from labeling_app.tasks.lease import Refused

MAXIMUM_MARKS = 200
LONGEST_VIDEO_SECONDS = 86_400.0


def checked_marks(
    given: Sequence[Mapping[str, Any]] | None, tags: Sequence[str], permutation: Sequence[int]
) -> list[dict[str, Any]] | None:
    """Marks as they are stored: each once, with videos by their positions in the task's order.

    Args:
        given: `video` (the place shown, from 0) and `tag`, and of `labeling_app.store.tags.PLACE` what is marked; None
            where the annotator was not asked.
        tags: those of the campaign.
        permutation: `permutation[i]` is the task's position of the video shown at place i.

    Raises:
        Refused: a video or tag is not there, or a moment or place lies outside of the video.
    """
    if given is None or not (tags or given):
        return None
    if len(given) > MAXIMUM_MARKS:
        raise Refused(
            f"There are {len(given)} marks, but an answer has at most {MAXIMUM_MARKS}: remove some."
        )
    marks: list[dict[str, Any]] = []
    for each in given:
        if not 0 <= each["video"] < len(permutation):
            raise Refused(f"A mark is about a video that is not there: the task has {len(permutation)}.")
        if each["tag"] not in tags:
            raise Refused(f"The tag {each['tag'][:60]!r} is not one of this campaign: reload the page.")
        place = {name: float(each[name]) for name in PLACE if each.get(name) is not None}
        if not is_place(place):
            raise Refused("A mark lies outside of the video: mark it again.")
        mark = {"video": permutation[each["video"]], "tag": each["tag"], **place}
        if mark not in marks:
            marks.append(mark)
    return sorted(marks, key=lambda mark: (mark["video"], tags.index(mark["tag"]), mark.get("seconds", -1.0)))


def is_place(place: Mapping[str, float]) -> bool:
    """Returns whether these are nothing; a moment (`seconds`); a moment and a point; or a moment and a box inside the
    picture."""
    if set(place) not in (set(), {"seconds"}, {"seconds", "x", "y"}, set(PLACE)):
        return False
    if not all(math.isfinite(value) and value >= 0 for value in place.values()):
        return False
    if place.get("seconds", 0.0) > LONGEST_VIDEO_SECONDS:
        return False
    right, bottom = (
        place.get(start, 0.0) + place.get(size, 0.0) for start, size in (("x", "width"), ("y", "height"))
    )
    return right <= 1 + 1e-6 and bottom <= 1 + 1e-6
