import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from reward.reports import html
from reward.reports.clips import video_element
from reward.reports.page import Examples, Front, Side, dot_chart, page, with_words
from reward.statistics import Interval


class Outline(HTMLParser):
    """Checks that tags are balanced and collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "br", "input", "line", "rect", "circle", "polyline", "polygon"}:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        if tag not in {"line", "rect", "circle", "polyline", "polygon"}:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def whole_page() -> str:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    video = video_element(torch.zeros(3, 4, 8, 8), 8, "black")
    row = html.GalleryRow(
        "p", [html.GalleryCell("base", video, "0.20", "1 of 5", "a.mp4", [(False, "count")])]
    )
    front = Front(
        "The adherence rises.",
        {"model": "nano"},
        [row],
        "a rule",
        dot_chart({"base": interval}, "dots", {"chance": 0.5}),
        [Side("Gains", [("motion", "+0.1", "[0, 1]")], "none"), Side("Losses", [], "none")],
    )
    details = [
        html.Section("Table", html.interval_table({"base": {"adherence": interval}}), "An <intro>."),
        html.Section("Bars", html.bar_chart({"all": {"base": interval, "new": interval}}, "bars")),
        html.Section("Lines", html.charts([html.line_chart({"a": html.Series([0, 1], [1.0, 2.0])}, "t")])),
        html.Section("Rest", html.facts({"a": 1}) + html.code("x < y")),
    ]
    return page("Title & more", front, [Examples("Largest gains", "by gain", [row])], details)


def test_a_page_is_balanced_and_refers_to_no_other_file_but_the_videos():
    parsed = outline(whole_page())
    assert "Title & more" in parsed.text
    assert {link for link in parsed.links if not link.startswith("data:")} == {"#word-adherence", "a.mp4"}
    assert not re.search(r"https?://(?!www\.w3\.org)", whole_page())


def test_text_from_outside_cannot_become_markup():
    evil = "<script>alert(1)</script>"
    row = html.GalleryRow(evil, [html.GalleryCell(evil, "", evil, evil, evil, [(True, evil)])], evil)
    front = Front(
        evil,
        {evil: evil},
        [row],
        evil,
        dot_chart({evil: {"mean": 0.5, "low": None, "high": None}}, evil, {evil: 0.2}),
        [Side(evil, [(evil, evil, evil)], evil), Side(evil, [], evil)],
        evil,
        [evil],
    )
    body = (
        html.plain_table([evil], [[evil]], evil)
        + html.bar_chart({evil: {evil: Interval(0.5, 0.4, 0.6, 3, 3)}}, evil)
        + html.line_chart({evil: html.Series([0, 1], [0, 1]), "b": html.Series([0], [1])}, evil, evil, evil)
        + html.facts({evil: evil})
        + html.code(evil)
        + html.paragraph(evil)
        + html.heading(evil)
        + video_element(torch.zeros(3, 1, 4, 4), 8, evil + '"')
    )
    text = page(evil, front, [Examples(evil, evil, [row])], [html.Section(evil, body, evil)], evil)
    assert "<script" not in text
    assert outline(text).text.count("alert(1)") >= 15


def test_a_word_is_explained_once_and_text_stays_escaped():
    met: set[str] = set()
    first, second = with_words("<b> gold, gold", met), with_words("gold and proxy", met)
    assert first.count('href="#word-gold"') == 1
    assert first.startswith("&lt;b&gt; <a")
    assert "word-gold" not in second
    assert 'href="#word-proxy"' in second


def test_dots_stand_in_the_order_of_their_values_and_lines_span_the_intervals():
    chart = dot_chart(
        {"a": {"mean": 0.2, "low": 0.1, "high": 0.3}, "b": {"mean": 0.4, "low": None, "high": None}}, "c"
    )
    left, right = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', chart))
    ((low, high),) = re.findall(r'class="span" x1="([\d.]+)" x2="([\d.]+)"', chart)
    assert float(low) < left < float(high)
    # 0.1, 0.2, 0.3 and 0.4 are evenly apart.
    assert float(high) - left == pytest.approx(right - float(high), abs=0.3)
    assert float(high) - left == pytest.approx(left - float(low), abs=0.3)


def test_smoothing_keeps_a_line_and_its_band_holds_the_noise():
    x = list(range(64))
    line = html.smoothed(x, [2.0 * v for v in x])
    assert line.y[8:-8] == pytest.approx([2.0 * v for v in x[8:-8]])
    noisy = html.smoothed(x, [float(v % 2) for v in x])
    assert max(noisy.y[4:-4]) < 0.7
    assert noisy.high[30] - noisy.low[30] == pytest.approx(2 * np.std([v % 2 for v in range(26, 35)]))


def test_differences_are_marked_by_their_verdict_and_by_nothing_else():
    row = Interval(0.1, 0.02, 0.2, 9, 9).as_dict()
    assert html.interval_cell({**row, "verdict": "better"}, signed=True).mark == "better"
    assert html.interval_cell({**row, "verdict": "worse"}, signed=True).mark == "worse"
    assert html.interval_cell({**row, "verdict": "not distinguishable"}, signed=True).mark == ""
    assert html.interval_cell(row, signed=True).mark == ""


def test_a_mean_without_an_interval_shows_a_dash_and_a_bar_without_whiskers():
    none = Interval(0.5, float("nan"), float("nan"), 6, 1)
    assert html.interval_cell(none).text == "0.500"
    assert html.interval_cell(none).interval == "–"
    chart = html.bar_chart({"all": {"a": none}})
    assert 'class="whisker"' not in chart
    assert '"nan"' not in chart
    assert html.interval_cell(Interval(-0.1, -0.2, -0.02, 9, 9), signed=True).text == "−0.100"


def test_bars_are_as_long_as_their_values():
    chart = html.bar_chart(
        {"all": {"a": Interval(0.25, 0.2, 0.3, 9, 9), "b": Interval(0.5, 0.4, 0.6, 9, 9)}}, maximum=1
    )
    short, long = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', chart))
    assert long == pytest.approx(2 * short, abs=0.2)


def test_lines_leave_out_what_is_not_finite_and_empty_charts_are_nothing():
    chart = html.line_chart({"a": html.Series([0, 1, 2], [1.0, float("nan"), 3.0])})
    assert len(re.search(r'<polyline points="([^"]+)"', chart).group(1).split()) == 2
    assert html.line_chart({"a": html.Series([], [])}) == ""


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 97, [0, 20, 40, 60, 80]), (-3, 2, [-3, -2, -1, 0, 1, 2])],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert html.nice_ticks(low, high) == pytest.approx(ticks)
