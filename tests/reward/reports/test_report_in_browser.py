"""The report in Chromium: on a phone and a desk, without scripts, light and dark, and for assistive technology."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.adherence.evaluate import Sample, summarise
from reward.reports.adherence import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three models on 12 prompts, with questions, categories and measures."""
    random = torch.Generator().manual_seed(0)
    samples = [
        Sample(
            model,
            f"a rather long prompt about object number {p} that moves to the left",
            p,
            yes / 4 * 0.9,
            {f"object {q} is there": q < yes for q in range(4)},
            ["count"] if p % 2 else ["motion"],
            f"videos/{model}/{p}.mp4",
            measures={"motion": 0.1 * p + number, "flicker": 0.02 + 0.01 * number},
            factor=0.9,
        )
        for number, model in enumerate(("base", "dpo", "ppo"))
        for p in range(12)
        for yes in [1 + (p + number) % 4]
    ]
    folder = tmp_path_factory.mktemp("report")
    clip = torch.rand(3, 4, 32, 32, generator=random) * 2 - 1
    settings = {"model": "nano", "guidance_scale": 1.0, "verifier": "world", "prompt_file": "world:test:12"}
    return write_report(folder, samples, summarise(samples), settings, lambda _: (clip, 8.0), ["base"])


def open_all(page: Any, report: Path, width: int, scheme: str) -> Any:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_the_report_fits_the_screen_and_axe_finds_nothing_serious(
    page: Any, report: Path, serious_findings: Callable[[Any], list[str]], width: int, scheme: str
) -> None:
    open_all(page, report, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    captions = page.locator(".caption")
    assert captions.count() > 2  # beside wide tables, which scroll, they are read without scrolling
    assert all(each.bounding_box()["width"] < width for each in captions.all())
    letters = "[...document.querySelectorAll('svg text')].map((text) => text.getBoundingClientRect().height)"
    assert min(page.evaluate(letters)) > 8
    assert serious_findings(page) == []


def test_the_first_screen_has_the_result_videos_that_play_and_losses_beside_gains(
    page: Any, report: Path
) -> None:
    open_all(page, report, 1440, "light")
    headline = page.locator("h1").inner_text()
    for part in ("12 held-out prompts", "nano", "without guidance"):
        assert part in headline
    page.wait_for_function(
        "!document.querySelector('video').paused && document.querySelector('video').readyState > 2"
    )
    for heading in ("Gains", "Losses"):
        box = page.get_by_role("heading", name=heading, exact=True).bounding_box()
        assert box["y"] < 900
    assert page.locator("script").count() == 0
    assert page.locator("details[open]").count() == 0
    page.locator(".term").first.focus()
    assert page.locator(".tip").first.is_visible()


def test_controls_cover_a_clip_only_under_the_pointer(page: Any, report: Path) -> None:
    open_all(page, report, 1440, "light")
    video = page.locator(".cell video").first
    video.evaluate(
        "(video) => new Promise((done) => { video.pause(); video.onseeked = done; video.currentTime = 0; })"
    )
    away = video.screenshot()
    video.hover()
    under = video.screenshot()
    page.mouse.move(0, 0)
    video.evaluate("(video) => { video.controls = false; }")
    assert away == video.screenshot() != under


def test_a_row_can_be_enlarged(page: Any, report: Path) -> None:
    open_all(page, report, 1440, "light")
    row = page.locator(".row:has(.larger)").first
    before = row.locator("video").first.bounding_box()["width"]
    row.locator(".larger input").check()
    assert row.locator("video").first.bounding_box()["width"] > 1.5 * before


def test_printing_shows_the_folded_details(page: Any, report: Path) -> None:
    open_all(page, report, 1024, "light")
    table = page.locator("details table").first
    assert not table.is_visible()
    page.emulate_media(media="print")
    assert table.bounding_box()["height"] > 20
