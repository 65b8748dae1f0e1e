import json
import re

import numpy as np
import pytest
import torch

from alignment.cli.commands.evaluate import print_summary
from generator.data.prompts import PromptRecord
from generator.generation import GenerationSettings
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import read_video
from reward.adherence.evaluate import Judgement, Sample, evaluate_videos, load_verifier, summarise
from reward.reports.adherence import comparison_page
from reward.reports.comparison import compare_models
from reward.reports.tables import category_tables, overview, power_text
from reward.statistics import paired_difference

VERIFIER = """
def brightness(videos, prompts):
    calls.append(len(videos))
    return [
        {"score": float((v.mean() + 1) / 2), "parts": {"bright": bool(v.mean() > 0), "any": True}} for v in
        videos
    ]
calls = []
brightness.categories = lambda prompt: {"even" if len(prompt) % 2 == 0 else "odd"}
def too_large(videos, prompts):
    return [2.0] * len(videos)
def text(videos, prompts):
    return ["good"] * len(videos)
"""


@pytest.fixture
def verifier(tmp_path, monkeypatch):
    """The module of a user's verifier functions, fresh for each test."""
    name = f"verifier_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(VERIFIER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def still(sample: Sample):
    return torch.zeros(3, 2, 4, 4), 8.0


def made_up_samples(gain: float, prompts: int = 40, seeds: int = 3) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for p in range(prompts):
        for s in range(seeds):
            score = rng.uniform(0.2, 0.6)
            for model, extra in (("base", 0.0), ("new", gain)):
                categories = ["object", "motion"] if p % 2 else ["object"]
                parts = {"colour": score > 0.4, "motion": model == "new"}
                value = score + extra + (0.01 * rng.normal() if extra else 0)
                samples.append(Sample(model, f"prompt {p}", s, value, parts, categories))
    return samples


def test_a_summary_holds_means_paired_differences_and_questions():
    samples = made_up_samples(0.05)
    summary = summarise(samples)
    base = [s.score for s in samples if s.model == "base"]
    new = [s.score for s in samples if s.model == "new"]
    assert summary["adherence"]["base"]["mean"] == pytest.approx(np.mean(base))
    assert summary["adherence"]["base"]["n"] == 120
    assert summary["adherence"]["base"]["clusters"] == 40
    difference = summary["difference_to_base"]["new"]
    assert difference["mean"] == pytest.approx(np.mean(new) - np.mean(base))
    assert 0 < difference["low"] < difference["mean"] < difference["high"] < 0.06
    prompts = [s.prompt for s in samples if s.model == "base"]
    expected = paired_difference(new, base, prompts).as_dict()
    assert difference == {**expected, "p_holm": expected["p_value"], "verdict": "better"}
    assert summary["categories"]["motion"]["base"]["clusters"] == 20
    assert summary["questions"]["motion"] == {"base": 0.0, "new": 1.0}
    by_category = summary["category_differences"]["base"]["new"]
    assert set(by_category) == {"motion"}  # every prompt is about an object: that row would repeat the total
    assert not {"p_value", "p_holm", "verdict"} & set(by_category["motion"])
    assert summary["tests"] == 1
    assert summary["power"]["prompts_for_0.03"] >= summary["power"]["prompts_for_0.05"]


def test_one_verdict_stands_in_the_json_the_page_and_the_text(tmp_path, capsys):
    rng = np.random.default_rng(3)
    samples = []
    for p in range(40):
        base = rng.uniform(0.2, 0.6)
        for model, gain in (("base", 0.0), ("a", 0.3), *((f"same{i}", 0.02) for i in range(5))):
            score = base + gain + 0.06 * rng.normal() * (model != "base")
            samples.append(
                Sample(model, f"prompt {p}", 0, score, {"x": True}, ["object"] + ["motion"] * (p < 20))
            )
    summary = summarise(samples, ["base", "a"])
    rows = {model: row for model, row in summary["difference_to_base"].items() if model.startswith("same")}
    assert summary["tests"] == 6 + 5  # base and a are compared once, though each is a reference
    assert summary["difference_to_a"]["base"]["p_holm"] == summary["difference_to_base"]["a"]["p_holm"]
    assert {summary["difference_to_base"]["a"]["verdict"], summary["difference_to_a"]["base"]["verdict"]} == {
        "better",
        "worse",
    }
    alone = [row for row in rows.values() if row["p_value"] < 0.05 < row["p_holm"]]
    assert alone  # which the interval of its own would have called better
    assert all(row["verdict"] == "not distinguishable" for row in alone)
    assert "object" not in summary["categories"]
    text = overview(summary, ["base"]) + category_tables(summary, "base")
    better = sum(row["verdict"] == "better" for row in summary["difference_to_base"].values())
    assert better >= 1
    # The mark of a cell of the table, and nothing more.
    assert text.count("better") - text.count("better or worse") == better
    page = comparison_page(samples, summary, {}, still, ["base"], "", {})
    assert "a follows prompts better than base" in page
    assert page.count("(not distinguishable)") == sum(
        row["verdict"] == "not distinguishable" for row in rows.values()
    )
    assert "Holm-adjusted over the 11 tests of this page" in text
    assert "p (" not in text
    print_summary(summary, str(tmp_path))
    said = capsys.readouterr().out
    assert said.count("(better)") == better
    assert said.count("(not distinguishable)") == sum(
        row["verdict"] == "not distinguishable" for row in rows.values()
    )


def test_few_prompts_have_no_interval_anywhere(tmp_path, capsys):
    samples = [
        Sample(model, f"prompt {p}", seed, 0.5 + 0.1 * (model == "new"), {"x": True}, ["motion"])
        for model in ("base", "new")
        for p in range(2)
        for seed in range(3)
    ]
    summary = summarise(samples)
    assert summary["difference_to_base"]["new"]["verdict"] == "too few prompts"
    written = json.loads(json.dumps(summary, allow_nan=False))
    assert written["adherence"]["base"]["low"] is None
    assert written["difference_to_base"]["new"]["p_holm"] is None
    text = overview(summary, ["base"]) + category_tables(summary, "base")
    page = comparison_page(samples, summary, {}, still, ["base"], "", {})
    assert "Fewer than 6 prompts are too few to tell new from base" in page
    assert not re.search(r"\bnan\b", re.sub('src="[^"]*"|poster="[^"]*"', "", page))
    assert "nan" not in re.sub("dominant", "", text)
    assert "[0.500, 0.500]" not in text
    assert "Below 6 prompts nothing is tested." in text
    print_summary(summary, str(tmp_path))
    assert "new − base: +0.100 [too few prompts for an interval] (too few prompts)" in capsys.readouterr().out


def test_models_are_paired_by_prompt_and_seed_whatever_their_order():
    samples = made_up_samples(0.05)
    assert summarise(samples[::-1], ["base"])["difference_to_base"]["new"]["mean"] == pytest.approx(
        summarise(samples)["difference_to_base"]["new"]["mean"]
    )


def test_models_without_common_videos_cannot_be_compared():
    with pytest.raises(ValueError, match="no prompt and seed in common"):
        summarise([Sample("a", "p", 0, 0.5), Sample("b", "p", 1, 0.5)])
    with pytest.raises(ValueError, match="not among the models"):
        summarise([Sample("a", "p", 0, 0.5)], ["z"])


def test_a_users_function_judges(verifier):
    videos = {"dark": torch.full((2, 3, 2, 4, 4), -1.0), "light": torch.full((2, 3, 2, 4, 4), 1.0)}
    samples = evaluate_videos(videos, ["ab", "abc"], [0, 1], f"{verifier}:brightness")
    assert [(s.model, s.score, s.categories) for s in samples] == [
        ("dark", 0.0, ["even"]),
        ("dark", 0.0, ["odd"]),
        ("light", 1.0, ["even"]),
        ("light", 1.0, ["odd"]),
    ]
    assert samples[0].parts == {"bright": False, "any": True}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_large", "must be in \\[0, 1\\]"),
        ("text", "must return a number"),
        ("none", "no function 'none'"),
    ],
)
def test_verifiers_that_break_their_contract_are_named(verifier, name, message):
    with pytest.raises(InputError, match=message):
        load_verifier(f"{verifier}:{name}")[0](torch.zeros(1, 3, 2, 4, 4), ["p"])
    with pytest.raises(InputError, match="no verifier 'unknown'"):
        load_verifier("unknown")


