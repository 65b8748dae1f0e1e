"""Preference files of other projects, read as rankings and written from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from generator.output import InputError
from generator.video_files.remote_files import RemoteFiles
from reward.formats import genai_bench, image_reward, rapidata, videogen_rewardbench
from reward.formats.tables import read_rows
from reward.preferences import Ranking, read_rankings, refuse_database, write_rankings

FORMATS: dict[str, ModuleType] = {
    "videogen-rewardbench": videogen_rewardbench,
    "genai-bench": genai_bench,
    "imagereward": image_reward,
    "rapidata": rapidata,
}
OWN = "vidalign"
FORMAT_HELP = (
    "Layout of the preferences file: auto looks at its columns; or "
    f"{', '.join([OWN, *FORMATS])} (docs/data-formats.md)."
)


def _known(name: str) -> ModuleType | None:
    if name != OWN and name not in FORMATS:
        raise InputError(f"The format {name!r} is unknown: use auto, {', '.join([OWN, *FORMATS])}.")
    return FORMATS.get(name)


def detect_format(path: Path) -> str:
    """The name of the layout of a preferences file, by the columns of its first row.

    Raises:
        InputError: the columns fit no known layout.
    """
    if not path.is_file() or path.suffix not in (".csv", ".json", ".jsonl", ".parquet"):
        return OWN
    if path.suffix == ".jsonl":
        # Our own reader names file and line of a mistake, so only rows that fit another layout leave it.
        try:
            first = read_rows(path)[0]
        except InputError:
            return OWN
        return next((name for name, module in FORMATS.items() if module.fits(first)), OWN)
    first = read_rows(path)[0]
    for name, module in FORMATS.items():
        if module.fits(first):
            return name
    raise InputError(
        f"{path} has the columns {', '.join(map(str, first))}, which fit none of {', '.join([OWN, *FORMATS])}: "
        "see docs/data-formats.md."
    )


def read_preferences(
    path: str | Path, format: str = "auto", remote: RemoteFiles | None = None
) -> list[Ranking]:
    """Rankings from a file of any known layout; see `FORMATS` and `reward.preferences.read_rankings`.

    Args:
        remote: as for `read_rankings`; other layouts name files of this machine only.

    Raises:
        InputError: with file and row: an unknown layout, a missing video, an unusable label; or a video is compared
            with itself, or no ranking puts one video above another.
    """
    refuse_database(path)
    path = Path(path)
    module = _known(detect_format(path) if format == "auto" else format)
    if module is None:
        return read_rankings(path, remote)
    rankings = module.read(path)
    if not any(ranking.has_order for ranking in rankings):
        raise InputError(f"{path} holds no order at all: at least one row must put one video above another.")
    return rankings


def write_preferences(path: str | Path, rankings: Sequence[Ranking], format: str = OWN) -> None:
    """Writes rankings in a layout by its name.

    Raises:
        InputError: the layout is unknown or cannot hold these rankings.
    """
    module = _known(format)
    if module is None:
        write_rankings(path, rankings)
    else:
        module.write(Path(path), rankings)
