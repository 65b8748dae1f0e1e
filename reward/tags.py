"""Tags: reasons that annotators gave for single videos of a ranking, and the rankings that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from generator.one_or_several import as_list
from generator.output import InputError

if TYPE_CHECKING:
    from reward.preferences import Ranking


def tag_dimension(tag: str) -> str:
    """Name of the dimension that a tag becomes: `wrong_motion` for "Wrong motion"; empty without a letter or digit."""
    return re.sub(r"\W+", "_", tag.casefold()).strip("_")


def read_tags(row: dict[str, Any], videos: Sequence[str], place: str) -> tuple[frozenset[str], ...] | None:
    """The tags of each video of a row of a rankings file; None where the annotator was not asked for any.

    Args:
        row: `tags` lists objects with `video`, one of `videos`, and `tag`; what else they hold is not read.
        place: file and line, for messages.

    Raises:
        InputError: it is no such list.
    """
    given = row.get("tags")
    if given is None:
        return None
    good = isinstance(given, list) and all(
        isinstance(each, dict)
        and each.get("video") in videos
        and isinstance(each.get("tag"), str)
        and tag_dimension(each["tag"])
        for each in given
    )
    if not good:
        raise InputError(
            f'{place}: `tags` must list objects such as {{"video": {videos[0]!r}, "tag": "artefact"}} with videos of '
            f"the ranking, but {str(given)[:100]} was found."
        )
    return tuple(frozenset(each["tag"] for each in given if each["video"] == video) for video in videos)


def tag_rankings(rankings: Iterable[Ranking], tags: Sequence[str]) -> list[Ranking]:
    """Rankings by tags: each tag is a dimension in which a video with it ranks below one without.

    All dimensions of an answer carry the same tags, so each answer gives one ranking a tag. Videos that the annotator
    did not judge keep the rank -1.

    Args:
        tags: by their own names or by those of their dimensions (`tag_dimension`).

    Raises:
        InputError: nobody gave a tag, a tag is named twice, or all videos of each answer are alike in a tag.
    """
    asked = [ranking for ranking in rankings if ranking.tags is not None]
    wanted = [tag_dimension(tag) for tag in as_list(tags)]
    given = sorted({tag for ranking in asked for of_video in ranking.tags or () for tag in of_video})
    if not wanted or "" in wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"The tags {list(as_list(tags))} are not usable: name one or more, each once.")
    answers = {
        (ranking.annotator, ranking.prompt, *ranking.videos, ranking.tags): ranking for ranking in asked
    }
    found = []
    for dimension in wanted:
        if dimension not in {tag_dimension(tag) for tag in given}:
            raise InputError(
                f"No video of the rankings has the tag {dimension!r} (there is: {', '.join(given) or 'none'}): name "
                "one of these, or give rankings that `vidalign label export` wrote of a campaign with tags."
            )
        made = [_by_tag(answer, dimension) for answer in answers.values()]
        if not any(ranking.has_order for ranking in made):
            raise InputError(
                f"In each answer all videos have the tag {dimension!r} or none has it, which orders nothing: leave the "
                "tag out or collect more answers."
            )
        found += made
    return found


def _by_tag(answer: Ranking, dimension: str) -> Ranking:
    not_judged = -1
    has_it = [any(tag_dimension(tag) == dimension for tag in tags) for tags in answer.tags or ()]
    ranks = [
        not_judged if rank == not_judged else 1 + tagged
        for rank, tagged in zip(answer.ranks, has_it, strict=True)
    ]
    return replace(answer, ranks=ranks, dimension=dimension, votes=None)
