"""Versions of the labeling store's schema, applied by `labeling_app.store.database.upgrade` through Alembic."""
