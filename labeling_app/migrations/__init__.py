"""Versions of the labeling store's schema, applied by `labeling_app.database.upgrade` through Alembic."""
