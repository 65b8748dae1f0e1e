"""Each tiny pipeline is built, saved and loaded once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.base import VideoGenerator
from generator.loading import load_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.text_pipelines import TINY_PIPELINES
from tests.generator.families.representatives import REPRESENTATIVES


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: save_tiny_pipeline(family, root / family) for family in TINY_PIPELINES}


@pytest.fixture(params=REPRESENTATIVES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders[family]


@pytest.fixture
def generator(folder: Path) -> VideoGenerator:
    return load_generator(folder, device="cpu")
