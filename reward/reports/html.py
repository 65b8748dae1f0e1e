"""Building blocks of self-contained HTML reports: tables with intervals, charts, galleries of videos.

Every function returns an HTML string that is safe to put into `Section.body`: all text given to it is
escaped. `reward.reports.page` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from reward.statistics import Interval, interval_text

environment = Environment(
    loader=PackageLoader("reward.reports", "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    trim_blocks=True,
    lstrip_blocks=True,
)
_blocks: Any = environment.get_template("blocks.html.j2").module
_COLOURS = 6


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        body: HTML from the functions of this module, which may be joined.
        intro: a sentence or two above it, plain text.
    """

    title: str
    body: str
    intro: str = ""


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: what it says.
        interval: an interval in smaller type beside it.
        mark: `better`, `worse` or empty.
    """

    text: str
    interval: str = ""
    mark: str = ""


@dataclass(frozen=True)
class GalleryCell:
    """One model's video.

    Attributes:
        label: the model.
        media: from `reward.reports.clips.video_element`.
        score: as text; empty where there is none.
        how: how the score follows from the ticks.
        link: address of the video's file, from the page; empty where it was not written.
        ticks: questions, each with whether the video shows it.
    """

    label: str
    media: str
    score: str = ""
    how: str = ""
    link: str = ""
    ticks: Sequence[tuple[bool, str]] = ()


@dataclass(frozen=True)
class GalleryRow:
    """Videos of one prompt (and seed) side by side."""

    prompt: str
    cells: Sequence[GalleryCell]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """A line: `x` and `y`, and optionally the ends of a band around it."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell | str | float]], caption: str = ""
) -> str:
    """A table of texts and `Cell`s; numbers get three decimals."""
    cells = [[cell if isinstance(cell, Cell) else Cell(_text(cell)) for cell in row] for row in rows]
    return str(_blocks.table(caption, columns, cells))


def interval_cell(interval: Interval | Mapping[str, Any], signed: bool = False) -> Cell:
    """A mean with its interval; it is marked better or worse where it has a `verdict` that says so."""
    values = interval.as_dict() if isinstance(interval, Interval) else interval
    mean = values["mean"]
    if math.isnan(mean):
        return Cell("–")
    mark = values.get("verdict", "")
    shown = _minus(interval_text(values, signed)) if values["low"] is not None else "–"
    return Cell(
        _minus(f"{mean:{'+' if signed else ''}.3f}"), shown, mark if mark in ("better", "worse") else ""
    )


def interval_table(
    rows: Mapping[str, Mapping[str, Interval | Mapping[str, Any] | str]],
    caption: str = "",
    signed: Sequence[str] = (),
    first_column: str = "",
) -> str:
    """A table of means with intervals.

    Args:
        rows: `{row: {column: interval}}`; columns appear in the order in which they are first met.
        signed: columns of differences, shown with their sign.
        first_column: heading above the names of the rows.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body: list[list[Cell | str | float]] = []
    for name, row in rows.items():
        cells: list[Cell | str | float] = [name]
        for column in columns:
            value = row.get(column, "–")
            cells.append(value if isinstance(value, str) else interval_cell(value, column in signed))
        body.append(cells)
    return plain_table([first_column, *columns], body, caption)


def bar_chart(
    groups: Mapping[str, Mapping[str, Interval | Mapping[str, Any]]],
    caption: str = "",
    maximum: float | None = None,
) -> str:
    """Horizontal bars with interval whiskers, `{group: {model: interval}}`, as inline SVG."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    values = {
        group: {name: v.as_dict() if isinstance(v, Interval) else v for name, v in row.items()}
        for group, row in groups.items()
    }
    ends = [v["mean"] if v["high"] is None else v["high"] for row in values.values() for v in row.values()]
    finite = [end for end in ends if math.isfinite(end)]
    top = maximum if maximum is not None else max([*finite, 1e-9])
    left, width, thickness, gap = 150, 760, 11, 14
    scale = (width - left - 20) / top

    def x(value: float) -> float:
        return round(left + max(0.0, value) * scale, 1)

    drawn, y = [], 4.0
    for group, row in values.items():
        bars = []
        start = y
        for name in names:
            value = row.get(name)
            if value is not None and math.isfinite(value["mean"]):
                known = value["low"] is not None
                bars.append(
                    {
                        "y": y,
                        "height": thickness - 2,
                        "width": round(x(value["mean"]) - left, 1),
                        "colour": names.index(name) % _COLOURS,
                        "low": x(value["low"] if known else value["mean"]),
                        "high": x(value["high"] if known else value["mean"]),
                        "middle": y + (thickness - 2) / 2,
                        "whisker": known and value["high"] > value["low"],
                        "title": f"{name}: {value['mean']:.3f} {interval_text(value)}",
                    }
                )
            y += thickness
        drawn.append({"label": group, "y": (start + y) / 2, "bars": bars})
        y += gap
    ticks = [{"x": x(tick), "text": _tick(tick)} for tick in nice_ticks(0, top)]
    chart = {
        "width": width,
        "height": round(y + 16),
        "left": left,
        "names": names,
        "groups": drawn,
        "ticks": ticks,
        "caption": caption,
    }
    return str(_blocks.bars(chart))


