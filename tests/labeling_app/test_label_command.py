"""`vidalign label` through the functions that the command line calls."""

from __future__ import annotations

import json
import math
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from generator.output import InputError

label = pytest.importorskip("alignment.cli.commands.label")
label_users = pytest.importorskip("alignment.cli.commands.label_users")


@pytest.fixture
def database(tmp_path: Path, candidates: Path) -> str:
    url = f"sqlite:///{tmp_path / 'labels.db'}"
    label.run_import(label.ImportArguments(db=url, videos=[str(candidates)], overlap=2))
    return url


@pytest.fixture
def scores(candidates: Path) -> Path:
    path = candidates / "scores.jsonl"
    rows = [
        {"video": video.name, "score": (number * 7 % 12) / 12}
        for number, video in enumerate(sorted(candidates.glob("*.mp4")))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_import_simulate_quality_and_export_follow_each_other(
    database: str, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label.run_import(label.ImportArguments(db=database, videos=[str(scores.parent)]))
    assert "0 new task(s), 12 known" in capsys.readouterr().out
    label.run_simulate(label.SimulateArguments(db=database, scores=str(scores)))
    printed = capsys.readouterr().out
    assert "24 ranking(s) by 3 simulated annotators" in printed
    assert re.search(r"best possible pair accuracy \(overall\): 0\.\d{3}", printed)
    label.run_quality(label.QualityArguments(db=database))
    printed = capsys.readouterr().out
    assert "24 rankings of 12 tasks, 144 pair labels" in printed
    assert "simulated-3" in printed
    output = tmp_path / "rankings.jsonl"
    label.run_export(label.ExportArguments(db=database, output_file=str(output)))
    assert len(output.read_text().splitlines()) == 24
    label_users.run_users(label_users.UsersArguments(db=database))
    assert "simulated-1\tsimulated" in capsys.readouterr().out


def test_users_are_added_with_a_password_that_is_shown_once(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from labeling_app.store.store import Store

    capsys.readouterr()
    label_users.run_users(label_users.UsersArguments(db=database, add="ada", role="admin"))
    found = re.fullmatch(r"admin ada, password (\S+) \(shown only now\)\n", capsys.readouterr().out)
    assert found
    assert Store(database).authenticate("ada", found[1])
    label_users.run_users(label_users.UsersArguments(db=database, set_password="ada"))
    assert not Store(database).authenticate("ada", found[1])
    with pytest.raises(InputError, match="no person"):
        label_users.run_users(label_users.UsersArguments(db=database, set_password="bob"))
    with pytest.raises(InputError, match="one at a time"):
        label_users.run_users(label_users.UsersArguments(db=database, add="bob", set_role="ada"))
    assert [user.name for user in Store(database).users()] == ["ada"]


def test_a_port_that_is_taken_is_one_clear_sentence(database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another --port"):
            label.run_serve(label.ServeArguments(db=database, port=taken.getsockname()[1]))


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_a_lease_that_is_no_time_is_one_clear_sentence(database: str, minutes: float) -> None:
    with pytest.raises(InputError, match=r"lease_minutes is .*: give a number above 0"):
        label.run_serve(label.ServeArguments(db=database, port=0, lease_minutes=minutes))


def test_wrong_scores_are_one_clear_sentence(database: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="either --reward or --scores"):
        label.run_simulate(label.SimulateArguments(db=database))
    with pytest.raises(InputError, match="does not exist"):
        label.run_simulate(label.SimulateArguments(db=database, scores=str(tmp_path / "none.jsonl")))
    (tmp_path / "bad.jsonl").write_text('{"video": "x.mp4"}\n')
    with pytest.raises(InputError, match="not a file of scores"):
        label.run_simulate(label.SimulateArguments(db=database, scores=str(tmp_path / "bad.jsonl")))


def test_every_verb_has_help_and_every_argument_is_explained() -> None:
    from dataclasses import fields

    verbs = {"serve", "import", "export", "users", "quality", "simulate", "backup", "restore"}
    verbs |= {"campaign", "gold", "demonstrations", "select"}
    verbs |= {"groups", "assign", "invite", "message", "hours", "space", "token", "webhook"}
    assert set(label.VERBS) == verbs
    for verb in label.VERBS.values():
        assert verb.help
        for arguments in verb.arguments:
            assert all(field.metadata["help"] for field in fields(arguments))


def test_backup_and_restore_move_a_database(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_users.run_users(label_users.UsersArguments(db=database, add="ada"))
    label.run_backup(label.BackupArguments(db=database, output_file=str(tmp_path / "b.db")))
    label.run_restore(label.RestoreArguments(db=str(tmp_path / "new.db"), backup=str(tmp_path / "b.db")))
    capsys.readouterr()
    label_users.run_users(label_users.UsersArguments(db=str(tmp_path / "new.db")))
    assert "ada" in capsys.readouterr().out


def test_rules_gold_items_and_demonstrations_are_set_by_command(
    database: str, candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "guidelines.md").write_text("Look twice.")
    verb = label.LEAD_VERBS["campaign"]
    rules = str(tmp_path / "guidelines.md")
    verb.run(verb.arguments[0](db=database, project="spring", gold_share=0.1, guidelines=rules))
    printed = capsys.readouterr().out
    assert "Guidelines, version 1" in printed
    assert "gold 10%" in printed
    videos = [str(path) for path in sorted(candidates.glob("*-000-*.mp4"))]
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"prompt": "known", "videos": videos, "ranks": [1, 2, 3, 4]}) + "\n")
    label.LEAD_VERBS["gold"].run(label.LEAD_VERBS["gold"].arguments[0](db=database, rankings=str(gold)))
    assert "1 new gold item(s) in campaign default." in capsys.readouterr().out
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    verb = label.LEAD_VERBS["demonstrations"]
    verb.run(verb.arguments[0](db=database, prompts=str(prompts), library=str(candidates), wanted=2))
    printed = capsys.readouterr().out
    assert "2 new prompt(s) wait for 2 video(s) each." in printed
    assert "48 new video(s) to choose from." in printed
    with pytest.raises(InputError, match="no demonstrations"):
        label.run_export(label.ExportArguments(db=database, demonstrations=str(tmp_path / "sft")))
    with pytest.raises(InputError, match="either --output_file"):
        label.run_export(label.ExportArguments(db=database))


def test_select_adds_pairs_to_a_campaign_and_says_what_it_expects(
    database: str,
    candidates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = tmp_path / "colour_rewards.py"
    module.write_text(
        "def blue(videos, prompts):\n    return 9 * videos[:, 2].mean(dim=(1, 2, 3))\n\n\n"
        "def green(videos, prompts):\n    return 9 * videos[:, 1].mean(dim=(1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    verb = label.LEAD_VERBS["select"]
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    output = tmp_path / "picked.jsonl"
    arguments = verb.arguments[0](
        db=fresh,
        videos=[str(candidates)],
        reward=["colour_rewards:blue", "colour_rewards:green"],
        count=10,
        campaign="next",
        output_file=str(output),
    )
    verb.run(arguments)
    printed = capsys.readouterr().out
    assert "10 pair(s) in campaign next, 2 of them picked at random." in printed
    worth = re.search(r"as much as (\d+) random pairs", printed)
    assert worth is not None
    assert int(worth[1]) > 10
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["random"] for row in rows] == [False] * 8 + [True] * 2
    for wrong, said in (
        ({}, "pass --overwrite"),
        ({"output_file": str(tmp_path)}, "is a folder"),
        ({"overwrite": True, "temperature": 0.0}, "temperature is 0"),
        ({"overwrite": True, "temperature": math.nan}, "temperature is nan"),
        ({"overwrite": True, "seed": -1}, "seed is -1"),
    ):
        with pytest.raises(InputError, match=said):
            verb.run(replace(arguments, **wrong))
    # The same pairs are not picked twice.
    verb.run(replace(arguments, overwrite=True))
    again = {tuple(json.loads(line)["videos"]) for line in output.read_text().splitlines()}
    assert again.isdisjoint({tuple(row["videos"]) for row in rows})


def test_a_misspelt_database_is_one_sentence_and_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verbs = label.VERBS
    for name, arguments in {
        "quality": label.QualityArguments(db="labelz.db"),
        "export": label.ExportArguments(db="labelz.db", output_file="rankings.jsonl"),
        "simulate": label.SimulateArguments(db="labelz.db", reward="world"),
        "gold": verbs["gold"].arguments[0](db="labelz.db", rankings="known.jsonl"),
        "users": label_users.UsersArguments(db="labelz.db"),
    }.items():
        with pytest.raises(InputError, match=r"There is no database labelz\.db"):
            verbs[name].run(arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_only_annotator_is_listed_without_an_accuracy(
    tmp_path: Path, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'labels.db'}"
    label.run_import(label.ImportArguments(db=url, videos=[str(scores.parent)], overlap=1))
    label.run_simulate(label.SimulateArguments(db=url, scores=str(scores), annotators=1))
    capsys.readouterr()
    label.run_quality(label.QualityArguments(db=url))
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("simulated"))
    assert "0.33" not in line
    assert line.count("–") >= 4  # agreement, accuracy, gold and repeats


def test_the_quality_of_a_dimension_that_is_not_asked_for_is_one_sentence(database: str) -> None:
    with pytest.raises(InputError, match="has no dimension 'taste': choose one of overall"):
        label.run_quality(label.QualityArguments(db=database, dimension="taste"))


def test_a_campaign_whose_rules_are_wrong_is_not_made(database: str, tmp_path: Path) -> None:
    from labeling_app.campaigns.campaigns import projects
    from labeling_app.store.store import Store

    (tmp_path / "empty.md").touch()
    verb = label.LEAD_VERBS["campaign"]
    for wrong in ({"gold_share": 9.0}, {"guidelines": str(tmp_path / "empty.md")}):
        with pytest.raises(InputError):
            verb.run(verb.arguments[0](db=database, campaign="new", project="spring", **wrong))
    with Store(database) as store:
        assert [row.name for row in store.campaigns()] == ["default"]
        assert projects(store) == []
        verb.run(verb.arguments[0](db=database, campaign="new", project="spring", gold_share=0.2))
        assert store.campaign("new").project is not None
