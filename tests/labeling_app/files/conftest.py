"""Candidates in another storage for the tests of files that come in and go out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.labeling_app.remote_folder import put


@pytest.fixture
def memory(candidates: Path) -> Iterator[str]:
    """A folder of candidates in fsspec's storage in memory: two prompts of two videos."""
    url = f"memory://bucket-{uuid.uuid4().hex}/runs/secret-model"
    put(url, candidates)
    yield url
    fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)
