"""Hashes of files and weights, and versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import torch

from generator.provenance import autoencoder_hash, file_hash, versions
from generator.testing import tiny_generator


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == file_hash(str(tmp_path / "a")) == hashlib.sha256(content).hexdigest()


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["torch"] == importlib.metadata.version("torch")
    assert {"python", "vidalign", "trl", "av"} <= set(found)


def test_one_changed_weight_of_the_autoencoder_changes_its_hash() -> None:
    generator = tiny_generator()
    before = autoencoder_hash(generator)
    assert before == autoencoder_hash(tiny_generator())
    with torch.no_grad():
        next(generator.pipeline.vae.parameters()).flatten()[0] += 1e-4
    assert autoencoder_hash(generator) != before
