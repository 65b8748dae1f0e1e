"""The pure parts of the study of alignment: jobs, budgets, figures."""

import argparse
import json
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest


def arguments_of(monkeypatch, *words):
    study = import_module("benchmarks.alignment.study.run")
    monkeypatch.setattr(sys, "argv", ["alignment_study.py", *words])
    return study, study.parse_arguments()


def test_every_job_comes_after_what_it_needs_and_names_are_unique(monkeypatch):
    study, arguments = arguments_of(
        monkeypatch, "--parts", *import_module("benchmarks.alignment.study.run").PARTS
    )
    jobs = study.jobs_of(arguments)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert all((job.seed, name) in keys for job in jobs for name in job.after)
    by_name = {job.name: job for job in jobs if job.seed == 0}
    assert by_name["ppo-gold"].after == ("sft",)
    assert by_name["ppo-proxy"].after == ("reward",)
    assert by_name["tune: guidance 3"].after == ()
    assert by_name["tune: guidance 3"].arguments["start"] == "base"
    assert by_name["ppo, groups of 4"].arguments["num_prompts"] == 128
    assert {job.seed for job in jobs if job.name.startswith(("over", "ppo, "))} == {0}


def test_jobs_are_left_out_and_the_reward_model_has_a_generator_of_its_own(monkeypatch):
    study, arguments = arguments_of(
        monkeypatch, "--parts", "proxy", "--seeds", "4", "--skip", "dpo", "--model", "nano-v1",
        "--reward_model", "nano", "--reward_from", "nano-reward",
    )  # fmt: skip
    by_name = {job.name: job for job in study.jobs_of(arguments)}
    assert list(by_name) == ["sft", "rankings", "reward", "ppo-proxy"]
    reward = by_name["reward"].arguments
    assert reward == {"start": "sft", "weights_from": "nano-reward", "trunk": "nano"}


def test_ppo_on_a_reward_without_rankings_waits_for_the_sft_model_alone(monkeypatch):
    study, arguments = arguments_of(
        monkeypatch, "--parts", "taught", "--seeds", "1", "2", "--taught_reward", "nano-v1-reward,nano-reward",
        "--proxy_seconds", "30", "--proxy_beta", "0.01", "--set", "num_prompts=4",
    )  # fmt: skip
    jobs = study.jobs_of(arguments)
    assert [job.key for job in jobs] == [(1, "sft"), (2, "sft"), (1, "ppo-taught"), (2, "ppo-taught")]
    assert jobs[2].after == ("sft",)
    assert jobs[2].arguments == {
        "arm": "ppo-taught", "seconds": 30.0, "reward": "nano-v1-reward,nano-reward", "start": "sft",
        "num_prompts": 4, "beta": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--skip", "dpo "], "these parts have the jobs dpo, ppo-gold"),
        (["--reward_model", "nano"], "name that reward model, too"),
        (["--reward_from", "no-such-reward"], "no-such-reward holds no reward model"),
        (
            ["--parts", "taught", "--taught_reward", "nano-reward,nano-rewrad"],
            "nano-rewrad holds no reward model",
        ),
    ],
)
def test_unknown_jobs_and_rewards_and_a_generator_without_its_reward_are_refused(
    monkeypatch, capsys, words, said
):
    with pytest.raises(SystemExit, match="2"):
        arguments_of(monkeypatch, *words)
    assert said in capsys.readouterr().err


def test_the_rankings_are_no_more_than_the_study_may_use():
    assert import_module("benchmarks.alignment.study.settings").GPU.rankings == 2000


def test_settings_given_on_the_command_line_keep_their_types():
    parsed = import_module("benchmarks.named_values").named_values
    assert parsed(["learning_rate=1e-3", "num_iterations=4", "sde_kernel=cps", "sde_window_size=null"]) == {
        "learning_rate": 1e-3, "num_iterations": 4, "sde_kernel": "cps", "sde_window_size": None,
    }  # fmt: skip


