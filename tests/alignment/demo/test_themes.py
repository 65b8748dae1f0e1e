"""Themes: parts of the video world's prompts, with demonstrations of their own."""

from __future__ import annotations

from dataclasses import fields

import pytest

from alignment.demo.scales import DemoConfig
from alignment.demo.themes import THEMES, theme_demonstrations, theme_prompts
from generator.world import parse, verify_batch
from generator.world.meaning import is_held_out


@pytest.mark.parametrize("theme", THEMES)
def test_prompts_are_of_the_theme_and_only_those_of_the_test_split_say_held_out_combinations(
    theme: str,
) -> None:
    for split in ("train", "test"):
        meanings = [parse(prompt) for prompt in theme_prompts(theme, 20, 3, split)]
        assert all(THEMES[theme].holds(meaning) for meaning in meanings)
        assert all(is_held_out(meaning) == (split == "test") for meaning in meanings)
    prompts = theme_prompts(theme, 300, 1, "train")
    assert len(set(prompts)) == 300, "a prompt that came twice would be one task with twice the videos"
    assert theme_prompts(theme, 5, 3, "train") == theme_prompts(theme, 20, 3, "train")[:5]
    assert theme_prompts(theme, 5, 4, "train") != theme_prompts(theme, 5, 3, "train")


@pytest.mark.parametrize("theme", ["counts", "relations"])
def test_demonstrations_show_what_their_captions_say(theme: str) -> None:
    prompts, videos = theme_demonstrations(theme, 24, 5, 9, 32, 32, 8.0)
    assert videos.shape == (24, 3, 9, 32, 32)
    assert not any(is_held_out(parse(prompt)) for prompt in prompts)
    assert all(THEMES[theme].holds(parse(prompt)) for prompt in prompts)
    scores = [found.score for found in verify_batch(videos, prompts, fps=8.0)]
    assert sum(scores) / len(scores) > 0.9


def test_the_command_offers_all_themes() -> None:
    choices = next(field.metadata["choices"] for field in fields(DemoConfig) if field.name == "theme")
    assert choices == list(THEMES)
