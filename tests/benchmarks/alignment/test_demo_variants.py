"""Table of the demo's variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.alignment import demo_variants
from benchmarks.alignment.demo_grid import Start
from benchmarks.alignment.demo_variants import Plan, demo_of, difference, table


def test_the_table_tells_each_model_at_its_own_best_guidance(tmp_path: Path) -> None:
    scores = {"1": [0.2, 0.4, 0.6], "3": [0.5, 0.5, 0.5]}
    better = {"1": [0.6, 0.7, 0.5], "3": [0.1, 0.1, 0.1]}
    rows = [
        {"start": "counts-a", "seed": 0, "stage": "start", "base": scores, "sft": scores, "alone": scores},
        {"start": "counts-a", "seed": 0, "stage": "dpo", "name": "beta 3", "scores": better},
        {
            "start": "counts-a", "seed": 0, "stage": "reward", "name": "small",
            "accuracy": {"mean": 0.75, "low": 0.5, "high": 1.0, "n": 8, "baseline": 0.5},
        },
        {
            "start": "counts-a", "seed": 1, "stage": "reward", "name": "tiny",
            "accuracy": {"mean": None, "low": None, "high": None, "n": 0, "baseline": None},
        },
        {"start": "counts-a", "seed": 0, "stage": "ppo", "name": "broken", "error": "it failed"},
    ]  # fmt: skip
    (tmp_path / "variants.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = table(Plan(tmp_path, "smoke", 3, [], [0], []))
    mean, half = difference(better["1"], scores["3"])
    assert mean == pytest.approx(0.1)
    gain = f"{mean:+.3f} ± {half:.3f}"
    assert f"| counts-a | dpo | beta 3 | 0 | 0.600, 0.100 | {gain} | {gain} | {gain} |" in told
    assert "| counts-a | small | 0 | 0.750 [0.500, 1.000], n = 8 | 0.500 |" in told
    assert "| counts-a | tiny | 1 | – [–, –], n = 0 | – |" in told
    assert "broken" not in told


@pytest.mark.parametrize(("model", "adapter"), [("nano-v1", "nano-v1-distilled"), ("nano", "nano-distilled")])
def test_a_model_begins_with_its_own_distilled_adapter(
    model: str,
    adapter: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Plan] = []
    monkeypatch.setattr(demo_variants, "run", lambda plan, workers, seconds: seen.append(plan))
    monkeypatch.setattr(demo_variants, "table", lambda plan: "the table")
    monkeypatch.setattr("sys.argv", ["demo_variants", "--output_dir", str(tmp_path), "--model", model])
    demo_variants.main()
    assert capsys.readouterr().out == "the table\n"
    (plan,) = seen
    assert plan.starts == [Start("counts", adapter, model=model)]
    assert Start("counts", model=model).name == f"counts-{model}"
    config = demo_of(plan, plan.starts[0], 1).config
    assert (config.model, config.adapter, config.seed) == (model, adapter, 1)
