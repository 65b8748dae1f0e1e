"""Runs the migrations on the connection that `labeling_app.store.database.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from labeling_app.store.tables import Base

connection = context.config.attributes["connection"]
# SQLite's data definition is transactional too, once the driver does not commit by itself (see `database`).
context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
