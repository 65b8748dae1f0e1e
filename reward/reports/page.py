"""The page of every report: a first screen with the result, examples, and folded details."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from reward.reports.changes import Change
from reward.reports.html import GalleryRow, Section, environment, gallery, nice_ticks
from reward.reports.sentences import number
from reward.statistics import interval_text

WORDS = {
    "adherence": "Share of what a prompt says that its video shows, in [0, 1]: the yes answers among all questions "
    "about the prompt, times a factor in (0, 1] for what no one asked for (further objects, stray colours, flicker) "
    "where the verifier gives one.",
    "gold": "Score of the verifier that reads videos from their pixels. No training stage sees it, so it tells "
    "whether the model became better or only learned to please the reward model.",
    "proxy": "Score of the reward model, which training maximises. It stands for what people prefer, and can be "
    "pleased without better videos.",
}
"""Words that every page explains where they are first met."""


TICKS = "✓ and ✗ are the verifier's answers, from which the score follows."


@dataclass(frozen=True)
class Side:
    """One of the two lists of the first screen that stand beside each other as equals.

    Attributes:
        title: such as `Gains`.
        items: name, value and interval of each.
        empty: what stands there where there are none.
    """

    title: str
    items: Sequence[tuple[str, str, str]]
    empty: str


@dataclass(frozen=True)
class Front:
    """The first screen.

    Attributes:
        sentence: the result, with model, guidance and number of prompts in it.
        facts: names and values in one line below it.
        clips: videos of one prompt each, side by side.
        rule: how they were chosen.
        chart: from `dot_chart`.
        sides: gains and losses.
        between: what is neither, in a sentence.
        notes: further sentences, such as whether the reward model beat its baselines.
    """

    sentence: str
    facts: Mapping[str, str]
    clips: Sequence[GalleryRow]
    rule: str
    chart: str
    sides: Sequence[Side]
    between: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Examples:
    """Examples that one rule chose; see `reward.reports.examples`."""

    title: str
    rule: str
    rows: Sequence[GalleryRow]


def page(
    title: str,
    front: Front,
    examples: Sequence[Examples] = (),
    details: Sequence[Section] = (),
    intro: str = TICKS,
) -> str:
    """A whole HTML document that needs no script, no network and no other file to be read.

    Args:
        title: of the browser's window, and above the result.
        details: folded sections.
        intro: what stands above the examples.
    """
    met: set[str] = set()
    sentence, notes = with_words(front.sentence, met), [with_words(note, met) for note in front.notes]
    return environment.get_template("page.html.j2").render(
        title=title,
        front=front,
        sentence=sentence,
        notes=notes,
        clips=Markup(gallery(front.clips, small=True)),
        chart=Markup(front.chart),
        examples=[
            {"title": each.title, "rule": each.rule, "rows": Markup(gallery(each.rows))} for each in examples
        ],
        details=[
            {"title": each.title, "intro": with_words(each.intro, met), "body": Markup(each.body)}
            for each in details
        ],
        words=WORDS,
        intro=intro,
    )


def with_words(text: str, met: set[str]) -> Markup:
    """The text with the first occurrence of each of `WORDS` as a link that explains it on hover and on focus.

    Args:
        met: words that the page has explained already; those of this text are added.
    """
    safe = str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%")
    for word, meaning in WORDS.items():
        if word in met:
            continue
        link = Markup(
            '<a class="term" href="#word-{0}" aria-describedby="word-{0}">{0}<span class="tip" aria-hidden="true">{1}'
            "</span></a>"
        ).format(word, meaning)
        safe, count = re.subn(rf"(?<![\w-]){word}(?![\w-])(?![^<]*</)", str(link), safe, count=1)
        if count:
            met.add(word)
    return Markup(safe)


def dot_chart(
    rows: Mapping[str, Mapping[str, Any]],
    caption: str,
    marks: Mapping[str, float] | None = None,
    digits: int = 3,
) -> str:
    """Means as dots with their intervals as lines, one row each, as a small inline SVG.

    Args:
        rows: `{name: {"mean", "low", "high"}}`.
        caption: what is shown; also for screen readers.
        marks: vertical lines with a name, such as the accuracy by chance.
        digits: decimals of the means that stand beside the dots.
    """
    marks = marks or {}
    shown = {name: row for name, row in rows.items() if math.isfinite(row["mean"])}
    ends = [
        end for row in shown.values() for end in (row["mean"], row["low"], row["high"]) if end is not None
    ]
    if not ends:
        return ""
    low, high = min([*ends, *marks.values()]), max([*ends, *marks.values()])
    margin = 0.08 * (high - low) or 0.05
    low, high = low - margin, high + margin
    longest = max(len(name) for name in shown)
    left = min(170, 16 + 7.4 * longest)
    width, right, step = 420, 366, 30

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    drawn = []
    for index, (name, row) in enumerate(shown.items()):
        known = row["low"] is not None
        drawn.append(
            {
                "name": name if len(name) <= 22 else f"{name[:21]}…",
                "y": 24 + step * index,
                "x": x(row["mean"]),
                "low": x(row["low"]) if known else None,
                "high": x(row["high"]) if known else None,
                "text": number(row["mean"], digits=digits),
                "colour": index % 6,
                "title": f"{name}: {number(row['mean'], digits=digits)} {interval_text(row)}",
            }
        )
    chart = {
        "width": width,
        "height": 24 + step * len(drawn) + 16 + (14 if marks else 0),
        "bottom": 12 + step * len(drawn),
        "left": left,
        "right": right,
        "rows": drawn,
        "caption": caption,
        "ticks": [
            {"x": x(tick), "text": f"{tick:.4g}".replace("-", "−")} for tick in nice_ticks(low, high, 6)
        ],
        "marks": [{"x": x(value), "text": name} for name, value in marks.items()],
    }
    return str(environment.get_template("dots.html.j2").render(chart=chart))


def sides_of(changes: Sequence[Change]) -> tuple[list[Side], str]:
    """Gains and losses of a model as equals, and a sentence on what is neither."""

    def items(verdict: str) -> list[tuple[str, str, str]]:
        return [_item(change) for change in changes if change.verdict == verdict]

    def names(verdict: str) -> str:
        chosen = [change for change in changes if change.verdict == verdict]
        categories = ", ".join(f"“{change.name}”" for change in chosen if change.is_category)
        measures = [change.label for change in chosen if not change.is_category]
        return ", ".join([*([f"adherence in {categories}"] if categories else []), *measures])

    unclear, unknown = names("unclear"), names("unknown")
    between = []
    if unclear:
        between.append(f"No clear change: {unclear}.")
    if unknown:
        between.append(f"Too few prompts to tell: {unknown}.")
    none = "None whose 95 % interval leaves out 0." if changes else "Nothing to compare with."
    return [Side("Gains", items("gain"), none), Side("Losses", items("loss"), none)], " ".join(between)


def _item(change: Change) -> tuple[str, str, str]:
    name = f"adherence in “{change.name}”" if change.is_category else change.label
    digits = 3 if abs(change.mean) < 0.995 else 2
    ends = f"[{number(change.low or 0.0, True, digits)}, {number(change.high or 0.0, True, digits)}]"
    return name, number(change.mean, True, digits), ends
