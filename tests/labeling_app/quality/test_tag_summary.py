"""Frequency of tags and agreement about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest

from alignment import cli
from labeling_app.campaigns.campaigns import Rules, set_rules
from labeling_app.quality.tag_summary import TagSummary, tag_summaries
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def give(store: Store, user: Any, tags: list[dict[str, Any]] | None) -> None:
    task = assignment.next_task(store, user, order=lambda _: range(4))
    assert task is not None
    submit(store, user, task.assignment, {"overall": [1, 2, 3, 4]}, 1.0, tags=tags)


def test_tags_are_counted_and_their_alpha_is_that_of_the_library(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    set_rules(filled, "main", Rules(tags=["artefact", "flicker"]))
    nobody = tag_summaries(filled, "main")
    assert [(each.tag, each.videos, each.marks) for each in nobody] == [("artefact", 0, 0), ("flicker", 0, 0)]
    assert math.isnan(nobody[0].share)
    ada, ben = filled.add_user("ada"), filled.add_user("ben")
    artefact = [{"video": place, "tag": "artefact"} for place in range(4)]
    give(filled, ada, [artefact[0], {**artefact[1], "seconds": 0.5}, {**artefact[1], "seconds": 0.6}])
    give(filled, ada, [artefact[2]])
    give(filled, ada, None)  # was not asked
    give(filled, ben, [artefact[1]])
    give(filled, ben, [])
    found, flicker = tag_summaries(filled, "main")
    table = np.array([[1, 1, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]])
    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
    assert found == TagSummary("artefact", 3, pytest.approx(4 / 16), 2, pytest.approx(alpha))
    assert (flicker.videos, flicker.share) == (0, 0.0)
    assert cli.main(["label", "quality", "--db", filled.url, "--campaign", "main"]) == 0
    assert f"tag artefact: 3 video(s), 25.0% of those judged, alpha {alpha:.3f}" in capsys.readouterr().out
