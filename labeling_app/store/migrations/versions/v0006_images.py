"""Tasks, and prompts to demonstrate, have images that their videos begin and end with."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = ("tasks", "demonstration_prompts")
COLUMNS = ("image_id", "last_image_id")


def upgrade() -> None:
    """Adds them; there are none in what is there."""
    # SQLite adds a column with a reference, but no constraint afterwards; this is the same on both databases.
    for table in TABLES:
        for column in COLUMNS:
            op.execute(
                f"ALTER TABLE {table} ADD COLUMN {column} VARCHAR(32) CONSTRAINT {table}_{column} REFERENCES media (id)"
            )
            op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    """Is not offered: it would drop the images that annotators have judged videos by."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