def compare(folder, verifier, models=("base", "new"), **changes):
    records = [PromptRecord(f"prompt {'x' * i}") for i in range(3)]
    loaders = {name: (lambda seed=seed: tiny_generator(seed)) for seed, name in enumerate(models)}
    arguments = {
        "num_videos_per_prompt": 2,
        "generation": GenerationSettings(num_inference_steps=2, batch_size=4),
        "progress": False,
        **changes,
    }
    return compare_models(loaders, records, folder, f"{verifier}:brightness", **arguments)


def test_a_comparison_writes_videos_metadata_and_both_reports(tmp_path, verifier):
    summary = compare(tmp_path / "out", verifier)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert {row["seed"] for row in rows if row["model"] == "base"} == {0, 1, 2, 3, 4, 5}
    video, _ = read_video(tmp_path / "out" / rows[0]["file_name"])
    assert video.shape == (3, 9, 32, 32)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["adherence"] == summary["adherence"]
    assert report["settings"]["seed"] == 0
    assert len(report["samples"]) == 12
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:video/webm" in page
    assert any(">" + row["prompt"] + "<" in page for row in rows)


def test_the_solver_is_used_and_recorded(tmp_path, verifier):
    generation = {"num_inference_steps": 3, "batch_size": 4}
    pages = {}
    for solver in ("euler", "heun"):
        settings = GenerationSettings(**generation, solver=solver)
        compare(tmp_path / solver, verifier, generation=settings, num_videos_per_prompt=1)
        report = json.loads((tmp_path / solver / "report.json").read_text())
        assert report["settings"]["solver"] == solver
        pages[solver] = report["adherence"]
    assert pages["euler"] != pages["heun"]


def test_equal_models_differ_by_exactly_zero(tmp_path, verifier):
    records = [PromptRecord("p")]
    summary = compare_models(
        {"a": tiny_generator, "b": tiny_generator},
        records,
        tmp_path / "out",
        f"{verifier}:brightness",
        num_videos_per_prompt=2,
        generation=GenerationSettings(num_inference_steps=2),
        progress=False,
    )
    assert summary["difference_to_a"]["b"]["mean"] == 0
    assert summary["difference_to_a"]["b"]["tie_rate"] == 1


def test_an_interrupted_comparison_goes_on_and_ends_the_same(tmp_path, verifier):
    import importlib

    whole = compare(tmp_path / "whole", verifier)
    module = importlib.import_module(verifier)
    judged = module.brightness

    def fails(videos, prompts):
        if sum(module.calls) >= 8:
            raise KeyboardInterrupt
        return judged(videos, prompts)

    module.calls.clear()
    fails.categories = judged.categories
    module.brightness = fails
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "part", verifier)
    module.brightness = judged
    done = sum(module.calls)
    resumed = compare(tmp_path / "part", verifier)
    assert sum(module.calls) - done == 12 - done
    assert 0 < done < 12
    assert resumed["adherence"] == whole["adherence"]
    assert resumed["difference_to_base"] == whole["difference_to_base"]


def test_an_output_folder_in_use_is_not_touched_unasked(tmp_path, verifier):
    compare(tmp_path / "out", verifier)
    with pytest.raises(InputError, match="exists and is not empty"):
        compare(tmp_path / "out", verifier)
    (tmp_path / "out" / "report.json").unlink()
    with pytest.raises(InputError, match="other settings \\(seed differ\\)"):
        compare(tmp_path / "out", verifier, seed=7)
    assert compare(tmp_path / "out", verifier, seed=7, overwrite=True)["adherence"]["base"]["n"] == 6


def test_judgements_have_no_parts_by_default():
    assert Judgement(0.5).parts == {}


def test_no_spread_is_no_plan():
    measured = {
        "prompts": 2,
        "detectable_difference": 0.0,
        "prompts_for_0.03": 2,
        "measured_on": "base alone",
    }
    assert "do not say how many prompts" in power_text({"power": {**measured, "deviation": 0.0}})
    assert "it takes 2 prompts" in power_text({"power": {**measured, "deviation": 0.1}})
