"""Plots of a campaign's quality as SVG."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from generator.label_fonts import plot_label, with_boxes
from generator.output import InputError
from labeling_app.campaigns.overview import campaign_overview, campaign_quality, quality_of_answers
from labeling_app.quality.adjudication import disagreements
from labeling_app.store.computed import Computation
from labeling_app.store.judgement_rows import has_newer_version
from labeling_app.store.store import Store
from labeling_app.store.tables import IMPORTED, Judgement, Task, TaskVideo, User

INK, ACCENT, SECOND, THIRD = "#1d1f22", "#2456c9", "#b45309", "#15803d"
SHOWN_ANNOTATORS = 25
PREPARED_AFTER_SECONDS = 10.0
"""Time from the start of the server until it begins with figures that nobody has asked for."""
# Text stays text: the browser has fonts for names that no font here can write.
matplotlib.rcParams["svg.fonttype"] = "none"


def plot(store: Store, campaign: str, name: str) -> bytes:
    """The plot `name` of `PLOTS` as SVG.

    Raises:
        InputError: there is no such campaign.
    """
    how = Computation(lambda report: _drawn(store, campaign, name), bytes.decode, str.encode)
    return store.computed(f"plot {name}", campaign, how)


def prepare_pages(store: Store) -> threading.Timer:
    """Makes in the background what the lead's pages show of large open campaigns.

    It begins a moment after the start, so that it takes nothing from those who open a page at once; until then it may
    be cancelled.
    """
    for row in store.campaigns()[:1]:
        campaign_overview(store, row)  # SQLAlchemy compiles its statements, which takes longer than they do

    def prepare() -> None:
        with contextlib.suppress(InputError, SQLAlchemyError):  # who asks is told
            for row in store.campaigns():
                if row.state == "open" and store.is_large(row):
                    disagreements(store, row.name)
                    for name in PLOTS:
                        plot(store, row.name, name)
                    campaign_quality(store, row.name)

    timer = threading.Timer(PREPARED_AFTER_SECONDS, prepare)
    timer.daemon = True
    timer.start()
    return timer


def _drawn(store: Store, campaign: str, name: str) -> bytes:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    names = PLOTS[name](store, campaign, axes)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue().decode()
    for shown in map(_short, names):  # each stands there once, in this order
        if with_boxes(shown) != shown:
            drawn = drawn.replace(f">{escape(with_boxes(shown))}</text>", f">{escape(shown)}</text>", 1)
    return drawn.encode()


def _short(name: str) -> str:
    """At most 20 characters of a name."""
    return name if len(name) <= 20 else name[:19] + "…"


def _name_places(axes: Axes, names: list[str]) -> list[str]:
    """Writes names below the places 0, 1, …, and returns them; a box that matplotlib draws for a character has about
    its width, and the character takes its place at the end."""
    axes.set_xticks(range(len(names)), [plot_label(_short(name)) for name in names], rotation=35, ha="right")
    return names


def _annotators(store: Store, campaign: str, axes: Axes) -> list[str]:
    """Agreement with others, gold accuracy and self-consistency of each annotator."""
    people = quality_of_answers(store, campaign)["annotators"][:SHOWN_ANNOTATORS]
    measures = (
        ("agreement", "agreement with others", ACCENT, "o"),
        ("gold_accuracy", "gold items right", SECOND, "s"),
        ("self_consistency", "same on repeats", THIRD, "^"),
    )
    for key, label, colour, marker in measures:
        axes.plot(range(len(people)), [p[key] for p in people], marker, color=colour, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of pairs")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    return _name_places(axes, [p["name"] for p in people])


def _speed(store: Store, campaign: str, axes: Axes) -> list[str]:
    """Seconds a task of each annotator."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for name, is_imported, taken in _seconds_of_answers(store, campaign):
        if taken or not is_imported:  # of imported answers it may not be known
            seconds[name].append(taken)
    names = sorted(seconds)[:SHOWN_ANNOTATORS]
    if names:
        _draw_boxes(axes, [seconds[name] for name in names])
        _name_places(axes, names)
    axes.set_ylabel("seconds a task")
    axes.set_ylim(bottom=0)
    return names


