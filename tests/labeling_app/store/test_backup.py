"""Backups, restored into either kind of database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.files.rankings import ranking_rows
from labeling_app.store.backup import backup, restore
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit


def answer(store: Store, name: str, count: int) -> None:
    user = store.user(name) or store.add_user(name, "correct horse")
    for _ in range(count):
        task = assignment.next_task(store, user)
        assert task is not None
        submit(store, user, task.assignment, {"overall": [1, 2, 2, 4]}, 2.0, "so", "odd")


def test_a_backup_of_either_database_restores_into_either(
    filled: Store, database: str, tmp_path: Path, other_database: str
) -> None:
    answer(filled, "ada", 3)
    filled.record("ada", "test", number=1)
    copied = backup(database, tmp_path / "backup.db")
    answer(filled, "ada", 1)  # the server goes on, and what comes later is not in the backup
    assert sorted(path.name for path in tmp_path.glob("backup*")) == ["backup.db"]

    assert restore(tmp_path / "backup.db", other_database) == copied
    with Store(other_database) as restored:
        # Their assignments differ in their random order, but stored ranks are in the tasks' order.
        assert ranking_rows(restored, "main", tmp_path) == ranking_rows(filled, "main", tmp_path)[:3]
        assert restored.authenticate("ada", "correct horse") is not None
        assert restored.audit_events()[0].details == {"number": 1}
        answer(restored, "ada", 9)
        answer(restored, "bob", 1)
        assert [judgement.flag for judgement in restored.judgements("main")] == ["odd"] * 13
    with pytest.raises(InputError, match="has rows already"):
        restore(tmp_path / "backup.db", other_database)


def test_a_backup_never_overwrites_unasked_and_never_makes_an_empty_database(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        store.add_user("ada")
    backup(tmp_path / "x.db", tmp_path / "b.db")
    with pytest.raises(InputError, match="--overwrite"):
        backup(tmp_path / "x.db", tmp_path / "b.db")
    with pytest.raises(InputError, match="There is no database"):
        backup(tmp_path / "y.db", tmp_path / "c.db")
    assert not (tmp_path / "y.db").exists()
    with pytest.raises(InputError, match="does not exist"):
        restore(tmp_path / "none.db", tmp_path / "z.db")


def test_a_backup_never_takes_the_place_of_its_database(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
        (tmp_path / "folder").mkdir()
        for name, said in (
            ("x.db", "database itself"),
            ("link.db", "database itself"),
            ("folder", "is a folder"),
        ):
            with pytest.raises(InputError, match=said):
                backup(tmp_path / "x.db", tmp_path / name, overwrite=True)
        store.add_user("ada")
    with Store(tmp_path / "x.db") as store:
        assert [user.name for user in store.users()] == ["ada"]


def test_what_is_no_backup_is_one_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database")
    with closing(sqlite3.connect(tmp_path / "cats.db")) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        with pytest.raises(InputError, match="is not a backup"):
            restore(tmp_path / name, tmp_path / "new.db")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
