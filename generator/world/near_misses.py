"""Groups of clips that differ in a few claims: what a judge of prompt adherence must tell apart.

    python -m generator.world.near_misses --output_dir runs/near_misses --groups 200

Every clip is a demonstration of its own caption. Under the caption of another clip of its group it is the worse the
more claims of theirs differ, so each caption ranks the clips of its group: rankings in unlimited number, which no one
had to judge (hard negatives, as in NegCLIP, arXiv 2210.01936, with the number of wrong claims as the order).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.files.output_folder import Outputs, check_output_dir, open_output_dir
from generator.output import InputError, atomic_path, write_jsonl

from .grammar import describe
from .meaning import Meaning, ObjectMeaning, corrupt, sample_meaning
from .render import render_scenes
from .scene import SceneBatch
from .scene_sampling import solvable_scenes

_DRAWS = 4


@dataclass(frozen=True)
class NearMisses:
    """Groups of `videos` clips each.

    Attributes:
        prompts: `[groups][videos]` caption of each clip.
        ranks: `[groups][videos][videos]` how many claims of the second clip's caption differ from the first's.
        scenes: of all clips, group by group; render them with `render_scenes`.
    """

    prompts: list[list[str]]
    ranks: list[list[list[int]]]
    scenes: SceneBatch


def differing_claims(first: Meaning, second: Meaning) -> int:
    """Number of claims that two meanings do not share; a missing object counts all that is said of it."""
    count = sum(
        getattr(first, name) != getattr(second, name) for name in ("relation", "background", "camera")
    )
    for number in range(max(len(first.objects), len(second.objects))):
        pair = [said.objects[number] if number < len(said.objects) else None for said in (first, second)]
        count += sum(
            getattr(pair[0], f.name, None) != getattr(pair[1], f.name, None) for f in fields(ObjectMeaning)
        )
    return count


def nearest_misses(meaning: Meaning, count: int, rng: random.Random) -> list[Meaning]:
    """Draws `count` wrong meanings, the first of which is the nearest of several, and later ones farther off."""
    found: list[Meaning] = []
    while len(found) < count:
        drawn = [corrupt(meaning, rng) for _ in range(1 if found else _DRAWS)]
        found.append(min(drawn, key=lambda wrong: differing_claims(meaning, wrong)))
    return found


def near_misses(
    groups: int,
    videos: int = 4,
    seed: int = 0,
    split: str = "train",
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
    holds: Callable[[Meaning], bool] | None = None,
) -> NearMisses:
    """Draws groups whose clips all fit into the given size.

    Args:
        groups: how many.
        videos: clips of a group, at least 2.
        seed: the same seed gives the same groups.
        split: "train" says no held-out combination in any caption, "test" says one in the first.
        num_frames, height, width, fps: size of the clips; at least 2 frames.
        holds: which meanings the first clips of the groups have, such as those of a theme; all where not given.
    """
    rng = random.Random(f"near misses {seed} {split}")
    prompts: list[list[str]] = []
    ranks: list[list[list[int]]] = []
    scenes: list[SceneBatch] = []
    drawn = solvable_groups(groups, videos, rng, split, num_frames, height, width, fps, holds)
    for group, captions, clips in drawn:
        prompts.append(captions)
        ranks.append([[differing_claims(asked, shown) for shown in group] for asked in group])
        scenes.append(clips)
    return NearMisses(prompts, ranks, SceneBatch.concatenate(scenes))


def solvable_groups(
    groups: int,
    videos: int,
    rng: random.Random,
    split: str,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    holds: Callable[[Meaning], bool] | None = None,
) -> Iterator[tuple[list[Meaning], list[str], SceneBatch]]:
    """Meanings, captions and scenes of groups of `videos` near misses; drawn until `groups` of them fit the size."""
    found = 0
    while found < groups:
        drawn: list[list[Meaning]] = []
        for _ in range(groups - found):
            meaning = sample_meaning(rng, split)
            while holds is not None and not holds(meaning):
                meaning = sample_meaning(rng, split)
            drawn.append([meaning, *nearest_misses(meaning, videos - 1, rng)])
        flat = [meaning for group in drawn for meaning in group]
        solved, rows = solvable_scenes(flat, rng.getrandbits(60), num_frames, height, width, fps)
        place = {row: number for number, row in enumerate(rows)}
        for number, group in enumerate(drawn):
            own = range(number * videos, (number + 1) * videos)
            if all(row in place for row in own):
                found += 1
                captions = [describe(meaning, rng) for meaning in group]
                yield group, captions, solved.index([place[row] for row in own])


def _has_claims(folder: Path) -> bool:
    """Returns whether a folder without a mark holds rankings of near misses."""
    try:
        with (folder / "rankings.jsonl").open(encoding="utf-8") as file:
            return json.loads(file.readline())["annotator"] == "claims"
    except (OSError, ValueError, KeyError, TypeError):
        return False


OUTPUTS = Outputs("near_misses", ("#-#.mp4", "rankings.jsonl"), is_record=_has_claims)


def write_near_misses(
    folder: str | Path,
    groups: int,
    videos: int = 4,
    seed: int = 0,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
    overwrite: bool = False,
) -> Path:
    """Writes the clips and `rankings.jsonl`, one ranking a caption, into `folder`; returns the rankings file."""
    check_output_dir(folder, OUTPUTS, overwrite)
    drawn = near_misses(groups, videos, seed, "train", num_frames, height, width, fps)
    made = (
        (
            render_scenes(
                drawn.scenes.index(slice(row * videos, (row + 1) * videos)), num_frames, height, width, fps
            ),
            list(zip(prompts, ranks, strict=True)),
        )
        for row, (prompts, ranks) in enumerate(zip(drawn.prompts, drawn.ranks, strict=True))
    )
    return write_groups(folder, made, fps, overwrite)


def write_groups(
    folder: str | Path,
    groups: Iterable[tuple[Tensor, Sequence[tuple[str, Sequence[int]]]]],
    fps: float,
    overwrite: bool = False,
) -> Path:
    """Writes groups of clips `[videos, 3, frames, height, width]`, each with its prompts and ranks, into `folder`;
    returns `rankings.jsonl`."""
    from generator.video import write_video

    folder = open_output_dir(folder, OUTPUTS, overwrite)
    rows: list[dict[str, Any]] = []
    for number, (clips, rankings) in enumerate(groups):
        names = [f"{number:05d}-{clip}.mp4" for clip in range(len(clips))]
        for name, clip in zip(names, clips, strict=True):
            write_video(folder / name, clip, fps)
        for prompt, ranks in rankings:
            ranked = [(name, rank) for name, rank in zip(names, ranks, strict=True) if rank >= 0]
            rows.append(
                {
                    "prompt": prompt,
                    "videos": [name for name, _ in ranked],
                    "ranks": [rank for _, rank in ranked],
                    "dimension": "overall",
                    "annotator": "claims",
                }
            )
    with atomic_path(folder / "rankings.jsonl") as temporary:
        write_jsonl(temporary, rows)
    return folder / "rankings.jsonl"


def run_command(
    write: Callable[..., Path],
    prog: str,
    description: str | None,
    arguments: Sequence[str] | None,
    videos: bool,
) -> None:
    """Runs a command that writes groups of clips by `write`; with `videos` their number in a group may be chosen."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--output_dir", required=True, help="Folder of the clips and their rankings.jsonl.")
    parser.add_argument("--groups", type=int, default=200, help="Groups of clips.")
    if videos:
        parser.add_argument("--videos", type=int, default=4, help="Clips of a group.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--overwrite", action="store_true")
    named = vars(parser.parse_args(arguments))
    if named["groups"] < 1 or not 2 <= named.get("videos", 2) <= 9 or named["num_frames"] < 2:
        chosen = ", --videos from 2 to 9" if videos else ""
        parser.error(f"--groups must be at least 1{chosen} and --num_frames at least 2")
    try:
        print(write(named.pop("output_dir"), **named))
    except InputError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(write_near_misses, "python -m generator.world.near_misses", __doc__, arguments, videos=True)


if __name__ == "__main__":
    main()
