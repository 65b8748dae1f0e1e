"""Opening the database of the labeling store and bringing its schema up to date.

On SQLite the database runs in WAL mode and every writing transaction starts with `BEGIN IMMEDIATE`, so that a
decision ("is there room for one more annotator?") and the row that follows from it cannot be torn apart by
another process. On PostgreSQL rows are locked for the same purpose.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from generator.output import InputError

MIGRATIONS = Path(__file__).parent / "migrations"
FIRST_VERSION, NEWEST_VERSION = "0001", "0011"
_NETWORK_URL = re.compile(
    r"((?P<user>[^@/?#\[\]]*)@)?(?P<host>[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?P<port>:[^@/?#:]*)?"
    r"(?P<database>/[^?#@]*)?([?][^#@]*)?"
)
"""Part that follows `://`. Special characters of a user, a password or a query must be percent-encoded, so that nobody
has to guess where a part ends."""
MIGRATION_LOCK = 0x76_69_64_61_6C_69_67_6E
"""Key of the advisory lock under which one process at a time migrates a PostgreSQL database."""


def database_url(database: str | Path) -> str:
    """A SQLAlchemy URL from a URL or from the path of an SQLite file; `postgresql://` means psycopg 3.

    Raises:
        InputError: it looks like a URL, but is none.
    """
    given = str(database)
    for short in ("postgres://", "postgresql://"):
        if given.startswith(short):
            return "postgresql+psycopg://" + given.removeprefix(short)
    if _is_broken_url(given):
        raise InputError(
            f"The database {shown_url(given)} is neither a path nor a URL: a URL has ://, as in "
            "postgresql://user@host/labels."
        )
    return given if "://" in given else f"sqlite:///{given}"


def shown_url(url: str) -> str:
    """The URL as far as it is no secret: without user and password, query and fragment.

    Of a URL whose parts cannot be told apart for certain, only the kind of database is shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0]}:…" if _is_broken_url(url) else url
    if scheme.partition("+")[0] == "sqlite":
        return scheme + separator + re.split("[?#]", rest)[0]
    parts = _NETWORK_URL.fullmatch(rest)
    if parts is None:
        return f"{scheme}://…"
    user = "***@" if parts["user"] is not None else ""
    port = parts["port"] or ""
    port = port if re.fullmatch("(:[0-9]+)?", port) else ":…"
    return f"{scheme}://{user}{parts['host']}{port}{parts['database'] or ''}"


def shown_source(preferences: str) -> str:
    """A source of rankings as far as it is no secret: a path as it is, `db:URL#campaign` as `shown_url` shows it."""
    if not preferences.startswith("db:"):
        return preferences
    database, campaign = split_source(preferences)
    return f"db:{shown_url(database)}" + (f"#{campaign}" if campaign else "")


def split_source(preferences: str) -> tuple[str, str]:
    """Database and campaign of `db:URL#campaign`; the campaign is empty where none is named.

    The campaign's name may hold a `#` itself: the first one after an existing file, or after a URL of a server, ends
    the database.
    """
    source = preferences.removeprefix("db:")
    places = [place for place, character in enumerate(source) if character == "#"]
    if "://" not in source or source.startswith("sqlite"):
        for place in [*places, len(source)]:
            if Path(source[:place].removeprefix("sqlite:///")).is_file():
                return source[:place], source[place + 1 :]
    database, _, campaign = source.partition("#")
    return database, campaign


def _is_broken_url(database: str) -> bool:
    """Returns whether this was meant as the URL of a server, and not as a path."""
    kind = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", database)
    looks_like_one = kind is not None and ("@" in database or kind[1].startswith(("postgres", "sqlite")))
    return looks_like_one and "://" not in database and not Path(database).exists()


def open_database(url: str) -> Engine:
    """An engine on a database whose schema is the newest.

    Raises:
        InputError: the URL is not one, its driver is not installed, the database cannot be opened, or a newer
            version of vidalign made it.
    """
    with removed_if_unused(url):
        engine = _open_engine(url)
        try:
            upgrade(engine)
        except InputError:
            engine.dispose()
            raise
        except (SQLAlchemyError, ValueError, TypeError) as error:
            engine.dispose()
            raise InputError(
                f"The database {shown_url(url)} cannot be opened ({_without_secrets(first_line(error), url)}): "
                "check the path or URL and the permissions."
            ) from None
    return engine


def _without_secrets(message: str, url: str) -> str:
    """Complaint of a driver, without what the URL says of user, password and options."""
    parsed = make_url(url)
    given = [parsed.username, parsed.password, *parsed.query.values()]
    secrets = {part for value in given if value for part in ([value] if isinstance(value, str) else value)}
    for secret in sorted(secrets | {quote(part, safe="") for part in secrets}, key=len, reverse=True):
        if secret:
            message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", message)
    return message


