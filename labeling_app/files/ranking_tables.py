"""Rankings as tables for spreadsheets and data frames: CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from generator.output import InputError, atomic_path, check_output_file
from labeling_app.files.rankings import ranking_rows
from labeling_app.store.store import Store

CSV, PARQUET = "csv", "parquet"
COLUMNS = (
    *("ranking", "prompt", "dimension", "annotator", "video", "rank", "seconds", "created_at"),
    *("image", "last_image", "flag", "comment"),
)
"""Of a CSV, which has a line for each video of a ranking; `ranking` numbers rankings from 1."""
TABLE_TYPES = {CSV: "text/csv; charset=utf-8", PARQUET: "application/vnd.apache.parquet"}
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""Beginnings of a cell that a spreadsheet takes for a formula, or skips before one (OWASP, CSV Injection)."""


def harmless(cell: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe before it."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of a rankings file as CSV in UTF-8, a line for each video."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, start=1):
        for video, rank in zip(row["videos"], row["ranks"]):
            cells = {**row, "ranking": number, "video": video, "rank": rank}
            named = (cells.get(column, "") for column in COLUMNS)
            writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in named])
    return text.getvalue().encode()


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of a rankings file as Parquet, a row for each ranking, with lists of videos and ranks; `letters`, whose keys
    differ from row to row, is JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    schema = pa.schema(
        [
            *(pa.field(name, pa.string()) for name in ("prompt", "dimension", "annotator", "created_at")),
            pa.field("videos", texts),
            pa.field("ranks", pa.list_(pa.int64())),
            pa.field("seconds", pa.float64()),
            *(
                pa.field(name, pa.string())
                for name in ("image", "image_sha256", "last_image", "last_image_sha256")
            ),
            *(pa.field(name, pa.string()) for name in ("flag", "comment", "letters")),
            *(pa.field(name, texts) for name in ("flag_videos", "comment_videos")),
        ]
    )
    shown = [
        {**row, "letters": json.dumps(row["letters"], ensure_ascii=False)} if "letters" in row else row
        for row in rows
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(shown, schema=schema), sink)
    return bytes(sink.getvalue())


TABLES: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {CSV: as_csv, PARQUET: as_parquet}


def export_table(
    store: Store,
    campaign: str,
    path: str | Path,
    format: str,
    overwrite: bool = False,
    raw: bool = False,
    skip_bad: bool = False,
) -> int:
    """Writes the rankings of a campaign as a table, in one step; returns the number of rankings.

    Args: as those of `labeling_app.files.rankings.export_rankings`, and `format`, `csv` or `parquet`.

    Raises:
        InputError: as `export_rankings`, or the file's suffix is another than the format's.
    """
    path = Path(path)
    if path.suffix.lower() != f".{format}":
        raise InputError(f"{path} would hold {format}: name a file that ends in .{format}.")
    check_output_file(path, overwrite, IS_TABLE[format], f"rankings as {format}")
    rows = ranking_rows(store, campaign, path.parent, raw, skip_bad)
    if not rows:
        raise InputError(f"The campaign {campaign!r} has no rankings yet: let annotators rank first.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(TABLES[format](rows))
    return len(rows)


def attachment(campaign: str, suffix: str) -> dict[str, str]:
    """The header by which browsers save a download under the name of its campaign (RFC 6266): in ASCII, and as it is.

    Nothing of the name can end the header, or name a folder.
    """
    plain = re.sub(r"[^A-Za-z0-9._ -]+", "_", campaign).strip(" .") or "rankings"
    whole = (
        "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in campaign).strip(" .")
        or "rankings"
    )
    return {
        "content-disposition": f'attachment; filename="{plain}.{suffix}"; '
        f"filename*=UTF-8''{quote(whole, safe='')}.{suffix}"
    }


def _is_csv(path: Path) -> bool:
    with path.open("r", encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), None) == list(COLUMNS)


def _is_parquet(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {"prompt", "videos", "ranks", "annotator"} <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


IS_TABLE: dict[str, Callable[[Path], bool]] = {CSV: _is_csv, PARQUET: _is_parquet}
