"""Small generators with random weights, small data, and settings that make trainers run in a second."""

from __future__ import annotations

import pytest
import torch

from generator.testing.stand_ins import StandInGenerator
from tests.alignment.bright_reward import PROMPTS, BrightReward


@pytest.fixture
def make_generator():
    return StandInGenerator


@pytest.fixture
def generator():
    return StandInGenerator()


@pytest.fixture
def bright():
    return BrightReward()


@pytest.fixture
def prompts():
    return list(PROMPTS)


@pytest.fixture
def latents():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, 2, 2, generator=random) for _ in PROMPTS]


@pytest.fixture
def quiet(tmp_path):
    """Arguments of every trainer here."""
    return {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "seed": 3,
    }