def test_the_learning_rate_falls_over_the_budget_and_training_stops_at_its_end(monkeypatch):
    arms = import_module("benchmarks.alignment.study.arms")
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(arms.time, "time", lambda: clock.now)
    budget = arms.Budget("x", seconds=100.0, deadline=1050.0)
    optimizer = SimpleNamespace(param_groups=[{"lr": 2.0}])
    control = SimpleNamespace(should_training_stop=False)
    budget.on_train_begin(None, None, control)
    rates = []
    for share in (0.0, 0.5, 1.0):  # the deadline leaves 50 of the 100 seconds
        clock.now = 1000 + 50 * share
        optimizer.param_groups[0]["lr"] = 2.0  # what a constant schedule sets after each step
        budget.on_step_begin(None, SimpleNamespace(global_step=9), control, optimizer=optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        budget.on_step_end(None, None, control)
        assert control.should_training_stop == (share == 1.0)
    assert rates == pytest.approx([2.0, 2 * (0.02 + 0.49), 2 * 0.02])


def rows_of(arm, seed, scores, guidance=1.0, **more):
    return {"arm": arm, "seed": seed, "guidance": guidance, "scores": scores, **more}


def test_differences_are_paired_within_each_seed_and_pooled_over_seeds(tmp_path):
    report = import_module("benchmarks.alignment.study.report")
    random = np.random.default_rng(0)
    base = {seed: random.random(60).round(4).tolist() for seed in (0, 1)}
    rows = [rows_of("base", seed, base[seed]) for seed in (0, 1)]
    rows += [rows_of("dpo", seed, [s + 0.1 * (seed + 1) for s in base[seed]], videos=100) for seed in (0, 1)]
    rows += [rows_of("dpo", 0, [9.0] * 60, guidance=3.0)]  # without a base of its own: no difference
    file = tmp_path / "study.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"arm": "cut of')
    entries = {(e["arm"], e["guidance"]): e for e in report.summary(report.read_rows([file]))}
    dpo = entries["dpo", 1.0]
    assert dpo["difference_to_base"].mean == pytest.approx(0.15)
    assert [i.mean for i in dpo["difference_to_base_of_each_seed"]] == pytest.approx([0.1, 0.2])
    assert dpo["gold"].n == 120
    assert dpo["gold"].mean == pytest.approx(np.mean(base[0]) / 2 + np.mean(base[1]) / 2 + 0.15)
    assert 0.13 < dpo["difference_to_base"].low < 0.15 < dpo["difference_to_base"].high < 0.17
    assert entries["dpo", 3.0]["difference_to_base"] is None
    text = report.write_report([file], tmp_path)
    assert "| dpo | 1 | 2 |" in text
    assert "100 videos" in text
    stored = json.loads((tmp_path / "study.json").read_text())
    assert {arm["arm"] for arm in stored["arms"]} == {"base", "dpo"}


def test_ablations_are_compared_with_the_usual_setting_on_the_same_prompts(tmp_path):
    report = import_module("benchmarks.alignment.study.report")
    usual, better = [0.2, 0.4, 0.6, 0.2, 0.4, 0.6], [0.3, 0.5, 0.7, 0.3, 0.5, 0.7]
    rows = [
        rows_of("ppo, default", 0, usual),
        rows_of("ppo, critic", 0, better),
        rows_of("ppo-gold", 0, better),
    ]
    rows += [rows_of("ppo, critic", 0, usual, guidance=3.0)]  # the usual one was not measured there
    (found,) = report.ablations(rows)
    assert (found["arm"], found["guidance"], found["to"]) == ("ppo, critic", 1.0, "ppo, default")
    assert [found["difference"].mean, found["difference"].low] == pytest.approx([0.1, 0.1])
    file = tmp_path / "study.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert "| ppo, critic | 1 | ppo, default | +0.100 [+0.100, +0.100] |" in report.write_report(
        [file], tmp_path
    )


def test_early_stopping_is_at_the_first_rollout_above_the_target():
    report = import_module("benchmarks.alignment.study.report")
    kl = [0.0, 0.001, 0.004, 0.012, 0.03]
    gold = [0.5, 0.6, 0.7, 0.6, 0.4]
    stops = {s["target_kl"]: s for s in report.stops({"kl": kl, "gold": gold, "reward": [0, 1, 2, 3, 4]})}
    assert [stops[target]["rollout"] for target in report.TARGETS] == [2, 3, 3, 4, 4]
    assert stops[0.02]["reached"]
    assert not stops[0.05]["reached"]
    assert stops[0.005]["gold"] == pytest.approx(np.mean(gold[:4]))
    assert stops[0.005]["gold_at_end"] == pytest.approx(np.mean(gold))
    assert stops[0.01]["root_kl"] == pytest.approx(0.012**0.5)


def test_a_budget_that_begins_after_the_deadline_still_ends(monkeypatch):
    arms = import_module("benchmarks.alignment.study.arms")
    budget = arms.Budget("x", 60.0, deadline=time.time() - 100)
    budget.on_train_begin(None, None, argparse.Namespace())
    assert budget.seconds == 1.0


def test_gold_takes_the_settings_of_the_best_variant_at_any_guidance_scale(tmp_path):
    study = import_module("benchmarks.alignment.study.run")
    rows = [
        rows_of("tune: learning rate 5e-3", 0, [0.6, 0.7]),
        rows_of("tune: guidance 3", 0, [0.5, 0.6]),
        rows_of("tune: guidance 3", 0, [0.8, 0.7], guidance=3.0),
        rows_of("ppo-gold", 0, [1.0, 1.0]),
    ]
    file = tmp_path / "study.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert study.best_tuned(file) == {"guidance_scale": 3.0}
    file.write_text(json.dumps(rows[0]))
    assert study.best_tuned(file) == {"guidance_scale": 1.0, "learning_rate": 5e-3}
    file.write_text(json.dumps(rows[3]))
    assert study.best_tuned(file) == {}