def _draw_boxes(axes: Axes, samples: list[list[float]]) -> None:
    """Draws a box plot of each sample, at 0, 1, …, with a few collections: `Axes.boxplot` makes seven lines a box, and
    its first call imports pyplot."""
    boxes = boxplot_stats(samples)
    places = np.arange(len(boxes))
    low, first, middle, third, high = (
        np.array([box[key] for box in boxes]) for key in ("whislo", "q1", "med", "q3", "whishi")
    )
    axes.vlines(places, low, first, color=INK, linewidth=1)
    axes.vlines(places, third, high, color=INK, linewidth=1)
    for ends in (low, high):
        axes.hlines(ends, places - 0.12, places + 0.12, color=INK, linewidth=1)
    axes.bar(places, third - first, 0.5, bottom=first, facecolor="none", edgecolor=INK)
    axes.hlines(middle, places - 0.25, places + 0.25, color=SECOND, linewidth=1.5)
    outside = [(place, value) for place, box in zip(places, boxes, strict=True) for value in box["fliers"]]
    if outside:
        axes.plot(*zip(*outside, strict=True), "o", markersize=4, markerfacecolor="none", markeredgecolor=INK)


def _seconds_of_answers(store: Store, campaign: str) -> list[tuple[str, bool, float]]:
    """Newest versions of the answers, a row for each dimension: who gave it, whether that person is imported, seconds.

    Only these columns: to read whole judgements of a large campaign takes longer than to draw the plot.
    """
    query = _of_answers(store, campaign, User.name, User.role == IMPORTED, Judgement.seconds).where(
        ~has_newer_version()
    )
    query = query.join(User, User.id == Judgement.user_id).order_by(Judgement.task_id, Judgement.id)
    with store.read() as session:
        return [(name, is_imported, taken) for name, is_imported, taken in session.execute(query)]


def _of_answers(store: Store, campaign: str, *columns: Any) -> Select[Any]:
    """Selects columns of the judgements of a campaign's normal tasks that are not skips."""
    return (
        select(*columns)
        .select_from(Judgement)
        .join(Task, Task.id == Judgement.task_id)
        .where(
            Task.campaign_id == store.campaign(campaign).id,
            Task.kind == "normal",
            Judgement.skip_reason == "",
        )
    )


def _days(store: Store, campaign: str, axes: Axes) -> list[str]:
    """Answers a day (UTC)."""
    first_versions = _of_answers(store, campaign, Judgement.created_at).where(Judgement.version == 1)
    with store.read() as session:
        days = Counter(
            datetime.fromtimestamp(moment, UTC).date() for moment in session.scalars(first_versions)
        )
    shown = sorted(days)[-30:]
    axes.bar(range(len(shown)), [days[day] for day in shown], color=ACCENT)
    axes.set_xticks(range(len(shown)), [f"{day:%d %b}" for day in shown], rotation=35, ha="right")
    axes.set_ylabel("answers a day")
    return []


def _ranks(store: Store, campaign: str, axes: Axes) -> list[str]:
    """Share of tasks in which each annotator ranks the video shown first as the best, against chance."""
    people = quality_of_answers(store, campaign)["annotators"][:SHOWN_ANNOTATORS]
    rates = [p["first_place_rate"] for p in people]
    axes.bar(range(len(people)), np.nan_to_num(rates), color=ACCENT)
    counts = _videos_a_task(store, campaign)
    if counts:
        chance = float(np.mean([1 / count for count in counts]))
        axes.axhline(chance, color=INK, linestyle="--", linewidth=1)
        axes.text(1.01, chance, "chance", va="center", color=INK, transform=axes.get_yaxis_transform())
    axes.set_ylim(0, 1)
    axes.set_ylabel("first shown ranked best")
    return _name_places(axes, [p["name"] for p in people])


def _videos_a_task(store: Store, campaign: str) -> list[int]:
    """Number of videos of each normal task of a campaign."""
    query = (
        select(func.count())
        .select_from(TaskVideo)
        .join(Task, Task.id == TaskVideo.task_id)
        .where(Task.campaign_id == store.campaign(campaign).id, Task.kind == "normal")
        .group_by(TaskVideo.task_id)
    )
    with store.read() as session:
        return list(session.scalars(query))


PLOTS: dict[str, Callable[[Store, str, Axes], list[str]]] = {
    "annotators": _annotators,
    "speed": _speed,
    "positions": _ranks,
    "days": _days,
}
"""Plots by name; each returns the names below its axis."""
