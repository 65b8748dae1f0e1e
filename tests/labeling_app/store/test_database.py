"""Migrations, and what a server that is killed leaves behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from generator.output import InputError
from labeling_app.store.database import MIGRATIONS, NEWEST_VERSION, database_url, schema_version
from labeling_app.store.passwords import hash_password
from labeling_app.store.store import Store
from labeling_app.store.tables import Base
from labeling_app.tasks.answers import submit
from labeling_app.tasks.next_task import next_task
from tests.labeling_app.older_database import make_older

MEMORY_OF_FIRST_RELEASE = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(100) NOT NULL UNIQUE, password_hash VARCHAR(300) NOT NULL,
  role VARCHAR(20) NOT NULL, simulated BOOLEAN NOT NULL, created_at FLOAT NOT NULL);
CREATE TABLE campaigns (id INTEGER PRIMARY KEY, name VARCHAR(200) NOT NULL UNIQUE, overlap INTEGER NOT NULL,
  dimensions JSON NOT NULL, created_at FLOAT NOT NULL);
CREATE TABLE media (id VARCHAR(32) PRIMARY KEY, path VARCHAR(4096) NOT NULL UNIQUE, sha256 VARCHAR(64) NOT NULL,
  content_type VARCHAR(50) NOT NULL, fps FLOAT NOT NULL, num_frames INTEGER NOT NULL, width INTEGER NOT NULL,
  height INTEGER NOT NULL);
CREATE TABLE tasks (id INTEGER PRIMARY KEY, campaign_id INTEGER NOT NULL REFERENCES campaigns (id),
  prompt TEXT NOT NULL, fingerprint VARCHAR(64) NOT NULL, completed INTEGER NOT NULL, created_at FLOAT NOT NULL);
CREATE TABLE task_videos (task_id INTEGER NOT NULL REFERENCES tasks (id), position INTEGER NOT NULL,
  media_id VARCHAR(32) NOT NULL, PRIMARY KEY (task_id, position));
CREATE INDEX ix_tasks_open ON tasks (campaign_id, completed, id);
CREATE TABLE assignments (id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES tasks (id),
  user_id INTEGER NOT NULL REFERENCES users (id), permutation JSON NOT NULL, state VARCHAR(10) NOT NULL,
  assigned_at FLOAT NOT NULL, expires_at FLOAT NOT NULL);
CREATE TABLE judgements (id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
  dimension VARCHAR(50) NOT NULL, version INTEGER NOT NULL, ranks JSON, seconds FLOAT NOT NULL,
  comment TEXT NOT NULL, skip_reason TEXT NOT NULL, created_at FLOAT NOT NULL);
INSERT INTO users VALUES (1, 'ada', '', 'annotator', false, 5.0);
INSERT INTO campaigns VALUES (1, 'first', 2, '["overall"]', 5.0);
INSERT INTO tasks VALUES (1, 1, 'a circle', 'a', 2, 5.0), (2, 1, 'a square', 'b', 1, 5.0);
INSERT INTO judgements VALUES (1, 1, 1, 'overall', 1, '[1, 2]', 3.0, 'kept', '', 6.0)
"""

ROWS_OF_0006 = """
INSERT INTO users (name, password_hash, role, simulated, created_at)
  VALUES ('ada', '{password}', 'lead', false, 5.0);
INSERT INTO campaigns (name, overlap, dimensions, created_at) VALUES ('first', 2, '["overall"]', 5.0);
INSERT INTO media (id, path, sha256, content_type, fps, num_frames, width, height) VALUES
  ('one', '/videos/1.mp4', '1', 'video/mp4', 8.0, 8, 64, 64),
  ('two', '/videos/2.mp4', '2', 'video/mp4', 8.0, 8, 64, 64);
INSERT INTO tasks (campaign_id, prompt, fingerprint, completed, filled, created_at)
  VALUES (1, 'a circle', 'a', 1, false, 5.0);
INSERT INTO task_videos (task_id, position, media_id) VALUES (1, 0, 'one'), (1, 1, 'two');
INSERT INTO assignments (task_id, user_id, permutation, state, assigned_at, expires_at, token)
  VALUES (1, 1, '[1, 0]', 'done', 5.0, 6.0, 'token');
INSERT INTO judgements (task_id, user_id, dimension, version, ranks, seconds, comment, skip_reason, created_at)
  VALUES (1, 1, 'overall', 1, '[2, 1]', 3.0, 'kept', '', 6.0)
"""


