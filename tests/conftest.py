"""Order and memory of the test modules; a browser for the tests of pages, and axe-core, which finds what a page does
wrong for its readers."""

from __future__ import annotations

import gc
import os
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.dear_modules import dearest_first
from tests.scheduling import is_real_time, to_ordinary_scheduling

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [items[number] for number in dearest_first(item.path for item in items)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Draws the same random numbers in every run, also those of fixtures; VIDALIGN_TEST_SEED gives others."""
    seed = zlib.crc32(item.nodeid.encode()) + int(os.environ.get("VIDALIGN_TEST_SEED", "0"))
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (what draws without a generator of its own)
    torch.manual_seed(seed)


def pytest_runtest_teardown() -> None:
    if is_real_time():
        to_ordinary_scheduling()
        pytest.fail(
            "This test left its process under real-time scheduling, where servers and browsers starve."
        )


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """Takes what is imported by now out of garbage collection.

    Every training begins with a whole collection (`accelerate.Accelerator.free_memory`), which takes half a second to
    look through the objects of torch and transformers, and finds nothing.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a profile of its own. Where it or Playwright is missing, tests fail on CI and skip elsewhere."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _browser_is_missing('playwright is missing: pip install "vidalign[test]"')
    if not CHROMIUM.exists():
        _browser_is_missing("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=str(CHROMIUM),
            args=CHROMIUM_FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(20_000)
        yield context
        context.close()


def _browser_is_missing(message: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    browser.clear_cookies()
    opened = browser.new_page()
    yield opened
    opened.close()


@pytest.fixture
def serious_findings() -> Callable[[Any], list[str]]:
    """Runs axe-core on a page; ids of its serious and critical findings, each with the first element."""
    axe = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def find(page: Any) -> list[str]:
        page.evaluate(axe)
        found = page.evaluate("axe.run(document).then((result) => result.violations)")
        return [
            f"{rule['id']}: {rule['nodes'][0]['html'][:200]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]

    return find
