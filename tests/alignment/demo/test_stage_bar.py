"""One bar over the stages of the demo."""

from __future__ import annotations

import io
import time

from alignment.demo.stage_bar import StageBar

EXPECTED = {"sft": 10.0, "reward": 20.0, "dpo": 30.0}


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_moves_by_its_report_and_by_the_clock_where_it_reports_less() -> None:
    clock = Clock()
    bar = StageBar(EXPECTED, ["reward", "dpo"], clock, file=io.StringIO())
    assert bar.bar.n == 10, "sft is done already"
    bar.begin("reward")
    clock.now += 5
    bar.tick()
    assert bar.bar.n == 15
    bar.advance(0.75)
    assert bar.bar.n == 25
    clock.now += 60
    bar.tick()
    assert bar.bar.n == 28, "the clock alone fills nine tenths"
    bar.advance(0.5)
    assert bar.bar.n == 28, "it never goes back"
    bar.end()
    assert bar.bar.n == 30
    bar.begin("dpo")
    bar.advance(2.0)
    assert bar.bar.n == 60
    bar.end()
    assert bar.bar.n == bar.bar.total == 60


def test_a_stage_that_reports_nothing_moves_the_bar_and_the_end_closes_it() -> None:
    shown = io.StringIO()
    clock = Clock()
    bar = StageBar(EXPECTED, list(EXPECTED), clock, file=shown, mininterval=0)
    bar.begin("sft")
    clock.now += 3
    with bar.ticking(0.01):
        for _ in range(500):
            if bar.bar.n == 3:
                break
            time.sleep(0.01)
    assert bar.bar.n == 3
    assert "sft" in shown.getvalue()
    assert bar.bar.disable, "closed"