def line_chart(
    series: Mapping[str, Series],
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    caption: str = "",
) -> str:
    """Lines with optional bands, as inline SVG. Points that are not finite are left out; no points give no
    chart."""
    kept = {name: _finite(line) for name, line in series.items()}
    xs = [x for line in kept.values() for x in line.x]
    ys = [y for line in kept.values() for y in (*line.y, *line.low, *line.high)]
    if not xs:
        return ""
    width, height, left, right, top, bottom = 520, 270, 56, 508, 20, 226
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    margin = 0.06 * (y_high - y_low) or max(abs(y_high) * 0.1, 0.05)
    y_low, y_high = y_low - margin, y_high + margin

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1.0)
        return (
            round(left + across * (right - left), 1),
            round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1),
        )

    def polyline(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x},{y}" for x, y in points)

    paths = []
    for number, line in enumerate(kept.values()):
        points = [at(x, y) for x, y in zip(line.x, line.y)]
        band = [at(x, y) for x, y in zip(line.x, line.low)]
        band += [at(x, y) for x, y in reversed(list(zip(line.x, line.high)))]
        paths.append(
            {
                "points": polyline(points),
                "band": polyline(band) if line.low else "",
                "colour": number % _COLOURS,
                "dot": points[-1] if points else None,
            }
        )
    chart = {
        "title": title,
        "caption": caption,
        "x_label": x_label,
        "y_label": y_label,
        "names": list(series),
        "paths": paths,
        "x_ticks": [{"at": at(t, y_low)[0], "text": _tick(t)} for t in nice_ticks(x_low, x_high)],
        "y_ticks": [{"at": at(x_low, t)[1], "text": _tick(t)} for t in nice_ticks(y_low, y_high)],
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "bottom": bottom,
    }
    return str(_blocks.lines(chart))


def smoothed(x: Sequence[float], y: Sequence[float]) -> Series:
    """A curve of means over neighbouring points, with a band of one standard deviation to either side.

    The window is an eighth of the points, at least three; at the ends it is cut.
    """
    kept = [(a, b) for a, b in zip(x, y) if math.isfinite(a) and math.isfinite(b)]
    reach = max(1, len(kept) // 16)
    windows = [[b for _, b in kept[max(0, i - reach) : i + reach + 1]] for i in range(len(kept))]
    means = [fmean(window) for window in windows]
    spreads = [pstdev(window) for window in windows]
    return Series(
        [a for a, _ in kept],
        means,
        [mean - spread for mean, spread in zip(means, spreads)],
        [mean + spread for mean, spread in zip(means, spreads)],
    )


def charts(items: Sequence[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">{"".join(items)}</div>'


def gallery(rows: Sequence[GalleryRow], small: bool = False) -> str:
    """Videos side by side, one row a prompt; `small` ones have no ticks and stay side by side on a phone."""
    safe = [
        {
            "prompt": row.prompt,
            "note": row.note,
            "cells": [{**vars(cell), "media": Markup(cell.media)} for cell in row.cells],
        }
        for row in rows
    ]
    return str(_blocks.gallery(safe, small))


def facts(items: Mapping[str, object]) -> str:
    """Names and values in two columns."""
    return str(_blocks.facts([(name, str(value)) for name, value in items.items()]))


def code(text: str) -> str:
    """Preformatted text."""
    return str(_blocks.code(text))


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return str(Markup("<p>{}</p>").format(text))


def heading(text: str) -> str:
    """A heading within a section."""
    return str(Markup("<h3>{}</h3>").format(text))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _finite(line: Series) -> Series:
    kept = [i for i, (x, y) in enumerate(zip(line.x, line.y)) if math.isfinite(x) and math.isfinite(y)]
    return Series(
        [line.x[i] for i in kept],
        [line.y[i] for i in kept],
        [line.low[i] for i in kept] if line.low else (),
        [line.high[i] for i in kept] if line.high else (),
    )


def _tick(value: float) -> str:
    return _minus(f"{value:.4g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return "–" if math.isnan(value) else _minus(f"{value:.3f}")
