"""Databases as older versions of vidalign have left them."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine

from labeling_app.store.database import MIGRATIONS, database_url


def make_older(database: str, version: str, rows: str) -> None:
    """Makes all tables anew as they are in a version of the schema, and fills them by statements of SQL."""
    engine = create_engine(database_url(database))
    with engine.begin() as connection:
        tables = MetaData()
        tables.reflect(connection)
        tables.drop_all(connection)
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, version)
        for statement in rows.split(";\n"):
            connection.exec_driver_sql(statement)
    engine.dispose()
