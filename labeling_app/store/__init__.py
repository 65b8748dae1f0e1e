"""The labeling store: tables, migrations, backups, and `Store`, the way in."""

from labeling_app.store import integration_tables
from labeling_app.store.store import Store

__all__ = ["Store", "integration_tables"]
