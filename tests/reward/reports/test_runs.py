"""`vidalign evaluate compare` of finished evaluations, and `vidalign evaluate vbench`."""

import json
import re

import pytest

from alignment.cli import main
from generator.data.demonstrations import read_demonstrations
from generator.data.prompts import PromptRecord, read_prompts
from generator.generation import GenerationSettings
from generator.output import InputError
from generator.testing import tiny_generator
from reward.adherence.vbench import NORMALISATION
from reward.reports.comparison import compare_models
from reward.reports.runs import compare_runs, name_runs

RECORDS = [PromptRecord(f"prompt {'x' * i}") for i in range(4)]


def evaluated(folder, seeds, records=RECORDS, steps=2, verifier="tests.reward.brightness:judge"):
    return compare_models(
        {f"seed{seed}": (lambda seed=seed: tiny_generator(seed)) for seed in seeds},
        records,
        folder,
        verifier,
        num_videos_per_prompt=2,
        generation=GenerationSettings(num_inference_steps=steps),
        progress=False,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of two models, and one of a third model that leaves a prompt out."""
    folder = tmp_path_factory.mktemp("runs")
    evaluated(folder / "both", (0, 1))
    evaluated(folder / "third", (2,), RECORDS[:3], steps=3)
    return folder


def test_runs_are_compared_as_if_they_had_been_one(runs, tmp_path, capsys):
    out = tmp_path / "out"
    code = main(
        ["evaluate", "compare", str(runs / "both"), f"new={runs / 'third'}", "--output_dir", str(out)]
    )
    assert code == 0
    assert "both/seed1 − both/seed0: " in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["adherence"]) == ["both/seed0", "both/seed1", "new"]
    assert {interval["n"] for interval in report["adherence"].values()} == {6}
    assert report["settings"]["left_out"] == 4
    assert report["settings"]["differing_settings"] == ["num_inference_steps"]
    assert report["settings"]["settings_of_runs"]["new"]["num_inference_steps"] == 3
    whole = evaluated(tmp_path / "whole", (0, 1), RECORDS[:3])
    joined, alone = report["difference_to_both/seed0"]["both/seed1"], whole["difference_to_seed0"]["seed1"]
    assert joined["mean"] == pytest.approx(alone["mean"])
    assert joined["win_rate"] == pytest.approx(alone["win_rate"])
    page = (out / "report.html").read_text()
    assert page.count("data:video/webm") >= 6
    assert not re.search(r'src="(?!data:)', page)
    links = re.findall(r'href="(?!#)([^"]+)"', page)
    assert links
    assert all((out / link).resolve().is_file() for link in links)


def test_the_report_holds_what_a_repetition_needs(runs):
    settings = json.loads((runs / "third" / "report.json").read_text())["settings"]
    assert settings["seed"] == 0
    assert settings["num_videos_per_prompt"] == 2
    assert settings["model_defaults"]["fps"] == 8.0
    assert settings["model_defaults"]["guidance_scale"] == tiny_generator().defaults.guidance_scale
    assert settings["bootstrap"]["clusters"] == "prompts"


def test_runs_that_cannot_be_compared_are_told_apart(runs, tmp_path):
    with pytest.raises(InputError, match="at least two"):
        name_runs([str(runs / "both")])
    with pytest.raises(InputError, match="no finished evaluation"):
        name_runs([str(runs / "both"), str(tmp_path)])
    with pytest.raises(InputError, match="Two runs would be called 'both'"):
        name_runs([str(runs / "both"), f"both={runs / 'third'}"])
    evaluated(tmp_path / "others", (0,), [PromptRecord("another")])
    named = name_runs([str(runs / "both"), str(tmp_path / "others")])
    with pytest.raises(InputError, match="no prompt and seed in common"):
        compare_runs(named, tmp_path / "out")
    report = tmp_path / "others" / "report.json"
    report.write_text(report.read_text().replace("tests.reward.brightness:judge", "world"))
    with pytest.raises(InputError, match="judged by different verifier"):
        compare_runs(named, tmp_path / "out")
    with pytest.raises(InputError, match="'z' is not among the models"):
        compare_runs(name_runs([str(runs / "both"), str(runs / "third")]), tmp_path / "out", ["z"])
    assert not (tmp_path / "out").exists()


def test_vbench_results_are_aggregated_on_the_command_line(tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    for name, (low, high) in NORMALISATION.items():
        (results / f"{name}_eval_results.json").write_text(json.dumps({name: [(low + high) / 2, []]}))
    assert main(["evaluate", "vbench", str(results), "--output", str(tmp_path / "v.json")]) == 0
    assert "total      50.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["quality"] == pytest.approx(0.5)
    assert main(["evaluate", "vbench", str(results), "--output", str(tmp_path / "v.json")]) == 2
    (results / "scene_eval_results.json").unlink()
    assert main(["evaluate", "vbench", str(results)]) == 2
    assert "scene is missing" in capsys.readouterr().err


def test_prompts_with_unusual_line_separators_are_read_back(tmp_path):
    (tmp_path / "prompts.jsonl").write_text(
        json.dumps({"prompt": "a\u2028ball"}, ensure_ascii=False) + '\n{"prompt": "a\x85cube"}\n',
        encoding="utf-8",
    )
    records = read_prompts(tmp_path / "prompts.jsonl")
    assert [record.prompt for record in records] == ["a\u2028ball", "a\x85cube"]
    for run in ("one", "two"):
        evaluated(tmp_path / run, (0,), records)
    summary = compare_runs({name: tmp_path / name for name in ("one", "two")}, tmp_path / "joint")
    assert summary["adherence"]["two"]["clusters"] == 2
    assert [d.prompt for d in read_demonstrations(tmp_path / "one")] == [
        prompt for prompt in ("a\u2028ball", "a\x85cube") for _ in range(2)
    ]