def schema_version(connection: Connection) -> str | None:
    """The version of the schema; None for an empty database. Databases from before Alembic are the first."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return FIRST_VERSION if "judgements" in tables else None


def upgrade(engine: Engine) -> None:
    """Applies the missing migrations in one transaction; several processes may call this at once.

    Raises:
        InputError: the schema is newer than this program.
    """
    with engine.execution_options(reading=True).connect() as connection:
        version = schema_version(connection)
    if version == NEWEST_VERSION:
        return
    from alembic import command
    from alembic.config import Config

    if version is not None and version > NEWEST_VERSION:
        raise InputError(
            f"The database has schema {version}, but this vidalign knows schemas up to {NEWEST_VERSION}: "
            "install the newer vidalign."
        )
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        if schema_version(connection) is not None and "alembic_version" not in _tables(connection):
            command.stamp(config, FIRST_VERSION)
        command.upgrade(config, NEWEST_VERSION)


def _tables(connection: Connection) -> list[str]:
    return inspect(connection).get_table_names()


def first_line(error: Exception) -> str:
    """Complaint of a database driver, in its first line."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def existing_database(database: str | Path) -> str:
    """The URL of a database that is there: an SQLite file is not made.

    Raises:
        InputError: the URL is not one, or there is no such file.
    """
    url = database_url(database)
    if url.startswith("sqlite:///") and not Path(_parsed(url).database or "").is_file():
        shown = str(database) if "://" not in str(database) else shown_url(url).removeprefix("sqlite:///")
        raise InputError(f"There is no database {shown}: correct the path.")
    return url


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def is_new_file(url: str) -> bool:
    """Returns whether this is an SQLite database that does not exist yet."""
    file = sqlite_file(url)
    return file is not None and not file.exists()


def remove_unused(url: str) -> None:
    """Deletes an SQLite database into which nothing was put."""
    file = sqlite_file(url)
    if file is not None and file.is_file() and not _has_rows(file):
        for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
            file.with_name(name).unlink(missing_ok=True)


@contextmanager
def removed_if_unused(url: str) -> Iterator[None]:
    """Deletes an SQLite database again that a block made and failed to put anything into."""
    is_new = is_new_file(url)
    try:
        yield
    except BaseException:
        if is_new:
            remove_unused(url)
        raise


def _has_rows(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file)) as connection:
            names = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            return any(
                connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
                for name in names
                if name != "alembic_version"
            )
    except sqlite3.Error:
        return True


def _parsed(url: str) -> URL:
    """The parts of a URL.

    Raises:
        InputError: it is none. The message has nothing of it that may be secret.
    """
    is_network = not url.startswith("sqlite")
    try:
        parsed = make_url(url)
        if is_network and _NETWORK_URL.fullmatch(url.partition("://")[2]) is None:
            raise ArgumentError("its parts cannot be told apart")
        _ = parsed.port, parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        kind = (
            "there is no such kind"
            if isinstance(error, NoSuchModuleError)
            else "its parts cannot be told apart"
        )
        advice = (
            "give postgresql://user:password@host:5432/labels, with special characters of user and password as %40 "
            "for @, %3A for :, %2F for /, %23 for # and %3F for ?"
            if is_network
            else "give a path or, for example, sqlite:///labels.db"
        )
        raise InputError(f"{shown_url(url)} is not a database URL ({kind}): {advice}.") from None
    return parsed


def _open_engine(url: str) -> Engine:
    try:
        parsed = _parsed(url)
        if parsed.get_backend_name() != "sqlite":
            # No ping before each use: after a restart of the database one request fails, and the pool is renewed.
            return create_engine(
                parsed,
                pool_size=10,
                max_overflow=10,
                pool_recycle=1800,
                connect_args=_postgresql_options(parsed),
            )
        folder = Path(parsed.database or ".").parent
        if parsed.database in (None, "", ":memory:"):
            raise InputError(
                "The database is in memory, which threads and processes cannot share: name a file, for "
                "example sqlite:///labels.db."
            )
        if not folder.is_dir():
            raise InputError(f"The folder {folder} of the database does not exist: make it or name another.")
        if not Path(parsed.database).exists():
            Path(parsed.database).touch(0o666)  # SQLite would make a file that a shared group may not write
        engine = create_engine(parsed, connect_args={"timeout": 60.0, "check_same_thread": False})
    except InputError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(
            f"{shown_url(url)} is not a database URL ({_without_secrets(first_line(error), url)}): give a path or, for "
            "example, sqlite:///labels.db."
        ) from None
    except ModuleNotFoundError as error:
        advice = 'pip install "vidalign[postgresql]"' if error.name == "psycopg" else "install it with pip"
        raise InputError(
            f"The database driver {error.name!r} is not installed: {advice}, or use another URL."
        ) from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql_options(url: URL) -> dict[str, Any]:
    """Queries here are short and always the same: compiling them, or planning them anew, takes longer than they do."""
    if url.get_backend_name() != "postgresql" or url.get_driver_name() != "psycopg" or "options" in url.query:
        return {}
    return {"options": "-c jit=off -c plan_cache_mode=force_generic_plan", "prepare_threshold": 2}


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver must not start transactions by itself; `_begin_sqlite` does.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
