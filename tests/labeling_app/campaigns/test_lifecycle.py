"""Campaigns are listed, changed until the first answer, renamed, paused, closed and deleted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from alignment.cli import main
from generator.output import InputError
from labeling_app.campaigns.campaigns import Rules, import_gold, set_rules
from labeling_app.campaigns.demonstrations import add_library, ask, demonstrate, open_prompts
from labeling_app.campaigns.lifecycle import delete_campaign, rename_campaign, set_state
from labeling_app.files.candidates import import_tasks
from labeling_app.store.passwords import hash_password
from labeling_app.store.store import Store
from labeling_app.store.tables import Base
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import recent_answers, revise, submit
from labeling_app.tasks.lease import Refused
from labeling_app.tasks.progress import Progress, progress
from labeling_app.web.server import create_app
from tests.labeling_app.older_database import make_older

PASSWORD = "correct horse"
RANKS = {"overall": [1, 2, 3, 4]}


def answer(store: Store, name: str, count: int = 1) -> list[str]:
    """Ranks so many tasks, by campaign."""
    user = store.user(name) or store.add_user(name, PASSWORD)
    done = []
    for _ in range(count):
        if (task := assignment.next_task(store, user)) is None:
            break
        ranks = {dimension: [1, 2, 3, 4] for dimension in task.dimensions}
        submit(store, user, task.assignment, ranks, 1.0)
        done.append(task.campaign)
    return done


def lead(store: Store, campaign: str | None = None) -> TestClient:
    store.add_user("lea", PASSWORD, role="lead")
    client = TestClient(create_app(store, campaign))
    client.post("/login", data={"name": "lea", "password": PASSWORD})
    return client


def test_a_listing_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = str(tmp_path / "labels.db")
    assert main(["label", "campaign", "--db", database]) == 2
    assert list(tmp_path.iterdir()) == []
    Store(database).close()
    assert main(["label", "campaign", "--db", database]) == 0
    assert "no campaign yet" in capsys.readouterr().out
    for arguments in (
        ["--campaign", "frist"],
        ["--pause"],
        ["--campaign", "x", "--close"],
        ["--campaign", "x", "--rename", "y"],
    ):
        assert main(["label", "campaign", "--db", database, *arguments]) == 2, arguments
    with Store(database) as store:
        assert store.campaigns() == []
        assert store.audit_events() == []
    assert main(["label", "campaign", "--db", database, "--campaign", "first", "--overlap", "2"]) == 0
    capsys.readouterr()
    assert main(["label", "campaign", "--db", database, "--gold_share", "0.1"]) == 2
    assert "name one with --campaign" in capsys.readouterr().err
    assert main(["label", "campaign", "--db", database]) == 0
    assert capsys.readouterr().out.startswith("Campaign first: overall, overlap 2, gold 0%")


def test_rules_before_the_import_leave_overlap_and_dimensions_open(tmp_path: Path, candidates: Path) -> None:
    database = str(tmp_path / "labels.db")
    assert main(["label", "campaign", "--db", database, "--gold_share", "0.1"]) == 0
    command = ["label", "import", "--db", database, "--videos", str(candidates), "--overlap"]
    assert main([*command, "3", "--dimensions", "visual", "motion"]) == 0
    with Store(database) as store:
        row = store.campaign("default")
        assert (row.overlap, row.dimensions, row.gold_share) == (3, ["visual", "motion"], 0.1)
        # Nothing was answered yet: another import may still change it.
        assert main([*command, "2", "--dimensions", "overall"]) == 0
        row = store.campaign("default")
        assert (row.overlap, row.dimensions) == (2, ["overall"])
        answer(store, "ada")
        assert main([*command, "3"]) == 2
        assert main([*command[:-1], "--dimensions", "visual"]) == 2
        assert main(command[:-1]) == 0
        row = store.campaign("default")
        assert (row.overlap, row.dimensions) == (2, ["overall"])


def test_after_the_first_answer_the_overlap_only_grows_and_filled_tasks_open_again(filled: Store) -> None:
    set_rules(filled, "main", Rules(overlap=1))
    assert len(answer(filled, "ada", 20)) == 12
    assert answer(filled, "bob") == []
    for refused in (Rules(dimensions=["visual"]), Rules(overlap=0)):
        with pytest.raises(InputError):
            set_rules(filled, "main", refused)
    set_rules(filled, "main", Rules(overlap=2))
    assert len(answer(filled, "bob", 20)) == 12
    with pytest.raises(InputError, match="may only grow"):
        set_rules(filled, "main", Rules(overlap=1))
    assert filled.campaign("main").overlap == 2


def test_gold_items_fix_the_dimensions(filled: Store, tmp_path: Path) -> None:
    task = filled.tasks("main")[0]
    row = {"prompt": "known", "videos": [video.media.path for video in task.videos], "ranks": [1, 2, 3, 4]}
    (tmp_path / "gold.jsonl").write_text(json.dumps(row))
    import_gold(filled, tmp_path / "gold.jsonl", "main")
    with pytest.raises(InputError, match="gold items"):
        set_rules(filled, "main", Rules(dimensions=["visual"]))


def test_a_paused_campaign_gives_out_nothing_and_takes_what_is_in_hand(filled: Store) -> None:
    ada: Any = filled.add_user("ada", PASSWORD)
    held = assignment.next_task(filled, ada)
    assert held is not None
    set_state(filled, "main", "paused")
    again = assignment.next_task(filled, ada)
    assert again is not None
    assert again.assignment == held.assignment
    submit(filled, ada, held.assignment, RANKS, 1.0)
    assert assignment.next_task(filled, ada) is None
    assert "main is paused" in assignment.next_with_progress(filled, ada).reason
    assert progress(filled, ada) == Progress(1, 0)
    revise(filled, ada, held.assignment, RANKS, 1.0)
    set_state(filled, "main", "open")
    assert answer(filled, "ada") == ["main"]


def test_a_closed_campaign_takes_nothing_more(filled: Store, candidates: Path) -> None:
    ask(filled, "main", ["a cat"])
    answer(filled, "ada")
    ada: Any = filled.user("ada")
    (answered,) = recent_answers(filled, ada)
    set_state(filled, "main", "closed")
    assert answer(filled, "ada") == []
    assert recent_answers(filled, ada) == []
    with pytest.raises(Refused, match="closed"):
        revise(filled, ada, answered.task.assignment, RANKS, 1.0)
    assert open_prompts(filled, ada) == []
    with pytest.raises(InputError, match="closed"):
        import_tasks(filled, candidates, campaign="main")
    assert len(filled.judgements("main")) == 1


def test_a_renamed_campaign_goes_on_in_a_running_server(filled: Store) -> None:
    lea = lead(filled, "main")
    filled.add_user("ada", PASSWORD)
    ada = TestClient(lea.app)
    ada.post("/login", data={"name": "ada", "password": PASSWORD})
    task = ada.get("/api/next").json()["task"]
    renamed = lea.post("/api/lead/campaigns/name?campaign=main", json={"name": " Jose\u0301 #2 "})
    assert renamed.json() == {"name": "José #2"}
    after = ada.get("/api/next").json()["task"]
    assert (after["assignment"], after["campaign"]) == (task["assignment"], "José #2")
    body = {"ranks": RANKS, "seconds": 1}
    assert ada.post(f"/api/assignments/{task['assignment']}/judgement", json=body).status_code == 200
    assert filled.campaign("Jose\u0301 #2").name == "José #2"
    set_rules(filled, "other", Rules(), make=True)
    with pytest.raises(InputError, match="exists already"):
        rename_campaign(filled, "other", "Jose\u0301 #2")


def test_a_lead_pauses_and_deletes_by_the_typed_name_alone(filled: Store, candidates: Path) -> None:
    lea = lead(filled)
    before = {path: path.read_bytes() for path in candidates.iterdir()}
    answer(filled, "ada", 2)
    address = "/api/lead/campaigns"
    assert lea.post(f"{address}/state?campaign=main", json={"state": "paused"}).status_code == 200
    assert lea.get("/api/lead/overview").json()["campaigns"][0]["state"] == "paused"
    wrong = lea.post(f"{address}/delete?campaign=main", json={"name": "mian"})
    assert (wrong.status_code, "nothing was deleted" in wrong.json()["message"]) == (400, True)
    assert lea.post(f"{address}/delete?campaign=main", json={}).status_code == 422
    assert len(filled.judgements("main")) == 2
    done = lea.post(f"{address}/delete?campaign=main", json={"name": "main"})
    assert done.json() == {"tasks": 12, "judgements": 2, "demonstrations": 0}
    assert filled.campaigns() == []
    assert {path: path.read_bytes() for path in candidates.iterdir()} == before
    actions = [(event.user_name, event.action) for event in filled.audit_events(2)]
    assert actions == [("lea", "delete campaign"), ("lea", "set campaign state")]


def test_deleting_leaves_other_campaigns_whole_and_no_row_behind(
    filled: Store, candidates: Path, tmp_path: Path
) -> None:
    import_tasks(filled, candidates, campaign="other")
    add_library(filled, "main", candidates)
    ask(filled, "main", ["a cat"])
    answer(filled, "ada", 30)
    ada: Any = filled.user("ada")
    (prompt,) = open_prompts(filled, ada)
    demonstrate(filled, ada, prompt.id, filled.tasks("main")[0].videos[0].media_id)
    kept = [(judgement.task_id, judgement.ranks) for judgement in filled.judgements("other")]
    delete_campaign(filled, "main", "main")
    assert [(judgement.task_id, judgement.ranks) for judgement in filled.judgements("other")] == kept
    assert len(kept) == 12
    delete_campaign(filled, "other", "other")
    left = {}
    with filled.read() as session:
        for table in Base.metadata.sorted_tables:
            left[table.name] = session.execute(table.select()).all()
    assert {name for name, rows in left.items() if rows} == {"users"}


@pytest.mark.parametrize(
    ("typed", "status"), [("default\n", 0), ("defaut\n", 2), ("", 2), (None, 2), ("--yes", 0)]
)
def test_the_command_deletes_after_the_name_was_typed(
    tmp_path: Path, candidates: Path, monkeypatch: pytest.MonkeyPatch, typed: str | None, status: int
) -> None:
    database = str(tmp_path / "labels.db")
    with Store(database) as store:
        import_tasks(store, candidates)
    stdin = io.StringIO(typed if typed != "--yes" else None)
    monkeypatch.setattr(stdin, "isatty", lambda: typed not in (None, "--yes"), raising=False)
    monkeypatch.setattr("sys.stdin", stdin)
    command = ["label", "campaign", "--db", database, "--campaign", "default", "--delete"]
    assert main([*command, *(["--yes"] if typed == "--yes" else [])]) == status
    with Store(database) as store:
        assert [row.name for row in store.campaigns()] == ([] if status == 0 else ["default"])
        last = store.audit_events(1)
        assert [event.action for event in last] == (["delete campaign"] if status == 0 else [])
        assert all(event.user_name.endswith("(command line)") for event in last)


def test_changes_by_command_are_in_the_audit_table(tmp_path: Path, candidates: Path) -> None:
    database = str(tmp_path / "labels.db")
    base = ["--db", database]
    for command in (
        ["import", *base, "--videos", str(candidates)],
        ["campaign", *base, "--daily_cap", "5"],
        ["campaign", *base, "--pause"],
        ["campaign", *base, "--reopen", "--rename", "first"],
        ["users", *base, "--add", "ada"],
        ["users", *base, "--set_role", "ada", "--role", "lead"],
        ["users", *base, "--set_password", "ada"],
    ):
        assert main(["label", *command]) == 0, command
    with Store(database) as store:
        events = store.audit_events()[::-1]
    assert [event.action for event in events] == [
        "import",
        "set rules",
        "set campaign state",
        "set campaign state",
        "rename campaign",
        "add user",
        "set role",
        "set password",
    ]
    assert all(event.user_name.endswith("(command line)") for event in events)
    assert "password" not in json.dumps([event.details for event in events])


def test_a_database_from_before_has_secrets_open_campaigns_and_composed_names(tmp_path: Path) -> None:
    """Of schema 0004: assignments without a secret, and a name typed in its decomposed form."""
    path = str(tmp_path / "labels.db")
    make_older(
        path,
        "0004",
        f"""
        INSERT INTO users (id, name, password_hash, role, simulated, created_at)
          VALUES (1, 'Jose' || char(769), '{hash_password(PASSWORD)}', 'annotator', false, 5.0);
        INSERT INTO campaigns (id, name, overlap, dimensions, created_at) VALUES (1, 'first', 1, '["overall"]', 5.0);
        INSERT INTO tasks (id, campaign_id, prompt, fingerprint, completed, created_at)
          VALUES (1, 1, 'a cat', 'a', 0, 5.0), (2, 1, 'a dog', 'b', 0, 5.0);
        INSERT INTO assignments (id, task_id, user_id, permutation, state, assigned_at, expires_at)
          VALUES (1, 1, 1, '[0, 1]', 'open', 5.0, 6.0), (2, 2, 1, '[1, 0]', 'done', 5.0, 6.0)
        """,
    )
    with Store(path) as store, store.read() as session:
        assert store.authenticate("José", PASSWORD) is not None
        assert store.authenticate("Jose\u0301", PASSWORD) is not None
        with pytest.raises(InputError, match="exists already"):
            store.add_user("Jose\u0301")
        assert store.campaign("first").state == "open"
        tokens = [row.token for row in session.query(Base.metadata.tables["assignments"])]
    assert len(set(tokens)) == 2
    assert all(len(token) == 22 for token in tokens)


def test_two_spellings_of_a_letter_are_one_name(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    filled.add_user("Jose\u0301", PASSWORD)
    with pytest.raises(InputError, match="exists already"):
        filled.add_user("José")
    client = TestClient(create_app(filled), follow_redirects=False)
    for typed in ("José", "Jose\u0301", " José "):
        entered = client.post("/login", data={"name": typed, "password": PASSWORD})
        assert entered.status_code == 303, typed
    assert client.get("/api/next").json()["user"] == "José"
    assert filled.campaign("main").name == "main"


def test_a_campaign_with_a_number_sign_is_trained_from(
    tmp_path: Path, candidates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeling_app.quality.reliability import read_store

    monkeypatch.chdir(tmp_path)
    with Store("h#1.db") as store:
        import_tasks(store, candidates, campaign="round #2 #final")
        answer(store, "ada", 12)
    for source in ("db:h#1.db#round #2 #final", f"db:sqlite:///{tmp_path}/h#1.db#round #2 #final"):
        assert len(read_store(source)) == 12
    with pytest.raises(InputError, match="names no campaign"):
        read_store("db:h#1.db")
