import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from reward.reports import html
from reward.statistics import Interval


class Outline(HTMLParser):
    """Checks that tags are balanced and collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "br", "line", "rect", "circle", "polyline", "polygon"}:
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
    video = html.video_element(torch.zeros(3, 4, 8, 8), 8, "black")
    sections = [
        html.Section("Table", html.interval_table({"base": {"adherence": interval}}), "An <intro>."),
        html.Section("Bars", html.bar_chart({"all": {"base": interval, "new": interval}}, "bars")),
        html.Section("Lines", html.charts([html.line_chart({"a": html.Series([0, 1], [1.0, 2.0])}, "t")])),
        html.Section(
            "Gallery", html.gallery([html.GalleryRow("p", [html.GalleryCell("base", video, 0.2, ["count"])])])
        ),
        html.Section("Rest", html.facts({"a": 1}) + html.code("x < y") + html.cards([html.Card("l", "v")])),
    ]
    return html.page("Title & more", sections)


def test_a_page_is_balanced_and_refers_to_no_other_file():
    parsed = outline(whole_page())
    assert "Title & more" in parsed.text
    assert all(link.startswith("data:") for link in parsed.links)
    assert not re.search(r"https?://(?!www\.w3\.org)", whole_page())


def test_text_from_outside_cannot_become_markup():
    evil = "<script>alert(1)</script>"
    text = html.page(
        evil,
        [
            html.Section(
                evil,
                html.gallery(
                    [html.GalleryRow(evil, [html.GalleryCell(evil, "", None, [evil], [evil])], evil)]
                )
                + html.plain_table([evil], [[evil]], evil)
                + html.bar_chart({evil: {evil: Interval(0.5, 0.4, 0.6, 3, 3)}}, evil)
                + html.line_chart(
                    {evil: html.Series([0, 1], [0, 1]), "b": html.Series([0], [1])}, evil, evil, evil
                )
                + html.facts({evil: evil})
                + html.code(evil)
                + html.paragraph(evil)
                + html.heading(evil)
                + html.cards([html.Card(evil, evil, evil)])
                + html.video_element(torch.zeros(3, 1, 4, 4), 8, evil + '"'),
                evil,
            )
        ],
    )
    assert "<script" not in text
    assert outline(text).text.count("alert(1)") >= 15


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


def test_an_embedded_video_has_the_frames_colours_and_speed_it_was_given():
    video = torch.full((3, 5, 16, 24), -1.0)
    video[0, 2:] = 1.0
    element = html.video_element(video, 8.0)
    file = io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", element).group(1)))
    image = Image.open(file)
    assert image.size == (24 * 8, 16 * 8)
    assert image.n_frames >= 2
    image.seek(image.n_frames - 1)
    red, green, blue = image.convert("RGB").getpixel((50, 50))
    assert red > 230
    assert max(green, blue) < 25
