"""A tiny Wan and LoRA pairs for it."""

from __future__ import annotations

import pytest

from generator.base import VideoGenerator
from tests.generator.weight_files.lora_forms import WAN, Pairs, generator_of, random_pairs, shapes_of


@pytest.fixture
def wan() -> VideoGenerator:
    return generator_of("wan")


@pytest.fixture
def pairs(wan: VideoGenerator) -> Pairs:
    return random_pairs(shapes_of(wan.transformer, list(WAN.values())))
