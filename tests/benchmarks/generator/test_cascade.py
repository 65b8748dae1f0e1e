"""The benchmark of cascades: its parts go on where they stopped, and the table pairs what belongs together."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

from benchmarks.generator.cascade import Rows, interval, main
from benchmarks.generator.cascade_costs import build_single, weights_of
from generator import load_generator
from generator.testing.cascades import save_tiny_cascade


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_cascade(tmp_path_factory.mktemp("cascade"))


def test_an_interval_is_that_of_the_normal_approximation() -> None:
    values = torch.tensor([0.0, 1.0, 0.5, 0.5])
    mean, low, high = interval(values)
    assert mean == 0.5
    assert high - mean == pytest.approx(1.96 * values.std().item() / 2)
    assert low == pytest.approx(2 * mean - high)
    assert math.isnan(interval(values[:1])[1])


def test_rows_are_taken_up_again_and_in_order(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add([{"way": "a", "index": 2, "gold": 0.2}, {"way": "a", "index": 0, "gold": 0.0}])
    again = Rows(tmp_path / "rows.jsonl")
    assert again.missing("a", 4) == [1, 3]
    assert again.missing("b", 2) == [0, 1]
    assert again.column("a", "gold").tolist() == pytest.approx([0.0, 0.2])


def test_parts_end_with_their_time_and_go_on_and_the_table_has_them(
    cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--output_dir", str(tmp_path), "--count", "2", "--batch_size", "1"]
    main(["gold", "--cascade", str(cascade), *common, "--max_seconds", "0"])
    assert not (tmp_path / "gold.jsonl").exists()
    single = ["--seconds", "1.5", "--width", "64", "--tokens", "100", "--num_workers", "0"]
    main(["single", "--cascade", str(cascade), *common, *single, "--max_seconds", "0.1"])
    assert not (tmp_path / "single" / "model_index.json").exists()
    main(["single", "--cascade", str(cascade), *common, *single])
    assert (tmp_path / "single" / "model_index.json").is_file()
    main(["gold", "--cascade", str(cascade), *common])
    rows = Rows(tmp_path / "gold.jsonl")
    assert rows.ways() == ["base", "coarse", "cascade", "base, full size", "one model"]
    started = time.monotonic()
    main(["gold", "--cascade", str(cascade), *common])
    assert len(Rows(tmp_path / "gold.jsonl").rows) == len(rows.rows)
    assert time.monotonic() - started < 5
    stage = ["--stages", str(cascade / "spatial"), "--sides", "16", "--num_frames", "5"]
    main(["stages", *stage, *common])
    capsys.readouterr()
    main(["table", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| one model | 2 |" in printed
    assert "| bicubic |" in printed
    assert "spatial-16, 2 clips" in printed


def test_the_one_model_has_about_as_many_weights_as_the_cascade(cascade: Path) -> None:
    loaded = load_generator(cascade, device="cpu")
    count = sum(p.numel() for p in build_single(loaded, 64, 0).transformer.parameters())
    assert count == pytest.approx(weights_of(loaded), rel=0.6)
    assert weights_of(loaded) > sum(p.numel() for p in loaded.transformer.parameters())
