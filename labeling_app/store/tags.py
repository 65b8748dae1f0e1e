"""Reasons (tags) that annotators give for videos, and the moments and places that they mark.

A campaign has a list of tags. With an answer a person gives tags to videos; each may name a moment of the video, and a
point or a box of its picture. They are stored with the answer and never changed: a changed answer brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generator.output import InputError, is_storable
from labeling_app.store.names import composed, is_name
from reward.preferences import DIMENSIONS
from reward.tags import tag_dimension

MAXIMUM_TAGS, LONGEST_TAG = 30, 40
PLACE = ("seconds", "x", "y", "width", "height")
"""Fields of a mark beside its video and its tag: seconds from the video's beginning; left upper corner and size as
shares of the picture, from its left upper corner. A point has no size."""


def checked_tags(tags: Sequence[str]) -> list[str]:
    """The tags of a campaign as they are kept.

    Raises:
        InputError: there are too many, one is no name, or two would be the same dimension of a reward model.
    """
    names = [composed(tag) if is_storable(tag) else tag for tag in tags]
    wrong = [
        name for name in names if not is_name(name, LONGEST_TAG) or "," in name or not tag_dimension(name)
    ]
    if wrong or len(names) > MAXIMUM_TAGS:
        found = f"the tag {wrong[0][:60]!r}" if wrong else f"{len(names)} tags"
        raise InputError(
            f"A campaign cannot have {found}: give up to {MAXIMUM_TAGS} of 1 to {LONGEST_TAG} printable characters, "
            "with a letter and without commas."
        )
    dimensions = [tag_dimension(name) for name in names]
    same = [
        name for place, name in enumerate(names) if dimensions[place] in (*dimensions[:place], *DIMENSIONS)
    ]
    if same:
        raise InputError(
            f"The tag {same[0]!r} reads like another one, or like one of the dimensions {', '.join(DIMENSIONS)}: give "
            "it another name."
        )
    return names


def in_order_shown(
    tags: Sequence[Mapping[str, Any]] | None, permutation: Sequence[int]
) -> list[dict[str, Any]]:
    """Stored marks with videos by the places at which a person saw them."""
    return [{**mark, "video": permutation.index(mark["video"])} for mark in tags or ()]


def exported_tags(tags: Sequence[Mapping[str, Any]] | None, videos: Sequence[str]) -> dict[str, Any]:
    """Marks of a row of a rankings file, with videos by their paths; nothing where nobody was asked for any."""
    if tags is None:
        return {}
    return {"tags": [{**mark, "video": videos[mark["video"]]} for mark in tags]}


def tags_by_video(tags: Sequence[Mapping[str, Any]] | None, count: int) -> tuple[frozenset[str], ...] | None:
    """The tags of each of `count` videos in the task's order, as a `reward.preferences.Ranking` has them."""
    if tags is None:
        return None
    return tuple(
        frozenset(mark["tag"] for mark in tags if mark["video"] == position) for position in range(count)
    )
