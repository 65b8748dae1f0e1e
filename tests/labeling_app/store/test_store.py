"""Users, campaigns, tasks and their judgements."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.files.candidates import import_tasks
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, submit


def test_a_path_and_a_url_open_the_same_database(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        store.add_user("ada", "correct horse")
    with Store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        assert [user.name for user in store.users()] == ["ada"]


def test_sqlite_runs_in_wal_mode(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store, store.read() as session:
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("nonsense://x", "not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:////no/such/folder/x.db", "does not exist"),
        ("mysql+nodriver://x", "not a database URL"),
    ],
)
def test_a_wrong_database_is_one_clear_sentence(database: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store(database)


def test_a_file_that_is_no_database_is_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("this is not a database, " * 100)
    with pytest.raises(InputError, match="cannot be opened"):
        Store(path)


def test_passwords_are_hashed_with_a_salt_of_their_own(store: Store) -> None:
    ada = store.add_user("ada", "correct horse")
    bob = store.add_user("bob", "correct horse")
    assert "correct horse" not in ada.password_hash
    assert ada.password_hash != bob.password_hash
    assert store.authenticate("ada", "correct horse") is not None
    assert store.authenticate("ada", "wrong horse") is None
    assert store.authenticate("nobody", "correct horse") is None


def test_a_user_without_a_password_cannot_log_in(store: Store) -> None:
    store.add_user("simulated-1", simulated=True)
    assert store.authenticate("simulated-1", "") is None


@pytest.mark.parametrize(
    ("name", "password", "role"),
    [
        ("ada", "correct horse", "annotator"),
        (" ", "correct horse", "annotator"),
        ("bob", "short", "annotator"),
        ("bob", "correct horse", "king"),
        ("b\nob", "correct horse", "annotator"),
    ],
)
def test_unusable_users_are_refused(store: Store, name: str, password: str, role: str) -> None:
    store.add_user("ada", "correct horse")
    with pytest.raises(InputError):
        store.add_user(name, password, role)


@pytest.mark.parametrize("name", ["علی\u200cرضا", "क\u094d\u200dष", "王小明", "José"])
def test_names_of_any_script_are_usable(store: Store, name: str) -> None:
    assert store.add_user(name).name == name
    assert store.user(name) is not None


def test_a_new_password_ends_the_sessions(store: Store) -> None:
    ada = store.add_user("ada", "correct horse")
    token = store.open_session(ada)
    assert store.session_user(token) is not None
    store.set_password("ada", "battery staple")
    assert store.session_user(token) is None
    assert store.authenticate("ada", "correct horse") is None


def test_sessions_end_by_logging_out_and_by_time(database: str, clock: object) -> None:
    store = Store(database, clock=clock)  # type: ignore[arg-type]
    ada = store.add_user("ada", "correct horse")
    token, other = store.open_session(ada, lifetime=60.0), store.open_session(ada, lifetime=600.0)
    assert store.session_user("forged") is None
    clock.now += 61  # type: ignore[attr-defined]
    assert store.session_user(token) is None
    assert store.session_user(other) is not None
    store.close_session(other)
    assert store.session_user(other) is None


def test_an_unknown_campaign_names_the_known_ones(filled: Store) -> None:
    with pytest.raises(InputError, match="main"):
        filled.campaign("mian")


def test_a_running_campaign_keeps_its_overlap(filled: Store, candidates: Path) -> None:
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 1.0)
    with pytest.raises(InputError, match="overlap 2"):
        import_tasks(filled, candidates, campaign="main", overlap=3)
    for overlap in (0, 1001, 10**20):
        with pytest.raises(InputError, match=f"overlap is {overlap}: give"):
            import_tasks(filled, candidates, campaign="other", overlap=overlap)


def test_a_changed_answer_is_a_new_version_and_the_old_one_stays(filled: Store) -> None:
    ada = filled.add_user("ada", "correct horse")
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 5.0)
    assert revise(filled, ada, task.assignment, {"overall": [4, 4, 4, 1]}, 2.0) == 2
    versions = filled.judgements("main", all_versions=True)
    assert [judgement.version for judgement in versions] == [1, 2]
    (newest,) = filled.judgements("main")
    assert sorted(newest.ranks or []) == [1, 2, 2, 2]
