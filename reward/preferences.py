"""Human preferences: rankings of several videos of one prompt, read, checked, split, merged and turned into
pairs.

A rankings file is JSONL, one ranking a line (ImageReward's and HPD's layout with explicit dimensions):

    {"prompt": "a red ball rolls left", "videos": ["a.mp4", "b.mp4", "c.mp4"], "ranks": [1, 2, 2],
     "dimension": "overall", "annotator": "ann", "seconds": 12.5, "created_at": "2026-01-31T12:00:00+00:00"}

A lower rank is better, equal ranks are a tie, -1 is a video that the annotator did not judge. `image` and `last_image`
name what all the videos begin and end with. Paths are relative to the file; files of other storage are named by URLs
(`s3://…`). `tags` lists reasons that the annotator gave for single videos, `{"video": "b.mp4", "tag": "wrong motion"}`;
an empty list says that there were none to give.
"""

from __future__ import annotations

import math
import os
import random
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from generator.data.prompts import read_image_files
from generator.files.folders import file_identity
from generator.output import InputError, read_jsonl, write_jsonl
from reward.ranked_files import RankedFiles
from reward.tags import read_tags

if TYPE_CHECKING:
    from generator.video_files.remote_files import RemoteFiles

DIMENSIONS = ("overall", "visual", "motion", "alignment")
MIN_VIDEOS, MAX_VIDEOS = 2, 9
MISSING = -1
_DATABASES = ("sqlite", "postgres", "mysql", "mariadb", "oracle", "mssql")
FEW_PROMPTS = 30
"""Prompts below which a training command warns: the usual fifth of them holds out fewer than the six that an interval
takes (`reward.statistics.LEAST_CLUSTERS`)."""


@dataclass(frozen=True)
class Ranking:
    """One annotator's order of the videos of one prompt, in one dimension.

    Attributes:
        prompt: the text that the videos were made from.
        videos: 2 to 9 video files.
        ranks: one a video; lower is better, equal is a tie, -1 is not judged.
        dimension: `overall`, `visual`, `motion` or `alignment`, or that of a tag (`reward.tags.tag_rankings`).
        annotator: who ranked; empty where unknown.
        seconds: how long it took, or None.
        created_at: ISO 8601 time, or None.
        votes: votes (or shares of them) of several people for each video, where the ranking sums them up, or None.
        images: files of the image that all videos begin with and of that with which they end, or None.
        tags: those that each video got, or None where the annotator was not asked for any.
        weights: `[videos][videos]` weight of each pair in the loss of a reward model (`reward.tags.weighted_by_tags`);
            None counts all pairs alike.
    """

    prompt: str
    videos: list[Path]
    ranks: list[int]
    dimension: str = "overall"
    annotator: str = ""
    seconds: float | None = None
    created_at: str | None = None
    votes: list[float] | None = None
    images: tuple[str, str | None] | None = None
    tags: tuple[frozenset[str], ...] | None = None
    weights: tuple[tuple[float, ...], ...] | None = None

    @property
    def has_order(self) -> bool:
        """True where at least one judged video is above another one."""
        return len({rank for rank in self.ranks if rank != MISSING}) > 1


class PreferencePair(TypedDict):
    """One row in TRL's preference format, plus `tie`."""

    prompt: str
    chosen: str
    rejected: str
    tie: bool


