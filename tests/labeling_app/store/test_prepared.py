"""Prepared statements: the same rows, conversions and errors as by SQLAlchemy's own way."""

from __future__ import annotations

from typing import Any, cast

import pytest
from sqlalchemy import Table, bindparam, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from labeling_app.store.prepared import Prepared
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign, Task

CAMPAIGNS = cast(Table, Campaign.__table__)
BY_NAME = select(*CAMPAIGNS.columns).where(
    CAMPAIGNS.c.name == bindparam("wanted"), CAMPAIGNS.c.state == "open"
)
VALUES: dict[str, Any] = {
    "name": 'a "name" of 50 % with :colons',
    "project_id": None,
    "overlap": 3,
    "dimensions": ["overall", "motion"],
    "gold_share": 0.125,
    "repeat_share": 0.0,
    "daily_cap": 0,
    "quiz_size": 0,
    "quiz_pass": 0.7,
    "tags": ["dünn", "%s"],
    "gold_feedback": True,
    "state": "open",
    "created_at": 1_700_000_000.123456,
}


def test_rows_are_those_of_sqlalchemy(store: Store) -> None:
    adding = Prepared(insert(CAMPAIGNS).inline(), list(VALUES))
    with store.writing() as connection:
        assert adding.all(connection, VALUES) == []
    finding = Prepared(BY_NAME)
    for _ in range(4):  # PostgreSQL's driver prepares a statement from the third time on
        with store.single() as connection:
            row = finding.first(connection, {"wanted": VALUES["name"]})
            assert finding.first(connection, {"wanted": "none"}) is None
            assert finding.scalar(connection, {"wanted": "none"}) is None
        with store.read() as session:
            assert row == tuple(session.execute(BY_NAME, {"wanted": VALUES["name"]}).one())
        assert row is not None
        assert dict(zip(CAMPAIGNS.columns.keys(), row)) == {"id": row[0], **VALUES}


def test_a_transaction_that_fails_leaves_nothing_and_errors_are_those_of_sqlalchemy(store: Store) -> None:
    adding = Prepared(insert(CAMPAIGNS).inline(), list(VALUES))
    with pytest.raises(IntegrityError), store.writing() as connection:  # noqa: PT012
        adding.all(connection, VALUES)
        adding.all(connection, VALUES)
    assert store.campaigns() == []
    broken = Prepared(select(text("no_such_column")).select_from(Task))
    for _ in range(30):  # more often than there are connections: each comes back usable
        with pytest.raises(DBAPIError), store.single() as connection:
            broken.all(connection, {})
    with store.writing() as connection:
        adding.all(connection, VALUES)
    with store.single() as connection:
        assert Prepared(BY_NAME).first(connection, {"wanted": VALUES["name"]}) is not None
    assert store.campaign(VALUES["name"]).tags == VALUES["tags"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_after_the_database_was_started_again_one_request_fails_and_the_next_does_not(store: Store) -> None:
    counting = Prepared(select(CAMPAIGNS.c.id))
    with store.single() as first, store.single() as second:  # two connections in the pool
        counting.all(first, {})
        counting.all(second, {})
    with store.write() as session:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        session.execute(text(f"{others} WHERE datname = current_database() AND pid <> pg_backend_pid()"))
    lost = []
    for _ in range(4):
        try:
            with store.single() as connection:
                counting.all(connection, {})
        except DBAPIError as error:
            lost.append(error.connection_invalidated)
    assert lost in ([], [True])