def test_the_migrations_make_exactly_the_tables_of_the_models(database: str) -> None:
    Store(database).close()
    engine = create_engine(database_url(database))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert schema_version(connection) == NEWEST_VERSION
    engine.dispose()


def test_a_database_from_before_alembic_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in MEMORY_OF_FIRST_RELEASE.split(";"):
            connection.execute(text(statement))
    engine.dispose()
    with Store(url) as store, store.read() as session:
        assert [user.name for user in store.users()] == ["ada"]
        assert (store.campaign("first").tags, store.campaign("first").gold_feedback) == ([], False)
        rows = session.execute(text("SELECT comment, flag, guidelines_version, tags FROM judgements")).all()
        tasks = session.execute(text("SELECT kind, filled FROM tasks ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("kept", "", 0, None)]
    assert [tuple(row) for row in tasks] == [("normal", 1), ("normal", 0)]


def test_a_database_of_the_last_release_keeps_its_rows_and_goes_on(database: str) -> None:
    make_older(database, "0006", ROWS_OF_0006.format(password=hash_password("correct horse")))
    with Store(database) as store:
        ada = store.authenticate("ada", "correct horse")
        assert ada is not None
        assert (ada.role, ada.state, ada.language) == ("lead", "active", "")
        campaign = store.campaign("first")
        assert (campaign.overlap, campaign.tags, campaign.gold_feedback) == (2, [], False)
        assert [
            (judgement.ranks, judgement.comment, judgement.tags) for judgement in store.judgements("first")
        ] == [([2, 1], "kept", None)]
        with store.read() as session:
            assert session.execute(text("SELECT model FROM task_videos")).scalars().all() == [None, None]
            assert session.execute(text("SELECT remote_version FROM media")).scalars().all() == ["", ""]
        ben = store.add_user("ben")
        held = next_task(store, ben)
        assert held is not None
        submit(store, ben, held.assignment, {"overall": [1, 2]}, seconds=4.0)
        assert [(judgement.user.name, judgement.version) for judgement in store.judgements("first")] == [
            ("ada", 1),
            ("ben", 1),
        ]
        with store.read() as session:
            migrated = MigrationContext.configure(session.connection())
            assert compare_metadata(migrated, Base.metadata) == []


def test_the_migrations_are_a_chain_without_gaps() -> None:
    numbers = [path.name[1:5] for path in sorted((MIGRATIONS / "versions").glob("v*.py"))]
    assert numbers == [f"{number:04}" for number in range(1, int(NEWEST_VERSION) + 1)]
    for number, before in zip(numbers[1:], numbers, strict=False):
        (path,) = (MIGRATIONS / "versions").glob(f"v{number}_*.py")
        assert f'revision = "{number}"\ndown_revision = "{before}"\n' in path.read_text()


def test_a_database_of_a_newer_program_is_left_alone(database: str) -> None:
    with Store(database) as store, store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="install the newer vidalign"):
        Store(database)


def test_many_servers_may_start_at_once_on_an_empty_database(tmp_path: Path) -> None:
    def start(_: int) -> int:
        with Store(tmp_path / "new.db") as store:
            return len(store.users())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(start, range(6))) == [0] * 6


def test_a_server_that_is_not_there_is_one_sentence_without_the_password() -> None:
    with pytest.raises(InputError, match="cannot be opened") as caught:
        Store("postgresql://ada:secret@127.0.0.1:1/labels")
    assert "secret" not in str(caught.value)
