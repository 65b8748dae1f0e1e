"""`vidalign evaluate human`, from folders of videos to the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignment.cli import main
from generator.output import write_json
from labeling_app.campaigns.campaigns import Rules, make_gold, set_rules
from labeling_app.campaigns.overview import campaign_quality
from labeling_app.quality.adjudication import adjudicate
from labeling_app.quality.compared_models import judged_pairs, win_rates
from labeling_app.store.store import Store
from labeling_app.tasks.answers import submit
from labeling_app.tasks.next_task import next_task
from tests.labeling_app.model_folders import write_model

PROMPTS = [f"a cat, take {number}" for number in range(8)]
MODELS = ("base", "dpo", "ppo")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    return [str(write_model(root / name, 20 + 40 * i, PROMPTS)) for i, name in enumerate(MODELS)]


@pytest.fixture
def database(folders: list[str], tmp_path: Path) -> str:
    path = str(tmp_path / "labels.db")
    arguments = ["--campaign", "duel", "--overlap", "3", "--compare", *folders]
    assert main(["label", "import", "--db", path, *arguments]) == 0
    return path


def answer(store: Store, name: str, ranks_of: dict[str, int], limit: int = 99, flag: str = "") -> int:
    """An annotator who ranks every pair by a fixed rank of each model; returns the number of answers."""
    user, given = store.user(name) or store.add_user(name), 0
    while given < limit and (task := next_task(store, user, "duel")) is not None:
        row = next(
            each for kind in ("normal", "gold") for each in store.tasks("duel", kind) if each.id == task.task
        )
        names = [Path(row.videos[place].media.path).parent.name for place in task.permutation]
        ranks = [ranks_of[model] for model in names]
        submit(store, user, task.assignment, {"overall": dense(ranks)}, 3.0, flag=flag)
        given += 1
    return given


def dense(ranks: Sequence[int]) -> list[int]:
    order = sorted(set(ranks))
    return [order.index(rank) + 1 for rank in ranks]


def evaluate(database: str, folder: Path, *more: str) -> int:
    return main(
        ["evaluate", "human", "--db", database, "--campaign", "duel", "--output_dir", str(folder), *more]
    )


def test_the_report_and_the_printed_figures_are_those_of_the_answers(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(database) as store:
        for name in ("ada", "bob"):
            answer(store, name, {"ppo": 1, "dpo": 2, "base": 3})
        answer(store, "eve", {"ppo": 1, "dpo": 2, "base": 2})
    capsys.readouterr()
    out = tmp_path / "human"
    assert evaluate(database, out, "--stop_width", "0.98") == 0
    printed = capsys.readouterr().out
    assert "base against dpo: win rate 16.7 % [" in printed
    assert "ties 33.3 %, 24 judgements" in printed
    assert "Strengths in Elo points, mean 0: ppo +" in printed
    assert "Two annotators agree on 77.8 % of the answers" in printed
    assert "Stop: every interval of a win rate is at most 98.0 % wide." in printed
    assert f"label export --db {database} --campaign duel --output_file {out}-rankings.jsonl" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["models"] == ["ppo", "dpo", "base"]
    assert (report["judgements"], report["prompts"], report["annotators"]) == (72, 8, 3)
    rates = {(p["first"], p["second"]): p["win_rate"]["mean"] for p in report["pairs"]}
    assert rates == {
        ("base", "dpo"): pytest.approx(4 / 24),
        ("base", "ppo"): 0,
        ("dpo", "ppo"): 0,
    }
    assert all(pair["p_holm"] >= pair["p_value"] for pair in report["pairs"])
    assert report["made"]["command"].startswith("vidalign evaluate human --db")
    page = (out / "report.html").read_text()
    assert "Models compared by people" in page
    assert page.count("<video") >= 4
    assert evaluate(database, out) == 2
    assert evaluate(database, out, "--overwrite") == 0


def test_hidden_checks_count_and_decisions_of_leads_do_not(database: str, tmp_path: Path) -> None:
    with Store(database) as store:
        answer(store, "ada", {"ppo": 1, "dpo": 2, "base": 3})
        tasks = store.tasks("duel")
        first, second = (
            tasks[0],
            tasks[4],
        )  # of two prompts: nobody gets two tasks with one video, one of them gold
        lead = store.add_user("lea", role="lead")
        adjudicate(store, lead, first.id, {"overall": [1, 2]})
        make_gold(store, second.id, {"overall": [2, 1]})
        set_rules(store, "duel", Rules(quiz_size=1, quiz_pass=0.0))
        answer(store, "bob", {"ppo": 3, "dpo": 2, "base": 1}, limit=2)
        judged = judged_pairs(store, "duel")
        assert {each.annotator for each in judged} == {"ada", "bob"}
        assert [e.outcome for e in judged if e.task == first.id] == [0.0, 1.0]
        assert {each.task for each in judged} <= {task.id for task in store.tasks("duel")}
        assert win_rates(store, "duel")["base", "ppo"].win_rate.mean == pytest.approx(0)
    assert evaluate(database, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["gold"] == {"right": 0, "pairs": 1, "accuracy": 0.0}
    assert report["people"]["bob"]["gold_accuracy"] == 0.0


def test_the_quality_of_a_campaign_shows_the_width_of_its_win_rates(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(database) as store:
        answer(store, "ada", {"ppo": 1, "dpo": 2, "base": 3})
        shown = {(row["first"], row["second"]): row for row in campaign_quality(store, "duel")["win_rates"]}
        found = win_rates(store, "duel")["base", "dpo"]
    assert shown["base", "dpo"]["high"] - shown["base", "dpo"]["low"] == pytest.approx(found.width)
    assert main(["label", "quality", "--db", database, "--campaign", "duel"]) == 0
    ends = f"[0.000, {found.win_rate.high:.3f}], width {found.width:.3f}"
    assert f"base against dpo: win rate 0.000  {ends}, 8 judgements" in capsys.readouterr().out


def test_both_bad_is_a_tie_that_is_counted_apart(database: str, tmp_path: Path) -> None:
    with Store(database) as store:
        answer(store, "ada", dict.fromkeys(MODELS, 1), flag="All videos are bad")
        answer(store, "bob", dict.fromkeys(MODELS, 1))
    assert evaluate(database, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {(pair["tie_rate"], pair["all_bad_rate"]) for pair in report["pairs"]} == {(1.0, 0.5)}
    assert [row["mean"] for row in report["strengths"]["elo"].values()] == pytest.approx([0, 0, 0], abs=1e-6)


def test_an_evaluation_adds_how_far_its_measures_agree_with_people(
    database: str, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(database) as store:
        answer(store, "ada", {"ppo": 1, "dpo": 2, "base": 3})
    rows = []
    for value, folder in enumerate(folders):
        for line in (Path(folder) / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            # The score agrees with people, the flicker too, as less of it is better, and the other measure never.
            row["file_name"] = str(
                Path("..") / ".." / Path(folder).relative_to(Path(folder).parents[1]) / row["file_name"]
            )
            rows.append({**row, "score": value / 2, "measures": {"flicker": -value, "other": -value}})
    evaluation = Path(folders[0]).parents[1] / tmp_path.name / "evaluation"
    evaluation.mkdir(parents=True)
    (evaluation / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(database, tmp_path / "out", "--evaluation", str(evaluation)) == 2
    assert "is no finished evaluation" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
    write_json(evaluation / "report.json", {})
    assert evaluate(database, tmp_path / "out", "--evaluation", str(evaluation)) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())["measures"]
    means = {name: (row["agreement"]["mean"], row["model_pairs_alike"]) for name, row in found.items()}
    assert means == {"score of the verifier": (1.0, 3), "flicker": (1.0, 3), "other": (0.0, 0)}
    assert found["flicker"]["lower_is_better"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "has no answers yet: let annotators compare"),
        (("--dimension", "motion"), "has no dimension 'motion': choose one of overall"),
        (("--stop_width", "1.5"), "give the width of an interval of win rates between 0 and 1"),
        (("--campaign", "other"), "There is no campaign 'other'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_folder(
    database: str,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert evaluate(database, tmp_path / "out", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_campaign_without_models_and_a_missing_database_are_refused(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = str(tmp_path / "labels.db")
    assert evaluate(database, tmp_path / "out") == 2
    assert not Path(database).exists()
    main(["label", "import", "--db", database, "--campaign", "duel", "--videos", *folders])
    with Store(database) as store:
        answer(store, "ada", {"ppo": 1, "dpo": 2, "base": 3})
    capsys.readouterr()
    assert evaluate(database, tmp_path / "out") == 2
    assert "compares no models: import videos with vidalign label import --compare" in " ".join(
        capsys.readouterr().err.split()
    )
