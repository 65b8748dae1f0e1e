"""Page of a preparation: the clips that were kept, and the parts that were not by reason, each with a still."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alignment.preparation.clips import REASONS
from generator.output import InputError, write_json, write_text
from generator.video import read_clip
from reward.reports.clips import still_element
from reward.reports.html import GalleryCell, plain_table
from reward.reports.made import made_now
from reward.reports.sheet import Stills, sheet
from reward.reports.tables import settings_table

PAGE, REPORT = "report.html", "report.json"
MOST_KEPT, MOST_OF_REASON = 48, 12
"""Stills that are shown of the kept clips, and of each reason."""
_HEIGHT = 108
UNREADABLE = "could not be read"

Rows = Sequence[dict[str, Any]]


def write_report(folder: Path, source: Path, kept: Rows, rejected: Rows, settings: Mapping[str, Any]) -> None:
    """Writes `report.html` and `report.json` into the folder of a preparation.

    Args:
        folder: of the clips.
        source: of the long videos, in which parts that were left out are looked at.
        kept, rejected: lines of `metadata.jsonl` and `rejected.jsonl`.
        settings: of the preparation.
    """
    by_reason = rejected_by_reason(rejected)
    seconds = {"kept": _seconds(kept), **{name: _seconds(rows) for name, rows in by_reason.items()}}
    counts = {"kept": len(kept), **{name: len(rows) for name, rows in by_reason.items()}}
    made = made_now()
    write_json(
        folder / REPORT,
        {"parts": counts, "seconds": seconds, "settings": dict(settings), "made": made},
    )
    parts, whole = len(kept) + len(rejected), sum(seconds.values())
    page = sheet(
        "Clips of long videos",
        f"{len(kept)} of {parts} parts became clips: {seconds['kept']:.0f} of {whole:.0f} seconds.",
        {"videos": str(len({row["source"] for row in (*kept, *rejected)})), "folder": folder.name},
        plain_table(
            ["part", "number", "seconds"],
            [[name, str(counts[name]), f"{seconds[name]:.1f}"] for name in counts],
        ),
        [
            _kept_stills(folder, kept),
            *(_rejected_stills(source, name, rows) for name, rows in by_reason.items()),
        ],
        settings_table({**settings, **made}),
    )
    write_text(folder / PAGE, page)


def rejected_by_reason(rejected: Rows) -> dict[str, list[dict[str, Any]]]:
    """Parts and videos that were not kept by kind of reason, the most frequent first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rejected:
        kinds = [kind for begins, kind in REASONS.items() if row["reason"].startswith(begins)]
        found[kinds[0] if kinds else UNREADABLE].append(row)
    return dict(sorted(found.items(), key=lambda each: -len(each[1])))


def _kept_stills(folder: Path, kept: Rows) -> Stills:
    cells = [
        GalleryCell(
            label=row["file_name"],
            media=_still(folder / row["file_name"], (row["end"] - row["start"]) / 2, row),
            how=f"{_place(row)}, motion {row['motion']:.3f}, flicker {row['flicker']:.3f}",
            link=quote(row["file_name"]),
        )
        for row in _spread(kept, MOST_KEPT)
    ]
    return Stills("Kept", _rule(len(cells), len(kept)), cells)


def _rejected_stills(source: Path, name: str, rows: Rows) -> Stills:
    cells = []
    for row in _spread(rows, MOST_OF_REASON):
        has_part = "start" in row
        middle = (row["start"] + row["end"]) / 2 if has_part else 0.0
        media = _still(source / row["source"], middle, row) if has_part else ""
        where = f"{_place(row)}: " if has_part else ""
        cells.append(GalleryCell(label=row["source"], media=media, how=f"{where}{row['reason']}"))
    return Stills(f"Left out: {name}", _rule(len(cells), len(rows)), cells)


def _spread(rows: Rows, most: int) -> list[dict[str, Any]]:
    """At most so many rows, spread evenly over all."""
    count = min(len(rows), most)
    return [rows[place * len(rows) // count] for place in range(count)]


def _rule(shown: int, found: int) -> str:
    return f"All {found}." if shown == found else f"{shown} of {found}, spread evenly over them."


def _still(path: Path, moment: float, row: Mapping[str, Any]) -> str:
    """The frame of a video at a moment in seconds; nothing where it cannot be read."""
    width = max(2, min(4 * _HEIGHT, round(_HEIGHT * row["width"] / row["height"])))
    try:
        frame = read_clip(path, 1, _HEIGHT, width, target_fps=float(row["fps"]), start=moment)
    except (InputError, OSError):
        return ""
    return still_element(frame[:, 0], f"{row['source']} at {moment:.1f} s")


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['start']:.1f}-{row['end']:.1f} s of {row['source']}"


def _seconds(rows: Rows) -> float:
    return float(sum(row["end"] - row["start"] for row in rows if "start" in row))
