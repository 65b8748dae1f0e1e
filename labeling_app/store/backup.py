"""Backups of the labeling store, and moving a store from one kind of database to another.

A backup is an SQLite file with the rows of all tables at one moment, whatever database they come from; the
server may go on working meanwhile. Restoring copies the rows into an empty database of either kind, so the same
two steps also move a store from SQLite to PostgreSQL or back. Video files are not part of it, and neither are logins
and API tokens: everybody logs in again, and programs get new tokens.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, text

from generator.output import InputError, atomic_path, check_output_file
from labeling_app.store.database import (
    database_url,
    existing_database,
    open_database,
    removed_if_unused,
    schema_version,
    shown_url,
)
from labeling_app.store.integration_tables import ApiToken, Delivery
from labeling_app.store.people_tables import ProviderAttempt
from labeling_app.store.tables import Assignment, Base, ComputedResult, LoginSession, new_token

ROWS_AT_A_TIME = 1000
WRITE_AHEAD_LOG = b"\x02\x02"
"""Bytes 18 and 19 of an SQLite file whose journal is a write-ahead log (www.sqlite.org/fileformat.html)."""
NOT_COPIED = tuple(
    table.__tablename__ for table in (LoginSession, ProviderAttempt, ApiToken, Delivery, ComputedResult)
)
"""A copy knows no browser that is logged in to the original and no token, which may be revoked since, and sends nothing
that the original sends; results of campaigns it makes itself."""


def backup(database: str | Path, path: str | Path, overwrite: bool = False) -> int:
    """Writes a backup in one step and returns the number of its rows.

    Raises:
        InputError: the file exists and `overwrite` is not set, it is a folder or the database itself, or the
            database cannot be opened.
    """
    path = Path(path)
    url = existing_database(database)
    if path.is_file() and url.startswith("sqlite:///") and path.samefile(url.removeprefix("sqlite:///")):
        raise InputError(f"{path} is the database itself: name another file for its backup.")
    check_output_file(path, overwrite, _is_backup_at_rest, "a backup of the labeling app")
    source = open_database(url)
    try:
        with atomic_path(path) as temporary:
            target = open_database(database_url(temporary))
            with _snapshot(source.connect()) as reading, target.begin() as writing:
                count = _copy(reading, writing)
            target.dispose()
            with closing(sqlite3.connect(temporary)) as connection:
                # One file: nothing of it stays behind in a write-ahead log when it is renamed.
                connection.execute("PRAGMA journal_mode=DELETE")
    finally:
        source.dispose()
    return count


def restore(path: str | Path, database: str | Path) -> int:
    """Copies a backup into an empty database, in one transaction; returns the number of rows.

    Raises:
        InputError: there is no such backup, it is none, or the database has rows already.
    """
    if not Path(path).is_file():
        raise InputError(f"The backup {path} does not exist: correct the path.")
    if not _is_backup(Path(path)):
        raise InputError(
            f"{path} is not a backup of the labeling app: name a file that `label backup` wrote."
        )
    url = database_url(database)
    with removed_if_unused(url):
        return _restore(Path(path), url)


def _restore(path: Path, url: str) -> int:
    source, target = open_database(database_url(path)), open_database(url)
    try:
        with source.execution_options(reading=True).connect() as reading, target.begin() as writing:
            filled = [t.name for t in Base.metadata.sorted_tables if _count(writing, t.name)]
            if filled:
                raise InputError(
                    f"The database {shown_url(url)} has rows already (in {filled[0]}): restore into an empty one."
                )
            return _copy(reading, writing)
    finally:
        source.dispose()
        target.dispose()


def _is_backup(path: Path) -> bool:
    """Returns whether the file is an SQLite database with the tables of a store; nothing is written to it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'judgements'")
            return found.fetchone() is not None
    except sqlite3.Error:
        return False


def _is_backup_at_rest(path: Path) -> bool:
    """Returns whether the file is a backup and no database that a server works with, which has a write-ahead log."""
    with path.open("rb") as file:
        header = file.read(20)
    in_use = header[18:20] == WRITE_AHEAD_LOG
    return _is_backup(path) and not in_use


def _snapshot(connection: Connection) -> Connection:
    if connection.dialect.name == "sqlite":
        return connection.execution_options(reading=True)
    return connection.execution_options(isolation_level="REPEATABLE READ")


def _count(connection: Connection, table: str) -> int:
    return connection.scalar(select(func.count()).select_from(Base.metadata.tables[table])) or 0


def _copy(source: Connection, target: Connection) -> int:
    version = schema_version(source), schema_version(target)
    if version[0] != version[1]:
        raise InputError(f"The schemas differ ({version[0]} and {version[1]}): use one version of vidalign.")
    count = 0
    for table in Base.metadata.sorted_tables:
        if table.name in NOT_COPIED:
            continue
        # What a browser keeps of the original must not be taken for the copy's, where work goes on differently.
        renewed = table.name == Assignment.__tablename__
        for rows in source.execute(select(table)).mappings().partitions(ROWS_AT_A_TIME):
            target.execute(
                insert(table), [{**row, "token": new_token()} if renewed else dict(row) for row in rows]
            )
            count += len(rows)
        if target.dialect.name == "postgresql" and "id" in table.c and table.c.id.type.python_type is int:
            # Rows came with their ids, so the counter that gives out new ones has to catch up.
            target.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), GREATEST((SELECT max(id) FROM "
                    f"{table.name}), 1), EXISTS (SELECT 1 FROM {table.name}))"
                )
            )
    return count