def _fail(place: str, found: str) -> InputError:
    return InputError(f"{place}: {found}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_ranks(row: dict[str, Any], videos: list[str], place: str) -> list[int]:
    ranks = row.get("ranks")
    if not isinstance(ranks, list) or not ranks:
        raise _fail(
            place,
            f"the ranking of {row['prompt']!r} has no order: give `ranks`, one whole number a video, lower is better",
        )
    if len(ranks) != len(videos):
        raise _fail(
            place,
            f"{len(ranks)} ranks were found for {len(videos)} videos: give exactly one rank a video",
        )
    for rank in ranks:
        if not _is_number(rank) or rank != int(rank) or rank < MISSING:
            raise _fail(
                place,
                f"the rank {rank!r} is not a whole number from 0 on (or -1 for a video not judged)",
            )
    if sum(rank != MISSING for rank in ranks) < 2:
        raise _fail(
            place,
            f"the ranking of {row['prompt']!r} has no order: at least two of its videos must have a rank",
        )
    return [int(rank) for rank in ranks]


def _check_videos(row: dict[str, Any], files: RankedFiles, place: str) -> list[Path]:
    """The paths of the videos of a line."""
    videos = row.get("videos")
    if not isinstance(videos, list) or not all(isinstance(video, str) and video for video in videos):
        raise _fail(place, "`videos` must be a list of paths")
    if not MIN_VIDEOS <= len(videos) <= MAX_VIDEOS:
        raise _fail(
            place,
            f"{len(videos)} videos were found, but a ranking has {MIN_VIDEOS} to {MAX_VIDEOS} of them",
        )
    paths = [files.path(video, place) for video in videos]
    for video, path in zip(videos, paths, strict=True):
        if not (files.is_elsewhere(path) or path.is_file()):
            raise _fail(
                place,
                f"the video {video} does not exist: paths are relative to the folder of the rankings file",
            )
    check_distinct(paths, place)
    return paths


def _check_votes(row: dict[str, Any], videos: list[str], place: str) -> list[float] | None:
    votes = row.get("votes")
    if votes is None:
        return None
    good = isinstance(votes, list) and len(votes) == len(videos)
    if not good or not all(_is_number(vote) and vote >= 0 for vote in votes):
        raise _fail(place, f"`votes` must hold one number from 0 on a video, but {votes!r} was found")
    return [float(vote) for vote in votes]


def check_distinct(videos: Sequence[Path], place: str) -> None:
    """Raises `InputError`, with `place` in it, if two videos of a ranking are one file, under whatever names."""
    if len({file_identity(video) for video in videos}) != len(videos):
        raise InputError(
            f"{place}: two videos of one ranking are one file ({', '.join(map(str, videos))}): name each video once, "
            "and keep files that share a name at the paths that the file names."
        )


def _parse_row(row: dict[str, Any], files: RankedFiles, place: str, opened: set[str]) -> Ranking:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _fail(place, "`prompt` must be a non-empty text")
    dimension = row.get("dimension") or "overall"
    if dimension not in DIMENSIONS:
        raise _fail(place, f"the dimension {dimension!r} is unknown: use one of {', '.join(DIMENSIONS)}")
    seconds = row.get("seconds")
    if seconds is not None and not _is_number(seconds):
        raise _fail(place, f"`seconds` must be a number, but {seconds!r} was found")
    paths = _check_videos(row, files, place)
    videos = row["videos"]
    return Ranking(
        prompt=prompt,
        videos=paths,
        ranks=_check_ranks(row, videos, place),
        dimension=dimension,
        annotator=str(row.get("annotator") or ""),
        seconds=None if seconds is None else float(seconds),
        created_at=row.get("created_at"),
        votes=_check_votes(row, videos, place),
        images=read_image_files(files.with_images(row, place), place, files.folder, opened),
        tags=read_tags(row, videos, place),
    )


def refuse_database(path: str | Path) -> None:
    """Refuses the URL of a database or of a file elsewhere where a file is read, without showing it: it may hold a
    password.

    Raises:
        InputError: it is one.
    """
    scheme = str(path).partition("://")[0] if "://" in str(path) else ""
    if str(path).startswith("db:") or scheme.startswith(_DATABASES):
        raise InputError(
            "A database was given where a file of rankings is read: write one with `vidalign label export` and give "
            "that."
        )
    if scheme:
        raise InputError(
            f"A URL ({scheme[:20]}://…) was given where a file of rankings is read: fetch the file and give its path; "
            "the videos that it names by URLs may stay where they are."
        )


def require_rankings_file(path: str | Path) -> None:
    """Raises `InputError` where there is no file at `path`."""
    refuse_database(path)
    if not Path(path).is_file():
        raise InputError(
            f"The rankings file {path} does not exist: give the path of a JSONL file of rankings."
        )


def require_source(source: str, format: str = "auto") -> None:
    """Raises `InputError` where a file of rankings is not there; the reader of a named layout says so itself."""
    if format == "auto" and not source.startswith("db:"):
        require_rankings_file(source)


def read_rankings(path: str | Path, remote: RemoteFiles | None = None) -> list[Ranking]:
    """Reads and checks a rankings file; video paths come back joined to the file's folder.

    Rankings in which everything is tied are kept: they say that the videos are alike (see
    `Ranking.has_order`).

    Args:
        remote: gives videos of other storage their places, to which the caller brings them; by default they are fetched
            now and stay in `$VIDALIGN_CACHE/remote`.

    Raises:
        InputError: with file and line: missing file or video, not JSON, wrong number of ranks or videos, no
            ranks, unknown dimension; where no ranking of the whole file puts one video above another; and where a video
            of other storage cannot be fetched.
    """
    require_rankings_file(path)
    path = Path(path)
    opened: set[str] = set()
    files = RankedFiles(path.parent, remote)
    rankings = [_parse_row(row, files, place, opened) for place, row in read_jsonl(path)]
    if not rankings:
        raise InputError(
            f"The rankings file {path} is empty: it needs at least one ranking, one JSON object a line."
        )
    if not any(ranking.has_order for ranking in rankings):
        raise InputError(
            f"{path} holds no order at all, since in each of its {len(rankings)} rankings all videos are tied: at "
            "least one ranking must put one video above another."
        )
    files.fetch()
    return rankings


def write_rankings(path: str | Path, rankings: Sequence[Ranking]) -> None:
    """Writes rankings as JSONL with video paths relative to the file's folder."""
    path = Path(path)
    root = path.parent.resolve()
    rows = []

    def relative(file: str | Path) -> str:
        return Path(os.path.relpath(Path(file).resolve(), root)).as_posix()

    for ranking in rankings:
        row: dict[str, Any] = {
            "prompt": ranking.prompt,
            "videos": [relative(video) for video in ranking.videos],
            "ranks": list(ranking.ranks),
            "dimension": ranking.dimension,
            "annotator": ranking.annotator,
        }
        if ranking.seconds is not None:
            row["seconds"] = ranking.seconds
        if ranking.created_at is not None:
            row["created_at"] = ranking.created_at
        if ranking.votes is not None:
            row["votes"] = ranking.votes
        for name, file in zip(("image", "last_image"), ranking.images or (), strict=False):
            if file is not None:
                row[name] = relative(file)
        if ranking.tags is not None:
            row["tags"] = [
                {"video": video, "tag": tag}
                for video, tags in zip(row["videos"], ranking.tags, strict=True)
                for tag in sorted(tags)
            ]
        rows.append(row)
    write_jsonl(path, rows)


def in_known_order(dimensions: Iterable[str]) -> list[str]:
    """Dimensions in the order of `DIMENSIONS`, then those of tags by name."""
    found = set(dimensions)
    return [*(name for name in DIMENSIONS if name in found), *sorted(found.difference(DIMENSIONS))]


def warn_of_few_prompts(prompts: Iterable[str], consequence: str) -> None:
    """Prints a warning to stderr where there are fewer than `FEW_PROMPTS` different prompts.

    Args:
        consequence: what few prompts mean for this command, the end of a sentence.
    """
    count = len({prompt_key(prompt) for prompt in prompts})
    if count < FEW_PROMPTS:
        print(
            f"Warning: {count} {'prompt is' if count == 1 else 'prompts are'} few, below {FEW_PROMPTS} {consequence}: "
            "add prompts.",
            file=sys.stderr,
        )


def prompt_key(prompt: str) -> str:
    """A text that prompts share which differ only in Unicode form, case or white space."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def split_by_prompt(
    rankings: Sequence[Ranking], fraction: float, seed: int
) -> tuple[list[Ranking], list[Ranking]]:
    """Splits into `(train, held_out)` so that no prompt stands on both sides, however it is typed (`prompt_key`).

    Args:
        fraction: share of the prompts that is held out, in [0, 1). Any share above zero holds out at least
            one prompt, and at least one prompt stays for training.

    Raises:
        InputError: there are fewer than two prompts and `fraction` is above zero.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"The held-out fraction is {fraction}, but it must be at least 0 and below 1.")
    # In the order of the texts themselves, in which prompts were always drawn.
    prompts = list(dict.fromkeys(prompt_key(text) for text in sorted({r.prompt for r in rankings})))
    if fraction == 0:
        return list(rankings), []
    if len(prompts) < 2:
        raise InputError(
            f"The rankings have {len(prompts)} prompt, but a split by prompt needs at least 2: "
            "add prompts or hold out nothing."
        )
    random.Random(seed).shuffle(prompts)
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1)
    held_out = set(prompts[:count])
    return (
        [ranking for ranking in rankings if prompt_key(ranking.prompt) not in held_out],
        [ranking for ranking in rankings if prompt_key(ranking.prompt) in held_out],
    )


