"""Tags: reasons that annotators gave for single videos of a ranking, the rankings that follow from them, and weights of
pairs by them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
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
    asked = list(rankings)
    wanted = [tag_dimension(tag) for tag in as_list(tags)]
    if not wanted or "" in wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"The tags {list(as_list(tags))} are not usable: name one or more, each once.")
    _check_given(wanted, asked)
    found = []
    for dimension in wanted:
        made = [_by_tag(answer, dimension) for answer in _answers(asked)]
        if not any(ranking.has_order for ranking in made):
            raise InputError(
                f"In each answer all videos have the tag {dimension!r} or none has it, which orders nothing: leave the "
                "tag out or collect more answers."
            )
        found += made
    return found


def _answers(rankings: Iterable[Ranking]) -> list[Ranking]:
    """One ranking of each answer whose annotator was asked for tags, which all its dimensions carry alike."""
    asked = (ranking for ranking in rankings if ranking.tags is not None)
    return list({(r.annotator, r.prompt, *r.videos, r.tags): r for r in asked}.values())


def _check_given(dimensions: Iterable[str], rankings: Iterable[Ranking]) -> None:
    """Raises `InputError` where no video has the tag of one of the dimensions; it names the tags that there are."""
    given = sorted({tag for ranking in rankings for of_video in ranking.tags or () for tag in of_video})
    known = {tag_dimension(tag) for tag in given}
    for dimension in dimensions:
        if dimension not in known:
            raise InputError(
                f"No video of the rankings has the tag {dimension!r} (there is: {', '.join(given) or 'none'}): name "
                "one of these, or give rankings that `vidalign label export` wrote of a campaign with tags."
            )


def _by_tag(answer: Ranking, dimension: str) -> Ranking:
    not_judged = -1
    has_it = [any(tag_dimension(tag) == dimension for tag in tags) for tags in answer.tags or ()]
    ranks = [
        not_judged if rank == not_judged else 1 + tagged
        for rank, tagged in zip(answer.ranks, has_it, strict=True)
    ]
    return replace(answer, ranks=ranks, dimension=dimension, votes=None)


def read_tag_weights(texts: Sequence[str]) -> dict[str, float]:
    """Weights of tags, by the names of their dimensions, from texts such as `artefact=0.5`.

    Raises:
        InputError: a text is not TAG=NUMBER with a number from 0 on, or a tag is named twice.
    """
    weights: dict[str, float] = {}
    for text in as_list(texts):
        name, separator, number = text.rpartition("=")
        tag = tag_dimension(name)
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not separator or not tag or tag in weights or not 0 <= weight < math.inf:
            raise InputError(
                f"The weight of a tag {text[:100]!r} is not usable: write TAG=NUMBER with a number from 0 on, such as "
                "artefact=0.5, each tag once."
            )
        weights[tag] = weight
    return weights


def pair_weight(first: Iterable[str], second: Iterable[str], weights: Mapping[str, float]) -> float:
    """Weight of a pair of videos with these tags: the product of the weights of the tags that either of them has.

    Args:
        weights: by the names of the tags' dimensions; other tags weigh 1.
    """
    return math.prod(weights.get(tag, 1.0) for tag in {tag_dimension(each) for each in (*first, *second)})


def weighted_by_tags(
    rankings: Sequence[Ranking], weights: Mapping[str, float], merged_from: Iterable[Ranking] = ()
) -> list[Ranking]:
    """The rankings with a weight of each pair of videos, by their tags (`pair_weight`).

    A ranking without tags has those of the rankings that it was merged from: a pair weighs the mean over the answers
    that hold it, 1 where there is none. All weights are then divided by their mean: over the rankings, of the mean over
    the judged pairs of each. So the loss keeps its size, and the learning rate its meaning.

    Args:
        weights: by the names of the tags' dimensions (`read_tag_weights`).
        merged_from: the annotators' own rankings, where some of `rankings` are merged.

    Raises:
        InputError: nobody gave one of the tags, or all pairs weigh 0.
    """
    own = list(merged_from)
    _check_given(weights, [*rankings, *own])
    shared: dict[tuple[str, frozenset[Any]], list[float]] = {}
    for answer in _answers(own):
        for (video, tags), (other, its_tags) in combinations(zip(answer.videos, answer.tags or ()), 2):
            weight = pair_weight(tags, its_tags, weights)
            shared.setdefault((answer.prompt, frozenset((video, other))), []).append(weight)

    def weight_of(ranking: Ranking, i: int, j: int) -> float:
        if i == j:
            return 1.0
        if ranking.tags is not None:
            return pair_weight(ranking.tags[i], ranking.tags[j], weights)
        given = shared.get((ranking.prompt, frozenset((ranking.videos[i], ranking.videos[j]))), [1.0])
        return sum(given) / len(given)

    tables, means = [], []
    for ranking in rankings:
        numbers = range(len(ranking.videos))
        table = [[weight_of(ranking, i, j) for j in numbers] for i in numbers]
        judged = [number for number in numbers if ranking.ranks[number] >= 0]
        pairs = [table[i][j] for i, j in combinations(judged, 2)]
        tables.append(table)
        means.append(sum(pairs) / len(pairs))
    mean = sum(means) / len(means)
    if mean == 0:
        raise InputError(
            "By the weights of the tags each pair of the rankings weighs 0, so nothing is learned: give some tag a "
            "larger weight."
        )
    return [
        replace(ranking, weights=tuple(tuple(weight / mean for weight in row) for row in table))
        for ranking, table in zip(rankings, tables, strict=True)
    ]
