"""The benchmark of captions: claims are held against the numbers that a scene was drawn with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.generator.captions import accuracy_rows, caption_sets, claims_right, true_claims, write_clips
from generator.world import parse, sample_scenes
from generator.world.grammar import sample_meaning
from generator.world.scene import SceneBatch


def right(scenes: SceneBatch, caption: str) -> dict[str, bool]:
    return dict(claims_right(parse(caption), scenes, 0).keys())


def test_the_prompt_that_a_scene_was_drawn_for_is_true_and_each_changed_claim_is_not() -> None:
    prompt = "a small red circle moving left slowly to the left of a blue square on a dark background"
    scenes = sample_scenes([parse(prompt)], 3, 17, 48, 48, 8)
    assert all(right(scenes, prompt).values())
    assert set(right(scenes, prompt)) == {
        "shape", "colour", "size", "motion", "speed", "relation", "background", "count",
    }  # fmt: skip
    for before, after, kind in [
        ("circle", "star", "shape"),
        ("red", "green", "colour"),
        ("small", "large", "size"),
        ("slowly", "quickly", "speed"),
        ("to the left of", "to the right of", "relation"),
        ("dark", "light", "background"),
    ]:
        tally = claims_right(parse(prompt.replace(before, after)), scenes, 0)
        assert tally[kind, False] == 1, kind
    assert claims_right(parse("three circles"), scenes, 0)["count", False] == 1


def test_true_meanings_of_many_scenes_are_borne_out() -> None:
    import random

    rng = random.Random(0)
    meanings = [sample_meaning(rng) for _ in range(60)]
    scenes = sample_scenes(meanings, 1, 17, 48, 48, 8)
    wrong = [
        (row, kind)
        for row, meaning in enumerate(meanings)
        for (kind, good), number in claims_right(meaning, scenes, row).items()
        if not good and number
    ]
    assert not wrong
    objects, _, slots = true_claims(scenes, 0)
    assert len(objects) == len(slots) == int(scenes.on[0].sum())


def test_captions_from_the_pixels_are_truer_than_those_of_the_web_and_say_more(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes, true = write_clips(tmp_path / "clips", 24, 0, 0.4)
    rows = [row.split(" | ") for row in accuracy_rows(caption_sets(tmp_path / "clips", true), scenes)][2:]
    table = {cells[0].strip("| "): [float(cell) for cell in cells[1:4]] for cells in rows}
    assert table["true"][1] == 1
    assert table["web"][1] < 0.95
    assert table["world"][1] > 0.98
    assert table["world"][0] > table["web"][0] == pytest.approx(table["true"][0], abs=0.3)