def split_rankings(
    rankings: Sequence[Ranking], held_out_fraction: float, validation_fraction: float, seed: int
) -> tuple[list[Ranking], list[Ranking], list[Ranking]]:
    """`(train, validation, held_out)` by prompt; splits that there are too few prompts for stay empty."""
    prompts = len({prompt_key(ranking.prompt) for ranking in rankings})
    rest, held_out = split_by_prompt(rankings, held_out_fraction if prompts >= 2 else 0.0, seed)
    remaining = len({prompt_key(ranking.prompt) for ranking in rest})
    share = validation_fraction / max(1e-9, 1 - held_out_fraction)
    enough = validation_fraction > 0 and remaining >= 4
    train, validation = split_by_prompt(rest, min(share, 0.5) if enough else 0.0, seed + 1)
    return train, validation, held_out


def merge_annotators(rankings: Sequence[Ranking]) -> list[Ranking]:
    """One ranking for each set of videos, prompt and dimension: the order of mean ranks (Borda count).

    Each annotator's ranks are first made comparable (average ranks from 1 to the number of judged videos),
    so a ranking 10, 20, 20 counts like 1, 2.5, 2.5. Equal means are a tie. A group of one ranking comes back
    as it is.
    """
    groups: dict[tuple[str, str, tuple[Path, ...]], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault((ranking.prompt, ranking.dimension, tuple(sorted(ranking.videos))), []).append(
            ranking
        )
    return [group[0] if len(group) == 1 else _borda(group) for group in groups.values()]


def _borda(group: list[Ranking]) -> Ranking:
    totals: dict[Path, list[float]] = {video: [] for video in group[0].videos}
    for ranking in group:
        judged = [rank for rank in ranking.ranks if rank != MISSING]
        for video, rank in zip(ranking.videos, ranking.ranks):
            if rank != MISSING:
                below, equal = sum(other < rank for other in judged), judged.count(rank)
                totals[video].append(below + (equal + 1) / 2)
    means = {video: round(sum(values) / len(values), 9) for video, values in totals.items() if values}
    levels = sorted(set(means.values()))
    return Ranking(
        prompt=group[0].prompt,
        videos=list(group[0].videos),
        ranks=[levels.index(means[video]) + 1 if video in means else MISSING for video in group[0].videos],
        dimension=group[0].dimension,
        annotator="+".join(sorted({ranking.annotator for ranking in group if ranking.annotator})),
        images=group[0].images,
    )


def preference_pairs(rankings: Iterable[Ranking], ties: bool = False) -> list[PreferencePair]:
    """All pairs of judged videos in TRL's preference columns `prompt, chosen, rejected`, and `tie`.

    Args:
        ties: whether tied pairs are kept; in them `chosen` is merely the video that stands first.
    """
    pairs: list[PreferencePair] = []
    for ranking in rankings:
        judged = [(rank, video) for rank, video in zip(ranking.ranks, ranking.videos) if rank != MISSING]
        for index, (rank, video) in enumerate(judged):
            for other_rank, other in judged[index + 1 :]:
                if rank == other_rank and not ties:
                    continue
                chosen, rejected = (video, other) if rank <= other_rank else (other, video)
                pairs.append(
                    PreferencePair(
                        prompt=ranking.prompt,
                        chosen=str(chosen),
                        rejected=str(rejected),
                        tie=rank == other_rank,
                    )
                )
    return pairs
