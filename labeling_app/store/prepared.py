"""Statements that run so often that SQLAlchemy's own work on each is most of their cost.

They are compiled once for each kind of database; then the driver alone runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, Delete, Dialect, Engine, Insert, PoolProxiedConnection, Select, Update
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError

Processor = Callable[[Any], Any]


@dataclass(frozen=True)
class Direct:
    """A connection of the pool on which each statement is a transaction of its own."""

    engine: Engine
    raw: PoolProxiedConnection


@contextmanager
def direct(engine: Engine) -> Iterator[Direct]:
    """A connection for single statements."""
    raw = engine.raw_connection()
    connection = cast(DBAPIConnection, raw.dbapi_connection)
    # SQLite's driver begins no transactions (`labeling_app.store.database`).
    switches = engine.dialect.name != "sqlite"
    try:
        if switches:
            engine.dialect.set_isolation_level(connection, "AUTOCOMMIT")
        yield Direct(engine, raw)
    finally:
        if switches and raw.is_valid:
            engine.dialect.reset_isolation_level(connection)
        raw.close()


@dataclass
class _Compiled:
    """A statement for one kind of database.

    Attributes:
        names: parameters in their order, where the driver takes them so; else None.
        values: of the parameters that are constants.
        inward: conversions of parameters, by name.
        returns: types of the columns; empty where it returns no rows.
        outward: conversions of columns, by place; None until the first rows tell the driver's types.
    """

    text: str
    names: tuple[str, ...] | None
    values: dict[str, Any]
    inward: dict[str, Processor]
    returns: tuple[Any, ...]
    outward: tuple[tuple[int, Processor], ...] | None = None

    def arguments(self, given: Mapping[str, Any]) -> Any:
        """The parameters as the driver takes them."""
        values = {**self.values, **given}
        for name, convert in self.inward.items():
            values[name] = convert(values[name])
        return values if self.names is None else tuple(values[name] for name in self.names)

    def rows(self, cursor: DBAPICursor, dialect: Dialect) -> list[tuple[Any, ...]]:
        """Rows of the driver as the types of the columns have them."""
        if not self.returns:
            return []
        rows: Sequence[Any] = cursor.fetchall()
        if self.outward is None:
            found_types = [column[1] for column in cursor.description or ()]
            kinds = [kind.dialect_impl(dialect) for kind in self.returns]
            converts = (
                kind.result_processor(dialect, each) for kind, each in zip(kinds, found_types, strict=True)
            )
            self.outward = tuple((place, each) for place, each in enumerate(converts) if each is not None)
        if not self.outward:
            return list(rows)
        found = []
        for row in rows:
            cells = list(row)
            for place, convert in self.outward:
                cells[place] = convert(cells[place])
            found.append(tuple(cells))
        return found


class Prepared:
    """A statement whose parameters are `bindparam`s.

    Args:
        statement: without lists of unknown length among its parameters.
        columns: of an INSERT, the columns that are parameters.
    """

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]] | Insert | Update | Delete,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.statement = statement
        self.columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection | Direct, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows that it returns; none of a statement that returns nothing.

        Raises:
            sqlalchemy.exc.DBAPIError: as SQLAlchemy's own ways of running it do.
        """
        raw = connection.raw if isinstance(connection, Direct) else connection.connection
        dialect = connection.engine.dialect
        compiled = self._compiled.get(dialect.driver) or self._compile(dialect)
        cursor = raw.cursor()
        try:
            cursor.execute(compiled.text, compiled.arguments(values))
            return compiled.rows(cursor, dialect)
        except dialect.loaded_dbapi.Error as error:
            raise _as_sqlalchemy(connection.engine, raw, compiled.text, error) from error
        finally:
            cursor.close()

    def first(self, connection: Connection | Direct, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def scalar(self, connection: Connection | Direct, values: Mapping[str, Any]) -> Any:
        """The first column of the first row, or None."""
        row = self.first(connection, values)
        return row[0] if row is not None else None

    def _compile(self, dialect: Dialect) -> _Compiled:
        compiled = self.statement.compile(dialect=dialect, column_keys=self.columns)
        inward = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in compiled.binds.items()
        }
        made = self._compiled[dialect.driver] = _Compiled(
            text=str(compiled),
            names=tuple(compiled.positiontup or ()) if compiled.positional else None,
            values={name: value for name, value in compiled.params.items() if value is not None},
            inward={name: convert for name, convert in inward.items() if convert is not None},
            returns=tuple(column.type for column in self.statement.exported_columns),
        )
        return made


def _as_sqlalchemy(engine: Engine, raw: PoolProxiedConnection, text: str, error: Exception) -> BaseException:
    """The error as SQLAlchemy raises it; the pool is renewed where the database went away."""
    dialect = engine.dialect
    lost = dialect.is_disconnect(cast(Any, error), cast(Any, raw), None)
    if lost:
        raw.invalidate(error)
        engine.dispose()
    return DBAPIError.instance(
        text,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )
